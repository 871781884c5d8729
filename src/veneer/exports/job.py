"""What `export` was asked for, and what every kind of export gives back for its certificate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor

from veneer.assistant import Assistant, recorded_run
from veneer.backends.load import describe_hf
from veneer.config import ComputeSection, QuantSection
from veneer.enums import Backend, Method
from veneer.exports.base import Trained
from veneer.exports.prompts import Rows
from veneer.exports.readers import Reader
from veneer.exports.record import ExportRecord
from veneer.exports.tensors import Tensors
from veneer.hardware import resolve_device, resolve_dtype
from veneer.io.checkpoint import Checkpoint
from veneer.io.model_files import DTYPES, recorded_dtype
from veneer.load import stored_quantisation
from veneer.model.spec import spec_from_hf

Progress = Callable[[str], None]
"""Told, in a few words, of what is done now."""


class StoredDtype(Enum):
    """What the weights are written in."""

    AUTO = "auto"
    """As the base is stored, by its configuration; bfloat16 where that does not say."""
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@dataclass(frozen=True, slots=True)
class Job:
    """What `export` was asked for."""

    model: str
    checkpoint: Checkpoint
    adapter: Path
    output: Path
    to: str
    """A `Target`."""
    dtype: torch.dtype
    quant: str | None
    """Of a GGUF file: what its matrices are written in."""
    rows: Rows | None
    """Evaluation rows, for the certificate and for measuring."""
    measuring: bool
    """Whether losses were asked for: by rows that the user gave."""
    limit: int | None
    trained: Trained
    backend: Backend
    """Who computes the model."""
    compute: ComputeSection
    progress: Progress

    @property
    def device(self) -> torch.device:
        """Where the certificate is computed."""
        return resolve_device(self.compute.device)

    @property
    def method(self) -> Method:
        """How the base was held when the adapter was trained."""
        return Method.QLORA if self.trained.quantized else Method.LORA


@dataclass(frozen=True, slots=True)
class Checks:
    """What an export's certificate compares."""

    reference: Callable[[], Assistant]
    """Makes the live adapter, in float32."""
    readers: tuple[Reader, ...]
    expected: Callable[[], Iterable[tuple[str, Tensor]]]
    """Every tensor as it should stand there."""
    found: Callable[[], Tensors]
    """What stands there."""
    notes: tuple[str, ...] = ()
    """Readers that are not asked, and why."""
    opened: bool = False
    """Whether texts are compared behind the tokenizer's `opening`, as they stand in conversations."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of export."""

    write: Callable[[Job, Path], ExportRecord]
    """Writes into an existing folder."""
    checks: Callable[[Job, Path, ExportRecord], Checks]
    """What to compare of what stands in a folder."""


def trained_how(
    adapter: Path, checkpoint: Checkpoint, method: Method | None, compute: ComputeSection, backend: Backend
) -> Trained:
    """How the base was held when the adapter was trained: as asked, else as its run recorded it, else as LORA."""
    run = recorded_run(adapter)
    recorded = run.compute if run else compute
    dtype = resolve_dtype(recorded.dtype, resolve_device(compute.device))
    if backend is Backend.HF:
        _, stored = describe_hf(checkpoint)
    else:
        stored = stored_quantisation(checkpoint, spec_from_hf(checkpoint.config))
    if stored is not None:
        return Trained(True, stored, dtype)
    quantized = (method or (run.method if run else Method.LORA)) is Method.QLORA
    return Trained(quantized, run.quant if run else QuantSection(), dtype)


def stored_dtype(dtype: StoredDtype, checkpoint: Checkpoint) -> torch.dtype:
    """The dtype to write in."""
    if dtype is StoredDtype.AUTO:
        return recorded_dtype(checkpoint.config) or torch.bfloat16
    return DTYPES[dtype.value]


def name_of(dtype: torch.dtype) -> str:
    """A dtype's name without its library's."""
    return str(dtype).removeprefix("torch.")
