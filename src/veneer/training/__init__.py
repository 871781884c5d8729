"""The training engine: one loop, whatever is trained."""
