"""The states, settings and curves of runs, read from their folders again and again while the runs continue."""
