"""Generation: sequences that join and leave a batch at any step, and text that streams."""
