"""Programs: one module each, with its options as a dataclass and a `main` that Python can call."""
