"""Who computes a model: veneer's own decoder, or transformers behind the same face."""
