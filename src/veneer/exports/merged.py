"""Exports `merged` and `merged-4bit`: one Hugging Face directory with the adapter in the weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from veneer.assistant.assistant import Assistant
from veneer.assistant.load import open_assistant
from veneer.config import QuantSection
from veneer.enums import Scheme
from veneer.evaluation.scoring import RowScore
from veneer.evaluation.statistics.compare import compare
from veneer.events import Stage
from veneer.exports.base import MergeBase
from veneer.exports.expected import ExpectedCheckpoint, dense_config, model_of
from veneer.exports.hf import merged_files, write_merged_hf
from veneer.exports.inputs import Checks, ExportInputs, name_of
from veneer.exports.measure import LossMeter, beside, mean_loss, survival
from veneer.exports.merge import MergeSummary, merged_config, merged_in_memory, merged_tensors, write_merged
from veneer.exports.readers import (
    COMPOSED,
    TRANSFORMERS,
    Reader,
    only_transformers_composes,
    transformers_folder,
    veneer_folder,
)
from veneer.exports.record import ExportRecord, LossReport, RequantisedLoss
from veneer.exports.request import Target
from veneer.exports.settings import file_differences, unexpected_files
from veneer.exports.tensors import ExpectedTensor, MemoryTensors, ModelTensors, Tensors
from veneer.io.checkpoint import open_checkpoint
from veneer.io.experts import as_stored
from veneer.io.files import reported
from veneer.io.model_files import WEIGHTS_FILE, save_settings
from veneer.io.tokenizer import Tokenizer
from veneer.quant.schemes import pack
from veneer.quantization import packed_config, packed_paths
from veneer.runtime.packages import installed

UNMEASURED = (
    "merged into the dequantised base, because the adapter was trained with it; with evaluation rows (--data) the "
    "original base is measured too, and the better one is used"
)
STORED = "merged into the dequantised base: the model's files are quantised, so there is no other base"
NO_TRANSFORMERS = "not read by transformers, because it is not installed"
PACKED_READER = (
    "not read by transformers, because its kernel for 4 bits on a CPU (bitsandbytes) decodes some shapes to other "
    "weights"
)


def write(inputs: ExportInputs, folder: Path) -> ExportRecord:
    """Write every candidate, measure them if there are rows, and keep the best."""
    live_rows = _measure_live(inputs)
    candidates, notes = _candidates(inputs, measured=live_rows is not None)
    quant = packing(inputs) if inputs.request.to is Target.MERGED_4BIT else None
    written: dict[MergeBase, MergeSummary] = {}
    scores: dict[MergeBase, list[RowScore]] = {}
    for base in candidates:
        part = folder / base.value
        written[base] = _write(inputs, base, part, quant)
        if live_rows:
            with Stage(inputs.emit, f"measuring the merge into the {base.value} base"):
                scores[base] = live_rows.rows.folder(part)
    best = min(candidates, key=lambda base: mean_loss(scores[base]) if live_rows else 0.0)
    record = inputs.record(
        dtype=name_of(inputs.dtype),
        stored_as=name_of(inputs.dtype) if quant is None else quant.scheme.value,
        merged_into=best,
        notes=notes,
        written=written[best],
        measured=_measured(inputs, live_rows, scores, best, folder) if live_rows else None,
    )
    _keep(folder, folder / best.value)
    return record


def checks(inputs: ExportInputs, folder: Path, record: ExportRecord) -> Checks:
    """Settings, merged tensors, our loader and transformers."""
    base = MergeBase(record.merged_into)
    quant = packing(inputs) if inputs.request.to is Target.MERGED_4BIT else None
    dtype: torch.dtype = getattr(torch, record.dtype)
    made = _merged(inputs, base, quant) if inputs.description.capabilities.named_as_files else _merged_hf(inputs, base)
    readers: list[Reader] = [veneer_folder(folder, inputs.device, inputs.backend)]
    notes: tuple[str, ...] = ()
    composed = False
    if quant is not None:
        notes = (PACKED_READER,)
    elif installed(TRANSFORMERS):
        readers.append(transformers_folder(folder, inputs.device))
        composed = only_transformers_composes(inputs.checkpoint)
        notes = (COMPOSED,) if composed else ()
    else:
        notes = (NO_TRANSFORMERS,)

    def model(tensors: Tensors) -> Assistant:
        config, tokenizer = made.settings()
        files = ExpectedCheckpoint(
            dense_config(config),
            inputs.checkpoint.generation_config,
            tensors,
            tokenizer or inputs.checkpoint.tokenizer(),
        )
        return model_of(files, inputs.device, inputs.backend)

    exact = quant is None and dtype is torch.float32
    return Checks(
        reference=lambda: inputs.live(base),
        readers=tuple(readers),
        tensors=lambda: made.tensors(dtype),
        found=lambda: made.found(folder),
        settings=lambda: _settings(inputs, made, dtype, folder),
        merged=None if exact else lambda: model(made.exact()),
        expected=None if exact else lambda: model(made.found(folder)),
        notes=notes,
        composed=composed,
    )


@dataclass(frozen=True, slots=True)
class _MergedModel:
    """The merged model as a folder should hold it."""

    tensors: Callable[[torch.dtype], Iterator[ExpectedTensor]]
    """Makes every tensor, given the dtype of the dense ones."""
    exact: Callable[[], Tensors]
    """Makes every tensor in float32, before it is rounded or packed."""
    found: Callable[[Path], Tensors]
    """Opens the tensors of a folder, by the same names."""
    settings: Callable[[], tuple[dict[str, Any], Tokenizer | None]]
    """Makes config.json without the dtype and the quantisation, and the tokenizer if it is not the base's."""
    described: Callable[[torch.dtype], dict[str, Any] | None]
    """The quantisation in config.json; None if nothing is packed."""


def _merged(inputs: ExportInputs, base: MergeBase, quant: QuantSection | None) -> _MergedModel:
    source = cache(lambda: inputs.source(base))

    def tensors(dtype: torch.dtype) -> Iterator[ExpectedTensor]:
        layers = frozenset[str]() if quant is None else packed_paths(source().model.spec, quant)
        for name, tensor, _ in merged_tensors(source()):
            if quant is not None and name.removesuffix(".weight") in layers:
                written = pack(tensor.float(), None, quant).dequantize(torch.float32)
            else:
                written = tensor.to(dtype)
            yield ExpectedTensor(name, tensor, written)

    def settings() -> tuple[dict[str, Any], Tokenizer | None]:
        return merged_config(source()), source().tokenizer

    def described(dtype: torch.dtype) -> dict[str, Any] | None:
        return None if quant is None else packed_config(source().model.spec, quant, dtype)

    def found(folder: Path) -> Tensors:
        return ModelTensors(open_checkpoint(folder))

    return _MergedModel(tensors, lambda: merged_in_memory(source()), found, settings, described)


def _merged_hf(inputs: ExportInputs, base: MergeBase) -> _MergedModel:
    source = cache(lambda: inputs.hf_source(base))

    def tensors(dtype: torch.dtype) -> Iterator[ExpectedTensor]:
        for name, tensor, wide, _ in merged_files(source()):
            yield ExpectedTensor(name, tensor, tensor.to(torch.float32 if wide else dtype))

    def exact() -> Tensors:
        return MemoryTensors({name: tensor.float() for name, tensor, _, _ in merged_files(source())})

    def found(folder: Path) -> Tensors:
        return ModelTensors(as_stored(open_checkpoint(folder)))

    return _MergedModel(tensors, exact, found, lambda: (dict(inputs.checkpoint.config), None), lambda dtype: None)


def _settings(inputs: ExportInputs, made: _MergedModel, dtype: torch.dtype, folder: Path) -> list[str]:
    """Everything except the weights, written once more and compared."""
    config, tokenizer = made.settings()
    with TemporaryDirectory() as scratch:
        changes = {**config, "torch_dtype": name_of(dtype)}
        save_settings(Path(scratch), changes, inputs.checkpoint, made.described(dtype), tokenizer)
        return [
            *file_differences(Path(scratch), folder),
            *unexpected_files(Path(scratch), folder, WEIGHTS_FILE),
        ]


def _candidates(inputs: ExportInputs, *, measured: bool) -> tuple[list[MergeBase], list[str]]:
    """The bases to merge into, and a note on them."""
    if not inputs.trained.quantized:
        return [MergeBase.ORIGINAL], []
    if inputs.checkpoint.stored:
        return [MergeBase.DEQUANTISED], [STORED]
    return ([MergeBase.DEQUANTISED, MergeBase.ORIGINAL], []) if measured else ([MergeBase.DEQUANTISED], [UNMEASURED])


def packing(inputs: ExportInputs) -> QuantSection:
    """The settings of a 4-bit export: those of the base in training if it was in 4 bits, else the default."""
    trained = inputs.trained
    return trained.quant if trained.quantized and trained.quant.scheme is not Scheme.INT8 else QuantSection()


def _write(inputs: ExportInputs, base: MergeBase, folder: Path, quant: QuantSection | None) -> MergeSummary:
    with reported(folder):
        folder.mkdir()
    total = len(inputs.checkpoint.names())
    with Stage(inputs.emit, f"merging into the {base.value} base", total=total, unit="tensors") as stage:

        def told(name: str) -> None:
            stage.advance(item=name)

        if not inputs.description.capabilities.named_as_files:
            return write_merged_hf(folder, inputs.hf_source(base), inputs.dtype, told)
        return write_merged(folder, inputs.source(base), inputs.dtype, quant, told)


def _keep(folder: Path, chosen: Path) -> None:
    """Move the files of one candidate up, and delete the candidates."""
    with reported(folder):
        candidates = list(folder.iterdir())
        for file in chosen.iterdir():
            file.replace(folder / file.name)
        for candidate in candidates:
            shutil.rmtree(candidate)


@dataclass(frozen=True, slots=True)
class _LiveLosses:
    """Base and adapter as they were trained, measured."""

    rows: LossMeter
    source: str
    base: list[RowScore]
    adapter: list[RowScore]


def _measure_live(inputs: ExportInputs) -> _LiveLosses | None:
    """Losses are measured if the user asked for them, and if they decide what is written."""
    request = inputs.request
    asked = request.data is not None
    if inputs.rows is None or not (asked or inputs.trained.quantized or request.to is Target.MERGED_4BIT):
        return None
    records = inputs.rows.records[: request.limit]
    rows = LossMeter(records, request.compute, inputs.backend)
    with Stage(inputs.emit, "measuring base and adapter"):
        assistant = open_assistant(inputs.model, adapter=request.adapter, method=inputs.method, compute=request.compute)
        base, adapter = rows.live(assistant)
    return _LiveLosses(rows, inputs.rows.source, base, adapter)


def _measured(
    inputs: ExportInputs,
    live_rows: _LiveLosses,
    scores: dict[MergeBase, list[RowScore]],
    best: MergeBase,
    partial: Path,
) -> LossReport:
    between = None
    if len(scores) > 1:
        pair = compare(scores[MergeBase.DEQUANTISED], scores[MergeBase.ORIGINAL])
        between = next(one for one in pair if one.name == "loss")
    return LossReport(
        data=live_rows.source,
        rows=len(live_rows.rows.records),
        base=mean_loss(live_rows.base),
        adapter=mean_loss(live_rows.adapter),
        merged={base.value: beside(live_rows.adapter, found) for base, found in scores.items()},
        between=between,
        requantised=_requantised(inputs, live_rows, scores[best], best, partial),
    )


def _requantised(
    inputs: ExportInputs, live_rows: _LiveLosses, scores: list[RowScore], best: MergeBase, partial: Path
) -> RequantisedLoss | None:
    """How much of the kept merge quantisation preserves; None if no file holds the model in 4 bits."""
    if not inputs.description.capabilities.quantised_files or inputs.description.spec.mixture is not None:
        return None
    quant = packing(inputs)
    if inputs.request.to is Target.MERGED:
        if not inputs.trained.quantized:
            return None
        quant = inputs.trained.quant
        _write(inputs, best, partial / "packed", quant)
        with Stage(inputs.emit, "measuring the merged model quantised again"):
            scores = live_rows.rows.folder(partial / "packed")
    return RequantisedLoss(beside(live_rows.adapter, scores), survival(inputs.source(best), quant))
