"""Reward models: their scores, and their use as rewards of a run."""
