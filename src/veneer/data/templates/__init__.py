"""Chat templates: rendered in a process with limits, with the trained characters marked."""
