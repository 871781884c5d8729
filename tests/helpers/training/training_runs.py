"""Short runs of every method, and how a test starts, stops and compares them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from helpers.models.tiny import run_config
from veneer.config import to_yaml
from veneer.events import Subscriber, ignore
from veneer.model.language import LanguageModel
from veneer.training.build import base_model, trainable_of
from veneer.training.run_inputs import RunInputs
from veneer.training.trainable import Trainable

WEIGHTS = {"lora": "adapter_model.safetensors", "qlora": "adapter_model.safetensors", "full": "model.safetensors"}
SETTINGS = {
    "lora": ("method=lora", "lora.dropout=0.1"),
    "qlora": ("method=qlora",),
    "full": ("method=full", "train.learning_rate=0.001"),
}
LONG = ("train.epochs=3", "train.save_every=1", "data.held_out=0.2", "train.eval_every=2")
"""16 rows to train on, in 2 steps an epoch: 6 steps."""


def options(model: Path, data: Path, output: Path, *assignments: str) -> list[str]:
    config = run_config(model, data, output, *assignments)
    file = output.with_suffix(".yaml")
    file.write_text(to_yaml(config))
    return ["train", "--config", str(file)]


def built(inputs: RunInputs, emit: Subscriber = ignore) -> tuple[LanguageModel, Trainable]:
    """The model of a run, loaded, and what is trained on it."""
    model = base_model(inputs, emit)
    return model, trainable_of(model, inputs)


def weights(folder: Path, method: str) -> bytes:
    return (folder / WEIGHTS[method]).read_bytes()


def stopping_after(step: int) -> Callable[[], bool]:
    """A request to stop, which comes when so many steps are done."""
    seen = 0

    def stop() -> bool:
        nonlocal seen
        seen += 1
        return seen >= step

    return stop
