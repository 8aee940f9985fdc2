"""How good a trained model is: on stills, videos, meshes, rough boxes, and beside other models."""
