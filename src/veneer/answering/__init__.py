"""Answers outside of a server: to the questions of a file, and by a server elsewhere."""
