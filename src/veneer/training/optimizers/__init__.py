"""Optimisers over named parameters: one rule a file, and what holds their states (`base`)."""
