"""`run.lock`: everything that determines a run's bytes, written next to its result.

On a processor of the same type, with the same versions and number of threads, a run of the same configuration over the
same base, tokenizer and data makes the same bytes; `veneer reproduce` checks it. The lock records what such a check
needs, with the SHA-256 of whole files.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from veneer.backends.base import capabilities_of
from veneer.config import RunConfig
from veneer.data.files.sources import RunFiles, run_files
from veneer.data.rows import Rows
from veneer.enums import ObjectiveName, Publish
from veneer.errors import CheckpointError, reading
from veneer.gpu.dispatch import triton_choice
from veneer.io.digests import BackgroundDigests, file_key, sha256
from veneer.io.files import write_text
from veneer.io.tokenizer import Tokenizer
from veneer.machine.hardware import processor
from veneer.machine.system import processor_name
from veneer.native.library import REVISION, used_variant
from veneer.rewards.build import reward_files
from veneer.run_folder import LOCK_FILE, RunFolder
from veneer.runtime.signals import stop_signalled
from veneer.text.strict_json import to_text
from veneer.training.folder.progress import Progress
from veneer.training.from_adapter import adapter_digests
from veneer.training.teaching.teacher import teacher_digests

FORMAT = 1
PACKAGES = ("veneer", "torch", "numpy", "safetensors", "tokenizers", "jinja2", "gguf")
"""The packages whose version can change a bit of the result."""


class InputDigests:
    """Digests of the files that a run reads, made in the background while it trains.

    The run starts without waiting for them, and a large base delays only the first checkpoint.

    Args:
        base: the model's files.
        tokenizer: the run's tokenizer.
        config: the configuration, which names the files that judge answers.
        files: the files of the rows; None in a process that has read none, which finds them again.
    """

    def __init__(self, base: list[Path], tokenizer: Tokenizer, config: RunConfig, files: RunFiles | None):
        self._tokenizer = tokenizer
        self._data = BackgroundDigests(data_files(config, files))
        self.base_keys = {file.name: list(file_key(file)) for file in base}
        """The key of every file of the model, from its metadata (`veneer.io.digests.file_key`), by name."""
        self._base = BackgroundDigests({file.name: file for file in base})

    def base_in_time(self) -> dict[str, str] | None:
        """The digests of `base`; None if a signal came before large files were hashed."""
        return self.base() if self._data.in_time(stop_signalled) and self._base.in_time(stop_signalled) else None

    def base(self) -> dict[str, str]:
        """The SHA-256 of every file of the model, by name.

        Raises:
            CheckpointError: a file can no longer be read.
        """
        return _result(self._base)

    def data(self) -> dict[str, str]:
        """The SHA-256 of the files of rows, by their key in the configuration.

        Raises:
            CheckpointError: see `base`.
        """
        return _result(self._data)

    def tokenizer(self) -> str:
        """A digest of the tokenizer's behaviour: its vocabulary and rules, and the chat template."""
        return self._tokenizer.digest()


def _result(digests: BackgroundDigests) -> dict[str, str]:
    try:
        return digests.result()
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read for {LOCK_FILE}: {error.strerror}") from error


def data_files(config: RunConfig, files: RunFiles | None = None) -> dict[str, Path]:
    """The files of rows, of Python rewards and of reward models, by their key in the configuration.

    Args:
        config: the run.
        files: the run's files of rows, if they were found before.

    Raises:
        DataError: a pattern matches no file, or a dataset is not available.
    """
    by_key = (run_files(config.data) if files is None else files).by_key
    return by_key | reward_files(config.rewards)


@dataclass(frozen=True, slots=True)
class Environment:
    """Everything besides the inputs that determines a run's bytes."""

    versions: dict[str, str]
    device: str
    processor: str
    """The processor features that determine how something is computed."""
    name: str
    """The maker's name for the processor."""
    threads: int
    kernels: str


def _native_kernels() -> str:
    variant = used_variant()
    return "torch" if variant is None else f"{variant}, revision {REVISION}"


def environment(device: torch.device, config: RunConfig) -> Environment:
    """The environment that computes a run here."""
    packages = (*PACKAGES, *capabilities_of(config.backend).packages)
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    threads = config.compute.threads or torch.get_num_threads()
    if device.type == "cuda":
        name, kernels = processor(device), "triton" if triton_choice(device).used else "torch"
    else:
        name, kernels = processor_name() or platform.machine(), _native_kernels()
    return Environment(versions, device.type, processor(device), name, threads, kernels)


def _sources(rows: Rows) -> dict[str, Any]:
    """The weighted sources of rows: the number of their training rows, and how many of these an epoch holds."""
    if not rows.sources or rows.files is None:
        return {}
    named = zip(rows.files.train, rows.sources, strict=True)
    return {
        "sources": [
            {"file": file.key, "weight": file.weight, "rows": source.rows, "rows_in_epoch": source.in_epoch}
            for file, source in named
        ]
    }


def holds_result(folder: RunFolder, step: int, publish: Publish) -> bool:
    """Whether a folder holds the complete result of a run, and its `run.lock`.

    Args:
        step: the step after which the run has ended.
        publish: the weights that become the result.

    Raises:
        CheckpointError: a file of the result exists but cannot be read, which does not mean that it is damaged.
    """
    try:
        lock = json.loads(folder.lock_file.read_text(encoding="utf-8"))
        locked = lock["steps"], lock["config"]["train"]["publish"], lock["result"]
        reached = json.loads(folder.summary_file.read_text(encoding="utf-8"))["step"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return False
    if reached != step or not (folder.config_file.is_file() and folder.curve_file.is_file()):
        return False
    expected = step, publish.value, _digests(folder)
    return bool(locked == expected)


def _digests(folder: RunFolder) -> dict[str, str]:
    """The SHA-256 of every file of the result, by name.

    Raises:
        CheckpointError: a file cannot be read.
    """
    with reading(CheckpointError):
        return {name: sha256(file) for name, file in folder.results.items()}


def write_lock(
    folder: RunFolder,
    config: RunConfig,
    inputs: InputDigests,
    rows: Rows,
    device: torch.device,
    progress: Progress,
    *,
    parts: int = 1,
) -> None:
    """Write `run.lock` into the folder of a finished run.

    Args:
        folder: the folder of the run, with its result and its events.
        config: the configuration with everything resolved.
        inputs: the digests that were made during the run.
        rows: the rows that were trained.
        device: the device that computed the run.
        progress: the position at which the run ended.
        parts: the number of processes that the weights were divided among.

    Raises:
        OutputError: `run.lock` cannot be written.
        CheckpointError: a file that the run read can no longer be read.
    """
    here = environment(device, config)
    resumed = [int(str(event["resumed_at"])) for event in folder.each_event() if event["event"] == "RunStarted"]
    schedules = [{"from_step": done, "steps": steps} for done, steps in progress.schedules]
    lock: dict[str, Any] = {
        "format": FORMAT,
        "versions": here.versions,
        "hardware": {
            "device": here.device, "processor": here.processor, "name": here.name, "threads": here.threads,
            "kernels": here.kernels, **({"processes": parts} if parts > 1 else {}),
        },
        "base": {"model": config.model, "revision": config.revision, "files": inputs.base()},
        **({"adapter": adapter_digests(config)} if config.train.from_adapter is not None else {}),
        **({"teacher": teacher_digests(config)} if config.objective is ObjectiveName.DISTILLATION else {}),
        "tokenizer": inputs.tokenizer(),
        "data": {
            "files": inputs.data(), "rows": rows.row_counts[0], "evaluation_rows": rows.row_counts[1],
            **({"examples": rows.count, "evaluation_examples": rows.eval_count} if any(rows.further) else {}),
            "digest": rows.digest(), **_sources(rows),
        },
        "seed": config.train.seed,
        "steps": progress.step,
        "resumed_at": [step for step in resumed if step],
        **({"schedules": schedules} if len(schedules) > 1 else {}),
        **({"micro_batches": progress.micro_batches} if progress.micro_batches else {}),
        **({"loss_scales": progress.loss_scales} if progress.loss_scales else {}),
        **({"skipped": progress.skipped} if progress.skipped else {}),
        "config": config.model_dump(mode="json"),
        "result": _digests(folder),
    }  # fmt: skip
    write_text(folder.lock_file, to_text(lock, indent=2, ensure_ascii=False) + "\n")
