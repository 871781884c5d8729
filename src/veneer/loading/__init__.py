"""Loading a model from files: which tensors there must be, the forms that they take in memory, and reading them."""
