"""A trained adapter in other forms: for now, a whole model with the adapter merged into its weights."""
