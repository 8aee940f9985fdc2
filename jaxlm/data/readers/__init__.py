"""Readers of annotation files: files of points, tables (CSV, COCO JSON), NumPy arrays."""
