"""The memory of a training step: what is kept, and what happens where a step does not fit."""
