"""Scoring models on rows, and saying how sure a difference is."""
