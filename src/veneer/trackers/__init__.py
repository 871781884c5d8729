"""Trackers: programs that draw and keep what runs tell, one a file. None of them can change anything of a run."""
