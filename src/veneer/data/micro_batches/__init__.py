"""Steps and micro-batches: which examples they hold, and how these are packed."""
