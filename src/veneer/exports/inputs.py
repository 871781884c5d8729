"""The inputs of an export, and what every kind of export returns for its certificate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from veneer.assistant.assistant import Assistant
from veneer.backends.base import Description
from veneer.config import ComputeSection, QuantSection, RunConfig
from veneer.enums import Backend, Method
from veneer.events import Subscriber
from veneer.exports.base import MergeBase, Source, TrainingBase, open_source
from veneer.exports.certificate import ReaderOutput
from veneer.exports.hf import HfSource, open_hf_source
from veneer.exports.merge import MergeSummary
from veneer.exports.prompts import EvaluationRows
from veneer.exports.readers import Reader
from veneer.exports.record import ExportRecord, LossReport
from veneer.exports.request import ExportRequest
from veneer.exports.tensors import ExpectedTensor, Tensors
from veneer.exports.veneer_reader import ReaderInput, live
from veneer.io.checkpoint import Checkpoint
from veneer.machine.hardware import resolve_device, resolve_dtype


@dataclass(frozen=True, slots=True)
class ExportInputs:
    """The inputs of an export: the request, and what was loaded for it."""

    request: ExportRequest
    model: str
    """The base's directory, file or hub id."""
    checkpoint: Checkpoint
    """The base's files."""
    dtype: torch.dtype
    """The dtype that the weights are written in."""
    rows: EvaluationRows | None
    """Evaluation rows, for the certificate and for measuring."""
    no_rows: str
    """Why there are no rows, if `rows` is None."""
    trained: TrainingBase
    """How the base was held when the adapter was trained."""
    description: Description
    """The model's backend."""
    emit: Subscriber
    """Receives every event."""

    @property
    def backend(self) -> Backend:
        """The backend that computes the model."""
        return self.description.backend

    @property
    def device(self) -> torch.device:
        """The device that computes the certificate."""
        return resolve_device(self.request.compute.device)

    @property
    def method(self) -> Method:
        """`trained` as the setting that asks for it."""
        return Method.QLORA if self.trained.quantized else Method.LORA

    def source(self, base: MergeBase) -> Source:
        """The adapter on a base for our decoder, from `open_source`."""
        return open_source(self.checkpoint, self.request.adapter, base, self.trained)

    def hf_source(self, base: MergeBase) -> HfSource:
        """The adapter on a base that transformers computes, from `open_hf_source`."""
        return open_hf_source(self.checkpoint, self.request.adapter, base, self.trained)

    def live(self, base: MergeBase, adapter: Path | None = None) -> Assistant:
        """The adapter, or that of another folder, on a base in float32 (`veneer.exports.veneer_reader.live`)."""
        return live(self.checkpoint, adapter or self.request.adapter, base, self.trained, self.device, self.backend)

    def record(
        self,
        *,
        dtype: str,
        stored_as: str,
        merged_into: MergeBase,
        notes: Sequence[str] = (),
        written: MergeSummary | None = None,
        measured: LossReport | None = None,
    ) -> ExportRecord:
        """What was exported, as it was written (see `ExportRecord`; `stored_as` is its `format`)."""
        trained = self.trained
        return ExportRecord(
            model=self.model,
            adapter=str(self.request.adapter),
            output=str(self.request.output),
            to=self.request.to.value,
            dtype=dtype,
            format=stored_as,
            method=self.method.value,
            quant=trained.quant.model_dump(mode="json") if trained.quantized else None,
            base_dtype=name_of(trained.dtype),
            merged_into=merged_into.value,
            written=written,
            measured=measured,
            notes=list(notes),
        )


@dataclass(frozen=True, slots=True)
class Checks:
    """What an export's certificate compares."""

    reference: Callable[[], Assistant]
    """Makes the live adapter, in float32."""
    readers: tuple[Reader, ...]
    tensors: Callable[[], Iterable[ExpectedTensor]]
    """Makes every tensor as the export should hold it."""
    found: Callable[[], Tensors]
    """Opens the tensors of the export."""
    settings: Callable[[], Iterable[str]]
    """Names the settings that are wrong."""
    merged: Callable[[], Assistant] | None = None
    """Makes the model of the sums before rounding; None if nothing is summed or rounded."""
    expected: Callable[[], Assistant] | None = None
    """Makes the model that the export should be (see `veneer.exports.certificate`); None if that is the live
    adapter."""
    rounded: Callable[[ReaderInput], ReaderOutput] | None = None
    """Asks the expected model with its products' inputs rounded as llama.cpp rounds them; None if it rounds none."""
    notes: tuple[str, ...] = ()
    """The readers that are not asked, and why."""
    opened: bool = False
    """Whether texts are compared after the tokenizer's `opening`, as in conversations."""
    context: int | None = None
    """The context length of the export in tokens, if it may be shorter than the model's."""
    composed: bool = False
    """Whether texts are compared with their characters composed (NFC), because the model's tokenizer and another
    program differ in whether they compose them. A note says so."""


@dataclass(frozen=True, slots=True)
class Exporter:
    """One kind of export."""

    write: Callable[[ExportInputs, Path], ExportRecord]
    """Writes the export into an existing folder."""
    checks: Callable[[ExportInputs, Path, ExportRecord], Checks]
    """The comparisons for an export in a folder."""
    format: Callable[[str | None], object] = lambda name: None
    """Finds the format that `quant` names, or raises ConfigError."""


def trained_how(
    run: RunConfig | None, description: Description, method: Method | None, compute: ComputeSection
) -> TrainingBase:
    """How the base was held when the adapter was trained: as asked, else as its run recorded it, else as LORA."""
    recorded = run.compute if run else compute
    dtype = resolve_dtype(recorded.dtype, resolve_device(compute.device))
    if description.stored is not None:
        return TrainingBase(True, description.stored, dtype)
    quantized = (method or (run.method if run else Method.LORA)) is Method.QLORA
    return TrainingBase(quantized, run.quant if run else QuantSection(), dtype)


def name_of(dtype: torch.dtype) -> str:
    """A dtype's name without the library's name."""
    return str(dtype).removeprefix("torch.")
