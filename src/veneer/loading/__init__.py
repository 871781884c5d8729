"""Loading a model from files: the tensors that must exist, their forms in memory, and reading them."""
