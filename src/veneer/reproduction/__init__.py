"""A run that is repeated from its `run.lock`: the same bytes, or the differences."""
