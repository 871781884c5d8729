"""What a run needs, predicted from its configuration alone: memory, time and disk, and the micro-batch that fits a
limit best."""
