"""The output folder of a run: locked, resumed from, and verified."""
