"""Rendered faces and videos: the data that needs no download."""
