"""Trained models at work: any form loaded, faces found, followed and written."""
