"""The teacher of a distillation."""
