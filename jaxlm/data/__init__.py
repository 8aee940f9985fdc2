"""Data: annotated faces as published or rendered, prepared once, cropped, augmented and batched."""
