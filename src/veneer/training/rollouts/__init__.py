"""Answers that a run samples from its own model: their steps, their rewards, and the objective over them."""
