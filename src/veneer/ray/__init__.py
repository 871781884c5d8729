"""veneer on a Ray cluster: `train_loop` for Ray Train, and what `--on` spreads over the nodes."""

from veneer.ray.train import train_loop as train_loop
