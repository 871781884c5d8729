"""From a trained adapter to something that others load: `export` is what `veneer export` and the Python API call."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from veneer.assistant import open_assistant, recorded_run
from veneer.config import ComputeSection, Method, QuantSection
from veneer.data.records import read_records
from veneer.errors import OutputError
from veneer.evaluation.scoring import RowScore
from veneer.evaluation.statistics import Comparison, compare
from veneer.exports.base import MergeBase, Trained, open_source
from veneer.exports.measure import Loss, Rows, Survival, beside, mean_loss, survival
from veneer.exports.merge import Written, write_merged
from veneer.hardware import resolve_device, resolve_dtype
from veneer.io.checkpoint import open_checkpoint
from veneer.io.files import atomic_folder, reported, write_text
from veneer.quant.linear import QuantConfig

RECORD_FILE = "merge.json"
UNMEASURED = (
    "merged into the dequantized 4-bit base, since the adapter was trained beside it; with evaluation rows (--data) "
    "this and the original base are both measured and the better is taken"
)
Progress = Callable[[str], None]
"""Told, in a few words, of what is done now."""


class Target(Enum):
    """What an adapter is exported to."""

    MERGED = "merged"
    """A Hugging Face directory with the adapter in the weights."""


class StoredDtype(Enum):
    """What the weights are written in."""

    AUTO = "auto"
    """As the base is stored, by its configuration; bfloat16 where that does not say."""
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@dataclass(frozen=True, slots=True)
class FourBits:
    """The merged model with its linear layers quantised again, as a program that loads it in 4 bits has it."""

    loss: Loss
    survival: Survival


@dataclass(frozen=True, slots=True)
class Measured:
    """Losses on the evaluation rows, all of the same rows and in the same compute dtype."""

    data: str
    rows: int
    base: float
    """The base, held as the adapter was trained beside it."""
    adapter: float
    """The adapter on it: what the merged model should reach."""
    merged: dict[str, Loss]
    """The merged model, by what it was merged into."""
    between: Comparison | None = None
    """Into the dequantized base (there called `base`) and into the original (called `adapter`)."""
    in_4_bits: FourBits | None = None
    """Of the merged model that was kept; for QLoRA adapters."""


@dataclass(frozen=True, slots=True)
class MergeRecord:
    """What was merged, and what is known about it; `merge.json` beside the weights."""

    model: str
    adapter: str
    output: str
    dtype: str
    merged_into: str
    """`original` or `dequantized` (see `MergeBase`)."""
    written: Written
    measured: Measured | None = None
    notes: list[str] = field(default_factory=list)
    to: str = Target.MERGED.value

    def to_json(self) -> dict[str, Any]:
        """The record as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Job:
    """What `export` was asked for."""

    model: str
    adapter: Path
    output: Path
    dtype: StoredDtype
    data: str | None
    limit: int | None
    trained: Trained
    compute: ComputeSection
    progress: Progress


def export(
    model: str,
    adapter: str | Path,
    output: str | Path,
    *,
    to: Target = Target.MERGED,
    dtype: StoredDtype = StoredDtype.AUTO,
    data: str | Path | None = None,
    limit: int | None = None,
    method: Method | None = None,
    compute: ComputeSection | None = None,
    progress: Progress = lambda what: None,
) -> MergeRecord:
    """Write an adapter and its base as one model.

    W + s · B A is summed in float32 or wider and rounded once. An adapter that was trained beside a 4-bit base may be
    merged into that base as it decodes, or into the original: with evaluation rows both are measured and the better
    is kept; without, it is the first.

    Args:
        model: the base: directory, GGUF file or hub id. It is only read.
        adapter: folder of an adapter, from veneer or PEFT.
        output: a folder that does not exist yet.
        to: the kind of export.
        dtype: of the weights.
        data: evaluation rows, on which base, adapter and merged model are measured.
        limit: take only the first rows.
        method: how the base was held in training; by default as the adapter's run recorded it, else as LORA.
        compute: device and dtype of the measuring.
        progress: told of what is done now.

    Raises:
        VeneerError: model, adapter or data cannot be used, or the output exists or cannot be written.
    """
    output, adapter = Path(output), Path(adapter)
    if output.exists():
        raise OutputError(f"{output} exists already; give a folder that does not, an export replaces nothing")
    compute = compute or ComputeSection()
    source = None if data is None else str(data)
    trained = _trained(adapter, method, compute)
    job = _Job(model, adapter, output, dtype, source, limit, trained, compute, progress)
    return TARGETS[to](job)


def _trained(adapter: Path, method: Method | None, compute: ComputeSection) -> Trained:
    run = recorded_run(adapter)
    quant = run.quant if run else QuantSection()
    recorded = run.compute if run else compute
    dtype = resolve_dtype(recorded.dtype, resolve_device(compute.device))
    quantized = (method or (run.method if run else Method.LORA)) is Method.QLORA
    return Trained(quantized, QuantConfig(block=quant.block, double_quant=quant.double_quant), dtype)


def _merge(job: _Job) -> MergeRecord:
    """Write every candidate, measure those, and keep the best."""
    checkpoint = open_checkpoint(job.model)
    dtype = _stored(job.dtype, checkpoint.config.get("torch_dtype") or checkpoint.config.get("dtype"))
    live = _measure_live(job)
    if not job.trained.quantized:
        candidates = [MergeBase.ORIGINAL]
    else:
        candidates = [MergeBase.DEQUANTIZED, *([MergeBase.ORIGINAL] if live else [])]
    with atomic_folder(job.output) as partial:
        written: dict[MergeBase, Written] = {}
        scores: dict[MergeBase, list[RowScore]] = {}
        for base in candidates:
            folder = partial / base.value
            with reported(folder):
                folder.mkdir()
            job.progress(f"merging into the {base.value} base")
            source = open_source(checkpoint, job.adapter, base, job.trained)
            written[base] = write_merged(folder, source, dtype)
            del source
            if live:
                job.progress(f"measuring the merge into the {base.value} base")
                scores[base] = live.rows.folder(folder)
        best = min(candidates, key=lambda base: mean_loss(scores[base]) if live else 0.0)
        measured = _measured(job, live, scores, best, partial / best.value) if live else None
        record = MergeRecord(
            model=job.model,
            adapter=str(job.adapter),
            output=str(job.output),
            dtype=str(dtype).removeprefix("torch."),
            merged_into=best.value,
            written=written[best],
            measured=measured,
            notes=[UNMEASURED] if job.trained.quantized and not live else [],
        )
        _keep(partial, partial / best.value)
        write_text(partial / RECORD_FILE, json.dumps(record.to_json(), indent=2) + "\n")
    return record


def _keep(folder: Path, chosen: Path) -> None:
    """Move the files of one candidate up, and delete the candidates."""
    with reported(folder):
        candidates = list(folder.iterdir())
        for file in chosen.iterdir():
            file.replace(folder / file.name)
        for candidate in candidates:
            shutil.rmtree(candidate)


@dataclass(frozen=True, slots=True)
class _Live:
    """Base and adapter as they were trained, measured."""

    rows: Rows
    base: list[RowScore]
    adapter: list[RowScore]


def _measure_live(job: _Job) -> _Live | None:
    if job.data is None:
        return None
    records = read_records(job.data)[: job.limit]
    method = Method.QLORA if job.trained.quantized else Method.LORA
    job.progress("measuring base and adapter")
    rows = Rows(records, job.compute)
    base, adapter = rows.live(open_assistant(job.model, adapter=job.adapter, method=method, compute=job.compute))
    return _Live(rows, base, adapter)


def _measured(
    job: _Job, live: _Live, scores: dict[MergeBase, list[RowScore]], best: MergeBase, folder: Path
) -> Measured:
    between, four_bits = None, None
    if job.trained.quantized:
        pair = compare(scores[MergeBase.DEQUANTIZED], scores[MergeBase.ORIGINAL])
        between = next(one for one in pair if one.name == "loss")
        job.progress("measuring the merged model in 4 bits")
        in_4_bits = live.rows.folder(folder, job.trained.quant)
        source = open_source(open_checkpoint(job.model), job.adapter, best, job.trained)
        four_bits = FourBits(beside(live.adapter, in_4_bits), survival(source, job.trained.quant))
    return Measured(
        data=str(job.data),
        rows=len(live.rows.records),
        base=mean_loss(live.base),
        adapter=mean_loss(live.adapter),
        merged={base.value: beside(live.adapter, found) for base, found in scores.items()},
        between=between,
        in_4_bits=four_bits,
    )


def _stored(dtype: StoredDtype, recorded: object) -> torch.dtype:
    kinds = {
        StoredDtype.FLOAT32: torch.float32,
        StoredDtype.BFLOAT16: torch.bfloat16,
        StoredDtype.FLOAT16: torch.float16,
    }
    if dtype is StoredDtype.AUTO:
        return next((kinds[kind] for kind in kinds if kind.value == recorded), torch.bfloat16)
    return kinds[dtype]


TARGETS: dict[Target, Callable[[_Job], MergeRecord]] = {Target.MERGED: _merge}
"""What makes each kind of export."""
