"""Optimisers over named parameters: one rule a file, and the holder of their states (`base`)."""
