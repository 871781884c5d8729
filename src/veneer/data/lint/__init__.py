"""Checks of a data file: one check a file in `checks/`, all of them in `registry`, run over every row by `run`."""
