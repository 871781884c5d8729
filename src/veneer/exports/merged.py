"""Exports `merged` and `merged-4bit`: one Hugging Face directory with the adapter in the weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from veneer.assistant import open_assistant
from veneer.config import QuantSection
from veneer.enums import Backend, Scheme
from veneer.evaluation.scoring import RowScore
from veneer.evaluation.statistics import compare
from veneer.exports.base import MergeBase, open_source
from veneer.exports.hf import merged_files, open_hf_source, write_merged_hf
from veneer.exports.job import Checks, Job, name_of
from veneer.exports.measure import Rows, beside, mean_loss, survival
from veneer.exports.merge import Written, merged_tensors, packed_paths, write_merged
from veneer.exports.readers import TRANSFORMERS, Reader, installed, transformers_folder, veneer_folder
from veneer.exports.record import ExportRecord, Measured, Requantised
from veneer.exports.sides import live
from veneer.exports.tensors import OfModel, Tensors
from veneer.io.checkpoint import open_checkpoint
from veneer.io.files import reported
from veneer.quant.schemes import pack

MERGED, MERGED_4BIT = "merged", "merged-4bit"
UNMEASURED = (
    "merged into the dequantised base, since the adapter was trained beside it; with evaluation rows (--data) this and "
    "the original base are both measured and the better is taken"
)
STORED = "merged into the dequantised base: the model's files are quantised, so there is no other"
NO_TRANSFORMERS = "not read by transformers, which is not installed"
PACKED_READER = (
    "not read by transformers, whose kernel for 4 bits on a CPU (bitsandbytes) decodes some shapes to other weights"
)


def write(job: Job, folder: Path) -> ExportRecord:
    """Write every candidate, measure those where there are rows, and keep the best."""
    live_rows = _measure_live(job)
    candidates, notes = _candidates(job, measured=live_rows is not None)
    quant = packing(job) if job.to == MERGED_4BIT else None
    written: dict[MergeBase, Written] = {}
    scores: dict[MergeBase, list[RowScore]] = {}
    for base in candidates:
        part = folder / base.value
        written[base] = _write(job, base, part, quant)
        if live_rows:
            job.progress(f"measuring the merge into the {base.value} base")
            scores[base] = live_rows.rows.folder(part)
    best = min(candidates, key=lambda base: mean_loss(scores[base]) if live_rows else 0.0)
    record = ExportRecord(
        model=job.model,
        adapter=str(job.adapter),
        output=str(job.output),
        to=job.to,
        dtype=name_of(job.dtype),
        format=name_of(job.dtype) if quant is None else quant.scheme.value,
        method=job.method.value,
        merged_into=best.value,
        written=written[best],
        measured=_measured(job, live_rows, scores, best, folder) if live_rows else None,
        notes=notes,
    )
    _keep(folder, folder / best.value)
    return record


def checks(job: Job, folder: Path, record: ExportRecord) -> Checks:
    """The merged tensors, our loader and transformers."""
    base = MergeBase(record.merged_into)
    quant = packing(job) if record.to == MERGED_4BIT else None
    readers: list[Reader] = [veneer_folder(folder, job.device, job.backend)]
    notes: tuple[str, ...] = ()
    if quant is not None:
        notes = (PACKED_READER,)
    elif installed(TRANSFORMERS):
        readers.append(transformers_folder(folder, job.device))
    else:
        notes = (NO_TRANSFORMERS,)
    return Checks(
        reference=lambda: live(job.checkpoint, job.adapter, base, job.trained, job.device, job.backend),
        readers=tuple(readers),
        expected=lambda: _expected(job, base, getattr(torch, record.dtype), quant),
        found=lambda: _found(folder),
        notes=notes,
    )


def _expected(
    job: Job, base: MergeBase, dtype: torch.dtype, quant: QuantSection | None
) -> Iterator[tuple[str, Tensor]]:
    if job.backend is Backend.HF:
        for name, tensor, wide, _ in merged_files(open_hf_source(job.checkpoint, job.adapter, base, job.trained)):
            yield name, tensor.to(torch.float32 if wide else dtype)
        return
    source = open_source(job.checkpoint, job.adapter, base, job.trained)
    packed = frozenset[str]() if quant is None else packed_paths(source.model.spec, quant)
    for name, tensor, _ in merged_tensors(source):
        if quant is not None and name.removesuffix(".weight") in packed:
            yield name, pack(tensor.float(), None, quant).dequantize(torch.float32)
        else:
            yield name, tensor.to(dtype)


def _found(folder: Path) -> Tensors:
    return OfModel(open_checkpoint(folder))


def _candidates(job: Job, *, measured: bool) -> tuple[list[MergeBase], list[str]]:
    """The bases to merge into, and what to say of them."""
    if not job.trained.quantized:
        return [MergeBase.ORIGINAL], []
    if job.checkpoint.stored:
        return [MergeBase.DEQUANTISED], [STORED]
    return ([MergeBase.DEQUANTISED, MergeBase.ORIGINAL], []) if measured else ([MergeBase.DEQUANTISED], [UNMEASURED])


def packing(job: Job) -> QuantSection:
    """How 4 bits are written: as the base was trained beside, where that was in 4 bits."""
    trained = job.trained
    return trained.quant if trained.quantized and trained.quant.scheme is not Scheme.INT8 else QuantSection()


def _write(job: Job, base: MergeBase, folder: Path, quant: QuantSection | None) -> Written:
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
    source: str
    base: list[RowScore]
    adapter: list[RowScore]


def _measure_live(job: Job) -> _Live | None:
    """Losses are measured where the user asked, and where they decide what is written."""
    if job.rows is None or not (job.measuring or job.trained.quantized or job.to == MERGED_4BIT):
        return None
    records = job.rows.records[: job.limit]
    job.progress("measuring base and adapter")
    rows = Rows(records, job.compute, job.backend)
    base, adapter = rows.live(open_assistant(job.model, adapter=job.adapter, method=job.method, compute=job.compute))
    return _Live(rows, job.rows.source, base, adapter)


def _measured(
    job: Job, live_rows: _Live, scores: dict[MergeBase, list[RowScore]], best: MergeBase, partial: Path
) -> Measured:
    between = None
    if len(scores) > 1:
        pair = compare(scores[MergeBase.DEQUANTISED], scores[MergeBase.ORIGINAL])
        between = next(one for one in pair if one.name == "loss")
    return Measured(
        data=live_rows.source,
        rows=len(live_rows.rows.records),
        base=mean_loss(live_rows.base),
        adapter=mean_loss(live_rows.adapter),
        merged={base.value: beside(live_rows.adapter, found) for base, found in scores.items()},
        between=between,
        requantised=_requantised(job, live_rows, scores[best], best, partial),
    )


def _requantised(
    job: Job, live_rows: _Live, scores: list[RowScore], best: MergeBase, partial: Path
) -> Requantised | None:
    """What quantisation leaves of the merge that is kept."""
    if job.backend is Backend.HF:
        return None  # packed files are written by the own decoder alone
    quant = packing(job)
    if job.to == MERGED:
        if not job.trained.quantized:
            return None
        quant = job.trained.quant
        _write(job, best, partial / "packed", quant)
        job.progress("measuring the merged model quantised again")
        scores = live_rows.rows.folder(partial / "packed")
    source = open_source(job.checkpoint, job.adapter, best, job.trained)
    return Requantised(beside(live_rows.adapter, scores), survival(source, quant))
