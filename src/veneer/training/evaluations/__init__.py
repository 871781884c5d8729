"""Evaluations during a run: losses, answers, samples, and the best of them."""
