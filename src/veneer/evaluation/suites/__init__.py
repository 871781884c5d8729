"""Generated tasks that show which abilities a model lost in training: each item is made from its number alone."""
