"""Language models: veneer's own decoder with its families, and models that transformers computes."""
