"""One decoder for the dense families: tokens, positions and an attention layout in, hidden states out."""
