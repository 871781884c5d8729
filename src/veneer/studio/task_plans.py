"""The memory that an evaluation or an export will need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from veneer.adapters.files.store import read_spec, read_tokenizer
from veneer.backends.base import Description
from veneer.backends.describe import describe_model
from veneer.config import ComputeSection, QuantSection, RunConfig
from veneer.data.encoded.encoding import encoder_of
from veneer.data.records import read_rows
from veneer.enums import Backend, Method
from veneer.evaluation.columns import record_columns
from veneer.evaluation.memory import evaluation_bytes, row_lengths
from veneer.exports.memory import export_memory
from veneer.exports.request import Target
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.jobs.job import Job, JobKind
from veneer.machine.hardware import resolve_device
from veneer.model.hf_skeleton import HfSpec
from veneer.model.shape import DecoderSpec
from veneer.planning.choose import Limit, limit_of
from veneer.planning.machine import Machine, this_machine
from veneer.planning.memory import MB
from veneer.planning.setup import Setup
from veneer.run_folder import recorded_run


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """The plan of an evaluation or an export."""

    peak: int | None
    """Bytes at the peak; None if transformers computes the model, which cannot be planned to the byte."""
    refusal: str | None
    """Why the task can never fit; None if it fits."""


def planned_task(job: Job) -> TaskPlan:
    """Plan an evaluation or an export.

    Raises:
        VeneerError: the model, the adapter or the rows cannot be used.
    """
    checkpoint, compute = open_checkpoint(str(job.settings["model"])), ComputeSection()
    run = recorded_run(Path(job.settings["adapter"]))
    description = describe_model(checkpoint, Backend.AUTO if run is None else run.backend)
    machine = this_machine(resolve_device(compute.device), compute)
    limit = limit_of(compute, machine.memory, free=machine.free)
    if isinstance(description.spec, HfSpec):
        return TaskPlan(None, None)
    if job.kind is JobKind.EVALUATE:
        needed = _evaluation(job.settings, run, checkpoint, description, machine)
        return _within(limit, needed, job.kind)
    export = export_memory(checkpoint, Target(job.settings["to"]))
    # If there is no memory to compare answers, an export compares only its tensors, and says so.
    return _within(limit, export.whole if export.whole <= limit.bytes else export.tensors, job.kind)


def _within(limit: Limit, peak: int, kind: JobKind) -> TaskPlan:
    if peak <= limit.bytes:
        return TaskPlan(peak, None)
    name = {JobKind.EVALUATE: "evaluation", JobKind.EXPORT: "export"}[kind]
    return TaskPlan(
        peak,
        f"by its plan, the {name} needs {peak / MB:,.0f} MB, above the limit of {limit.bytes / MB:,.0f} MB "
        f"({limit.source})",
    )


def _evaluation(
    settings: Mapping[str, Any],
    run: RunConfig | None,
    checkpoint: Checkpoint,
    description: Description,
    machine: Machine,
) -> int:
    """The bytes that an evaluation needs at its peak."""
    adapter = Path(settings["adapter"])
    tokenizer = read_tokenizer(adapter, checkpoint.tokenizer())
    columns = record_columns(settings["data"], {}, run)
    records = [record for record, _ in read_rows(settings["data"], columns)[: settings.get("limit")]]
    lengths = row_lengths(records, encoder_of(tokenizer))
    return evaluation_bytes(_setup(adapter, run, description, machine, tokenizer.vocab_size), lengths)


def _setup(adapter: Path, run: RunConfig | None, description: Description, machine: Machine, vocabulary: int) -> Setup:
    """The base as an evaluation holds it, with the adapter on it."""
    spec, stored = description.spec, description.stored
    assert isinstance(spec, DecoderSpec), "models that transformers computes are not planned"
    grown = vocabulary > spec.vocab_size
    lora = read_spec(adapter)
    return Setup(
        spec=replace(spec, vocab_size=max(spec.vocab_size, vocabulary)),
        method=Method.LORA if run is None else run.method,
        dtype=machine.dtype,
        device=machine.device,
        threads=machine.threads,
        lora=lora,
        quant=stored or (QuantSection() if run is None else run.quant),
        stored=stored is not None,
        blocks=description.blocks,
        tables={} if grown else description.tables,  # a table that grows is decoded
        file_bytes=description.file_bytes,
    )
