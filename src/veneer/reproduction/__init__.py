"""A run made again from its `run.lock`: the same bytes, or what differs."""
