"""Measurements of speed, memory and accuracy, one command: python -m benchmarks."""
