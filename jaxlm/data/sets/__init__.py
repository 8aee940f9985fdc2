"""Data sets, one module each, with its reader and its TFDS builder."""
