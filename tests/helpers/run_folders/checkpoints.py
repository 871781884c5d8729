"""A run that has left three checkpoints, without the rest of a run."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.run_folder import RunFolder
from veneer.training.folder.checkpoint import CheckpointStore
from veneer.training.folder.progress import Progress
from veneer.training.optimizers.adamw import AdamW
from veneer.training.optimizers.base import Optimizer, RuleOptimizer
from veneer.training.trainable import AdapterTraining, Trainable

FILES = ["adapter_config.json", "adapter_model.safetensors", "manifest.json", "optimizer.safetensors", "state.json"]
IDENTITY = {"lora.rank": 2, "data digest": "abc"}


def adapter(model_path: Path) -> Trainable:
    model = load_model(open_checkpoint(model_path), Loading(dtype=torch.float32))
    return AdapterTraining(inject(model, LoraSpec(rank=2, alpha=4.0, target_modules=("q_proj",))), str(model_path))


def optimizer_of(trainable: Trainable) -> RuleOptimizer:
    return RuleOptimizer(trainable.named(), AdamW((0.9, 0.999)), weight_decay=0.0)


def move(trainable: Trainable, optimizer: Optimizer, step: int) -> None:
    """One step with gradients that follow from its number."""
    generator = torch.Generator().manual_seed(step)
    for parameter in trainable.named().values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step(0.01)


def state_of(trainable: Trainable, optimizer: Optimizer) -> dict[str, torch.Tensor]:
    weights = {name: p.detach().clone() for name, p in trainable.named().items()}
    return weights | {name: tensor.clone() for name, tensor in optimizer.tensors().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Saved:
    """A run with checkpoints after steps 1, 2 and 3, and the state at each."""

    def __init__(self, root: Path, model: Path, *, keep: int = 3, make: Callable[[Path], Trainable] = adapter):
        self.model, self.make = model, make
        self.store = CheckpointStore(RunFolder(root), keep=keep, identity=IDENTITY)
        trainable = make(model)
        optimizer = optimizer_of(trainable)
        self.states = {}
        for step in (1, 2, 3):
            move(trainable, optimizer, step)
            self.store.save(Progress(step=step, tokens=10 * step, seconds=0.5), trainable, optimizer)
            self.states[step] = state_of(trainable, optimizer)

    def copied(self, root: Path) -> Saved:
        """The same run in another folder, which may be damaged."""
        shutil.copytree(self.store.folder.checkpoints, root / "checkpoints")
        other = copy.copy(self)
        other.store = CheckpointStore(RunFolder(root), keep=self.store.keep, identity=IDENTITY)
        return other

    def restored(self, **identity: Any) -> tuple[Progress, dict[str, torch.Tensor], list[str]]:
        trainable = self.make(self.model)
        optimizer = optimizer_of(trainable)
        warnings: list[str] = []
        store = CheckpointStore(self.store.folder, keep=3, identity={**IDENTITY, **identity})
        progress = store.restore(trainable, optimizer, warnings.append)
        return progress, state_of(trainable, optimizer), warnings
