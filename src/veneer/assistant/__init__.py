"""Models that answer: what is asked for, how it is loaded, and conversations with it."""
