"""LoRA: a trainable low-rank update beside frozen linear layers, and its files."""
