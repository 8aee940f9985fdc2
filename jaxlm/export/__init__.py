"""Trained models for use elsewhere: parameters, StableHLO, ONNX."""
