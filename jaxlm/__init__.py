"""Face alignment in JAX."""
