"""A judge: another model says which of two answers is better, in both orders."""
