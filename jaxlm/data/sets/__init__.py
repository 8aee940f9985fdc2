"""The data sets that are published, one module each: its reader and its TFDS builder."""
