"""Rendered faces and videos, which need no download."""
