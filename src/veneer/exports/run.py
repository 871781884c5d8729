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
from veneer.backends.choose import backend_of
from veneer.backends.load import describe_hf
from veneer.config import ComputeSection, QuantSection
from veneer.data.records import read_records
from veneer.errors import ConfigError, OutputError
from veneer.evaluation.scoring import RowScore
from veneer.evaluation.statistics import Comparison, compare
from veneer.exports.base import MergeBase, Trained, open_source
from veneer.exports.hf import open_hf_source, write_merged_hf
from veneer.exports.measure import Loss, Rows, Survival, beside, mean_loss, survival
from veneer.exports.merge import Written, write_merged
from veneer.hardware import resolve_device, resolve_dtype
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.io.files import atomic_folder, reported, write_text
from veneer.load import stored_quantisation
from veneer.model.spec import spec_from_hf
from veneer.options import Backend, Method, Scheme

RECORD_FILE = "merge.json"
UNMEASURED = (
    "merged into the dequantised base, since the adapter was trained beside it; with evaluation rows (--data) this and "
    "the original base are both measured and the better is taken"
)
STORED = "merged into the dequantised base: the model's files are quantised, so there is no other"
Progress = Callable[[str], None]
"""Told, in a few words, of what is done now."""


class Target(Enum):
    """What an adapter is exported to."""

    MERGED = "merged"
    """A Hugging Face directory with the adapter in the weights."""
    MERGED_4BIT = "merged-4bit"
    """The same with the linear layers in 4 bits, as bitsandbytes and transformers store them. Only with evaluation
    rows: an update that is smaller than the grid's steps is lost, and the loss says whether it was."""


class StoredDtype(Enum):
    """What the weights are written in."""

    AUTO = "auto"
    """As the base is stored, by its configuration; bfloat16 where that does not say."""
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@dataclass(frozen=True, slots=True)
class Requantised:
    """The merged model with its linear layers quantised (again)."""

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
    """Into the dequantised base (there called `base`) and into the original (called `adapter`)."""
    requantised: Requantised | None = None
    """Of the merged model that was kept; for QLoRA adapters, and where 4 bits are written."""


@dataclass(frozen=True, slots=True)
class MergeRecord:
    """What was merged, and what is known about it; `merge.json` beside the weights."""

    model: str
    adapter: str
    output: str
    dtype: str
    merged_into: str
    """`original` or `dequantised` (see `MergeBase`)."""
    written: Written
    measured: Measured | None = None
    notes: list[str] = field(default_factory=list)
    to: str = ""
    """A `Target`."""

    def to_json(self) -> dict[str, Any]:
        """The record as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Job:
    """What `export` was asked for."""

    model: str
    checkpoint: Checkpoint
    adapter: Path
    output: Path
    to: Target
    dtype: torch.dtype
    data: str | None
    limit: int | None
    trained: Trained
    compute: ComputeSection
    progress: Progress
    backend: Backend
    """Who computes the model."""


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
        ConfigError: 4 bits without evaluation rows.
        VeneerError: model, adapter or data cannot be used, or the output exists or cannot be written.
    """
    output, adapter = Path(output), Path(adapter)
    if output.exists():
        raise OutputError(f"{output} exists already; give a folder that does not, an export replaces nothing")
    if to is Target.MERGED_4BIT and data is None:
        raise ConfigError(
            "merging into 4 bits can lose the update, so it is done only with rows to measure that on: give --data"
        )
    compute = compute or ComputeSection()
    checkpoint = open_checkpoint(model)
    run = recorded_run(adapter)
    backend = backend_of(checkpoint.config, run.backend if run else Backend.AUTO)
    if to is Target.MERGED_4BIT and backend is Backend.HF:
        raise ConfigError(
            f"--to {to.value} is done by veneer's own decoder alone, and transformers computes model_type "
            f"{checkpoint.config.get('model_type')!r} (backend hf); take --to merged"
        )
    job = _Job(
        model=model,
        checkpoint=checkpoint,
        adapter=adapter,
        output=output,
        to=to,
        dtype=_stored(dtype, checkpoint.config.get("torch_dtype") or checkpoint.config.get("dtype")),
        data=None if data is None else str(data),
        limit=limit,
        trained=_trained(adapter, checkpoint, method, compute, backend),
        compute=compute,
        progress=progress,
        backend=backend,
    )
    return TARGETS[to](job)


def _trained(
    adapter: Path, checkpoint: Checkpoint, method: Method | None, compute: ComputeSection, backend: Backend
) -> Trained:
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


def _merge(job: _Job) -> MergeRecord:
    """Write every candidate, measure those, and keep the best."""
    live = _measure_live(job)
    candidates, notes = _candidates(job, measured=live is not None)
    quant = _packing(job) if job.to is Target.MERGED_4BIT else None
    with atomic_folder(job.output) as partial:
        written: dict[MergeBase, Written] = {}
        scores: dict[MergeBase, list[RowScore]] = {}
        for base in candidates:
            folder = partial / base.value
            written[base] = _write(job, base, folder, quant)
            if live:
                job.progress(f"measuring the merge into the {base.value} base")
                scores[base] = live.rows.folder(folder)
        best = min(candidates, key=lambda base: mean_loss(scores[base]) if live else 0.0)
        record = MergeRecord(
            model=job.model,
            adapter=str(job.adapter),
            output=str(job.output),
            dtype=str(job.dtype).removeprefix("torch."),
            merged_into=best.value,
            written=written[best],
            measured=_measured(job, live, scores, best, partial) if live else None,
            notes=notes,
            to=job.to.value,
        )
        _keep(partial, partial / best.value)
        write_text(partial / RECORD_FILE, json.dumps(record.to_json(), indent=2) + "\n")
    return record


def _candidates(job: _Job, *, measured: bool) -> tuple[list[MergeBase], list[str]]:
    """The bases to merge into, and what to say of them."""
    if not job.trained.quantized:
        return [MergeBase.ORIGINAL], []
    if job.checkpoint.stored:
        return [MergeBase.DEQUANTISED], [STORED]
    return ([MergeBase.DEQUANTISED, MergeBase.ORIGINAL], []) if measured else ([MergeBase.DEQUANTISED], [UNMEASURED])


def _packing(job: _Job) -> QuantSection:
    """How 4 bits are written: as the base was trained beside, where that was in 4 bits."""
    trained = job.trained
    return trained.quant if trained.quantized and trained.quant.scheme is not Scheme.INT8 else QuantSection()


def _write(job: _Job, base: MergeBase, folder: Path, quant: QuantSection | None) -> Written:
    with reported(folder):
        folder.mkdir()
    job.progress(f"merging into the {base.value} base")
    if job.backend is Backend.HF:
        return write_merged_hf(folder, open_hf_source(job.checkpoint, job.adapter, base, job.trained), job.dtype)
    return write_merged(folder, open_source(job.checkpoint, job.adapter, base, job.trained), job.dtype, quant)


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
    rows = Rows(records, job.compute, job.backend)
    base, adapter = rows.live(open_assistant(job.model, adapter=job.adapter, method=method, compute=job.compute))
    return _Live(rows, base, adapter)


def _measured(
    job: _Job, live: _Live, scores: dict[MergeBase, list[RowScore]], best: MergeBase, partial: Path
) -> Measured:
    between = None
    if len(scores) > 1:
        pair = compare(scores[MergeBase.DEQUANTISED], scores[MergeBase.ORIGINAL])
        between = next(one for one in pair if one.name == "loss")
    return Measured(
        data=str(job.data),
        rows=len(live.rows.records),
        base=mean_loss(live.base),
        adapter=mean_loss(live.adapter),
        merged={base.value: beside(live.adapter, found) for base, found in scores.items()},
        between=between,
        requantised=_requantised(job, live, scores[best], best, partial),
    )


def _requantised(job: _Job, live: _Live, scores: list[RowScore], best: MergeBase, partial: Path) -> Requantised | None:
    """What quantisation leaves of the merge that is kept."""
    if job.backend is Backend.HF:
        return None  # packed files are written by the own decoder alone
    quant = _packing(job)
    if job.to is Target.MERGED:
        if not job.trained.quantized:
            return None
        quant = job.trained.quant
        _write(job, best, partial / "packed", quant)
        job.progress("measuring the merged model quantised again")
        scores = live.rows.folder(partial / "packed")
    source = open_source(job.checkpoint, job.adapter, best, job.trained)
    return Requantised(beside(live.adapter, scores), survival(source, quant))


def _stored(dtype: StoredDtype, recorded: object) -> torch.dtype:
    kinds = {
        StoredDtype.FLOAT32: torch.float32,
        StoredDtype.BFLOAT16: torch.bfloat16,
        StoredDtype.FLOAT16: torch.float16,
    }
    if dtype is StoredDtype.AUTO:
        return next((kinds[kind] for kind in kinds if kind.value == recorded), torch.bfloat16)
    return kinds[dtype]


TARGETS: dict[Target, Callable[[_Job], MergeRecord]] = {Target.MERGED: _merge, Target.MERGED_4BIT: _merge}
"""What makes each kind of export."""
