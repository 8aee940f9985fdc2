"""Faces in three dimensions: morphable models, their files and parameters, fits, the rasteriser, meshes, scans."""
