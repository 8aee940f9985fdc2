"""Evaluation of trained models on stills, videos, 3D meshes and inexact boxes, and comparison of models."""
