"""What a run will take, from a configuration alone: memory, time and disk, and the cut that fits a limit best."""
