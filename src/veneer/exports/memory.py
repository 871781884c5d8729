"""The memory of an export: the most that writing and comparing it needs.

Whole models are held only for comparison, in float32: the live adapter, then the merged model as it should be, then
what each program reads of the export, one after another. Mapped files count too. No export of benchmarks/task_memory.py
needed more than the constants give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from veneer.exports.request import Target
from veneer.io.checkpoint import Checkpoint
from veneer.planning.memory import MB, libraries

START = 350 * MB
"""Resident memory of an export's process before it reads a model, without `libraries`."""
OTHERS = 200 * MB
"""The memory of transformers and PEFT, which read an export back."""
READ_BY_OTHERS = frozenset({Target.PEFT, Target.MERGED})
WITHOUT_BASE = frozenset({Target.PEFT, Target.GGUF_ADAPTER})
"""Exports that leave the base out, so none of its tensors is compared."""
COPIES = {
    Target.PEFT: 2.0,
    Target.MERGED: 2.5,
    Target.MERGED_4BIT: 3.0,
    Target.GGUF: 3.0,
    Target.GGUF_ADAPTER: 1.0,
}
"""Copies of the model in float32 that are in memory at a time while an export is compared with its adapter."""
SHARE_HELD = 0.5
"""A base that an adapter is merged into, as a share of the model in float32: it is packed, or stays in its files."""
TENSOR_COPIES = 12
"""Copies of the largest tensor in float32 while it is compared, most of them in float64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportMemory:
    """The most bytes that an export needs, with its process."""

    whole: int
    """The bytes if the answers of the export are compared too."""
    tensors: int
    """The bytes if only tensors are compared, because the model does not fit in float32."""


def float32_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of a model's weights in float32."""
    return sum(4 * math.prod(checkpoint.shape(name)) for name in checkpoint.names())


def export_memory(checkpoint: Checkpoint, target: Target) -> ExportMemory:
    """The memory that an export needs.

    Args:
        checkpoint: the base's files.
        target: the kind of the export.
    """
    model = float32_bytes(checkpoint)
    largest = max(4 * math.prod(checkpoint.shape(name)) for name in checkpoint.names())
    began = START + libraries()
    start = began + (OTHERS if target in READ_BY_OTHERS else 0)
    compared = 0 if target in WITHOUT_BASE else TENSOR_COPIES * largest
    tensors = began + int(SHARE_HELD * model) + compared
    return ExportMemory(whole=max(tensors, start + int(COPIES[target] * model)), tensors=tensors)
