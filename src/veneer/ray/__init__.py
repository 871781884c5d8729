"""veneer on a Ray cluster: `train_loop` for Ray Train, and the distribution of commands over the nodes by `--on`."""

from veneer.ray.train import train_loop as train_loop
