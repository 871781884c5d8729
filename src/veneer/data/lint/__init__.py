"""Checks of a data file: each is a module in `checks/`; `registry` lists them, and `run` applies them to every row."""
