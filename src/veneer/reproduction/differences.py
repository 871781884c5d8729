"""The differences between a run and its repetition: in the environment, the inputs and the results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from veneer.errors import CheckpointError
from veneer.event_log import by_step
from veneer.run_folder import RunFolder
from veneer.step_values import StepValues
from veneer.training.folder.lock import Environment


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """One tensor of two results."""

    name: str
    numbers: int
    """The number of elements that differ."""
    of: int
    largest: float
    """The largest difference between two elements."""


def environments(lock: Mapping[str, Any], here: Environment) -> list[str]:
    """The differences between the environments here and there, a line for each."""
    then_versions, then = dict(lock["versions"]), dict(lock["hardware"])
    pairs = [(name, then_versions.get(name), here.versions.get(name)) for name in {**then_versions, **here.versions}]
    for key in ("device", "processor", "threads", "kernels"):
        pairs.append((key, then.get(key), getattr(here, key)))
    if then.get("processor") != here.processor:
        pairs.append(("processor's name", then.get("name"), here.name))
    lines = [f"{name}: {there} then, {now} now" for name, there, now in pairs if there != now]
    processes = then.get("processes", 1)
    if processes != 1:
        lines.append(f"processes: {processes} then, each with a part of the weights, 1 now: the same up to rounding")
    return lines


def tensors(then: Path, now: Path) -> tuple[int, list[TensorDifference]]:
    """Compare two safetensors files. Returns the number of tensors, and those that differ, the largest difference
    first.

    A tensor that only one of them has, or that has another shape, differs in all of its numbers and by infinity.

    Raises:
        CheckpointError: one of them is damaged.
    """
    found = []
    try:
        with safe_open(then, framework="pt") as first, safe_open(now, framework="pt") as second:
            ours, theirs = set(first.keys()), set(second.keys())
            for name in sorted(ours | theirs):
                if name not in ours or name not in theirs:
                    size = (first if name in ours else second).get_tensor(name).numel()
                    found.append(TensorDifference(name, size, size, float("inf")))
                    continue
                a, b = first.get_tensor(name), second.get_tensor(name)
                if a.shape != b.shape:
                    found.append(TensorDifference(name, a.numel(), a.numel(), float("inf")))
                elif not bool((a == b).all()):
                    largest = float((a.double() - b.double()).abs().max())
                    found.append(TensorDifference(name, int((a != b).sum()), a.numel(), largest))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{then} and {now} cannot be compared: {error}") from error
    return len(ours | theirs), sorted(found, key=lambda one: -one.largest)


def first_step(then: Path, now: Path) -> int | None:
    """The first step with a different loss; None if all losses that both runs logged are equal."""
    first, second = _losses(then), _losses(now)
    return min((step for step in first.keys() & second.keys() if first[step] != second[step]), default=None)


def _losses(folder: Path) -> StepValues:
    return by_step(RunFolder(folder).each_event(), "StepDone", "loss")
