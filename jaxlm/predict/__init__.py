"""Trained models at work: any form loaded, faces found, followed and written."""

from jaxlm.predict.predictor import Face, Predictor

__all__ = ["Face", "Predictor"]
