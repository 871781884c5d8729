"""Chat templates: rendered in a process with limits, with the characters that train."""
