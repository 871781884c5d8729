"""Steps and micro-batches: their examples, and how these are packed."""
