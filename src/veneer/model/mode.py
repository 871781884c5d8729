"""The mode of a model: dropout is drawn only in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from veneer.model.language import LanguageModel


@contextmanager
def evaluation_mode(model: LanguageModel) -> Iterator[None]:
    """Within the block the model computes in evaluation mode; afterwards, in its earlier mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
