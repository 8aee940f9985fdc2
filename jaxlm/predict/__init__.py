"""Prediction with trained models: loads them, finds and tracks faces, and writes the results."""
