"""Utilities of the whole package: files, pictures, drawing, errors, progress bars, MATLAB files, programs."""
