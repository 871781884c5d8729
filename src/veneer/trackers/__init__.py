"""Trackers: programs that draw and keep the reports of runs, one a file. None of them can affect a run."""
