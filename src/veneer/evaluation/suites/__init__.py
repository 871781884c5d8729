"""Generated tasks that show what training has taken from a model: each item is made from its number alone."""
