"""Exports a trained adapter for other programs: `veneer export` and the Python API call `export`.

A kind of export is a module with two functions: one writes into a folder, the other says what its certificate compares.
Everything else is here and the same for all kinds. Nothing appears under the requested name before the certificate has
passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from veneer.adapters.files.origin import BaseCheck
from veneer.adapters.files.store import CONFIG_FILE, config_warnings, read_content, read_spec
from veneer.arguments import check_types
from veneer.backends.base import Capabilities
from veneer.backends.describe import describe_model
from veneer.config import ComputeSection, RunConfig
from veneer.enums import Backend, Method, OtherBase, choice
from veneer.errors import AdapterError, ConfigError, ModelError
from veneer.events import Level, Note, Result, Stage, Subscriber, broadcast
from veneer.exports import gguf, gguf_adapter, merged, peft_folder
from veneer.exports.card import model_card
from veneer.exports.certify import certify, comparing_memory, write_certificate
from veneer.exports.inputs import Exporter, ExportInputs, trained_how
from veneer.exports.prompts import evaluation_rows
from veneer.exports.record import CARD_FILE, PARITY_FILE, ExportRecord
from veneer.exports.request import ExportRequest, StoredDtype, Target
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.io.files import atomic_folder, claimed, folder_place, refuse_existing, remove_folder, write_text
from veneer.io.model_files import written_dtype
from veneer.io.places import place_named
from veneer.io.proofs import prove_folder
from veneer.machine.hardware import resolve_device
from veneer.run_folder import run_of
from veneer.training.folder.locked_inputs import recorded_files

FAILED = ".failed"
"""The end of the name of a folder whose certificate did not pass."""


TARGETS: dict[Target, Exporter] = {
    Target.PEFT: Exporter(peft_folder.write, peft_folder.checks),
    Target.MERGED: Exporter(merged.write, merged.checks),
    Target.MERGED_4BIT: Exporter(merged.write, merged.checks),
    Target.GGUF: Exporter(gguf.write, gguf.checks, gguf.quant_of),
    Target.GGUF_ADAPTER: Exporter(gguf_adapter.write, gguf_adapter.checks, gguf_adapter.kind_of),
}
"""The functions of each kind of export: one writes, one says what is compared, and some name their formats."""


def export(
    adapter: str | Path,
    output: str | Path,
    *,
    model: str | Path | None = None,
    to: Target | str = Target.MERGED,
    dtype: StoredDtype | str = StoredDtype.AUTO,
    quant: str | None = None,
    data: str | Path | None = None,
    limit: int | None = None,
    gap: float | None = None,
    method: Method | str | None = None,
    compute: ComputeSection | None = None,
    other_base: OtherBase | str = OtherBase.REFUSE,
    subscribers: Sequence[Subscriber] = (),
) -> ExportRecord:
    """Write an adapter (and its base) as files that other programs load, and verify that they hold the same model.

    W + s · B A is summed in float32 or wider and rounded once. An adapter that was trained with a 4-bit base may be
    merged into the decoded values of that base, or into the original. With evaluation rows both are measured and the
    better one is kept; without, the first is used.

    Our loader and the other programs that are installed read the export back, and it is compared with the live adapter
    (`veneer.exports.certificate`).

    Args:
        adapter: the folder of an adapter, from veneer or PEFT.
        output: a folder that does not exist yet.
        model: the base: directory, GGUF file or hub id. It is only read. None uses the one that the adapter names.
        to: the kind of export, a `Target` or its name (`peft`, `merged`, `merged-4bit`, `gguf`, `gguf-adapter`).
        dtype: the dtype of the weights of a Hugging Face directory, a `StoredDtype` or its name.
        quant: the type of the matrices of a GGUF file.
        data: evaluation rows, on which losses are measured and the certificate asks its prompts; by default those of
            the adapter's run.
        limit: the number of rows to use, from the first; by default the certificate uses 20.
        gap: the largest log-probability gap that is allowed, in nats, instead of the format's.
        method: how the base was held in training; by default as the adapter's run recorded it, else as LORA.
        compute: the device and dtype of the measurements.
        other_base: what happens if the adapter was trained with another base, an `OtherBase` or its name.
        subscribers: called with every event: stages, their progress, and the record.

    Raises:
        ConfigError: an unknown name, 4 bits without evaluation rows, or `quant` or `dtype` for a kind that has none.
        ParityError: the export is not the live adapter; it is in OUTPUT.failed, with its certificate.
        VeneerError: model, adapter or data cannot be used, or the output exists or cannot be written.
    """
    check_types(export, locals())
    request = ExportRequest(
        adapter=Path(adapter),
        output=Path(output),
        model=None if model is None else str(model),
        to=choice(Target, to, "to"),
        dtype=choice(StoredDtype, dtype, "dtype"),
        quant=quant,
        data=None if data is None else str(data),
        limit=limit,
        gap=gap,
        method=None if method is None else choice(Method, method, "method"),
        compute=compute or ComputeSection(),
        other_base=choice(OtherBase, other_base, "other_base"),
    )
    return run_export(request, broadcast(subscribers))


def run_export(request: ExportRequest, emit: Subscriber) -> ExportRecord:
    """Carry out a request, as `export` says."""
    exporter = TARGETS[request.to]
    exporter.format(request.quant)  # an unknown one is refused before the base is read
    output = folder_place(request.output)
    request = replace(request, output=output)
    refuse_existing(output)
    prove_folder(output)
    inputs = open_inputs(request, emit)
    if request.to is Target.MERGED_4BIT and inputs.rows is None:
        raise ConfigError(
            f"merging into 4 bits can lose the update, so it needs rows to measure that on, but {inputs.no_rows}; "
            "give --data"
        )
    with comparing_memory(inputs, "exporting"), claimed(output), atomic_folder(output) as partial:
        record = exporter.write(inputs, partial)
        certificate = certify(inputs, exporter.checks(inputs, partial, record), record)
        record = replace(record, parity=certificate)
        write_text(partial / CARD_FILE, model_card(record, output.name))
        record.write(partial)
        record = replace(record, parity=write_certificate(partial, certificate))
        if not certificate.passed:
            certificate.refuse(_set_aside(partial, output))
    emit(Result(verb="export", values=record.to_json()))
    return record


def open_inputs(request: ExportRequest, emit: Subscriber, named_by: Path | None = None) -> ExportInputs:
    """Open the base, and find the rows.

    Args:
        request: the request.
        emit: receives every event.
        named_by: the record that names the base of the request, if the user did not.

    Raises:
        ConfigError: there is no such device, no base is named, or it cannot be written as what is asked for.
        VeneerError: model, adapter or data cannot be used.
    """
    resolve_device(request.compute.device)  # one that is not here is refused before the files are read
    adapter = request.adapter
    for warning in config_warnings(adapter, read_spec(adapter)):
        emit(Note(message=warning, level=Level.WARNING))
    config = read_content(adapter)
    made_by = run_of(adapter)
    if made_by is not None:
        # The card shows the run's losses, so a log that cannot be read is found before the work.
        next(made_by.each_event(), None)
    run = None if made_by is None else made_by.config()
    named = _base_named(request, run, config)
    # PEFT's adapters may name a revision together with a folder, but only the hub's models have revisions.
    here = request.model is not None or place_named(named, ModelError).exists()
    if request.model is None:
        named_by = adapter / CONFIG_FILE if made_by is None else made_by.config_file
    checkpoint = open_checkpoint(named, revision=None if here else config.get("revision"), named_by=named_by)
    description = describe_model(checkpoint, run.backend if run else Backend.AUTO)
    _check_kind(request.to, checkpoint, description.capabilities)
    base = BaseCheck(adapter, named, checkpoint.files())  # whose files are hashed while the rows are read
    recorded = () if made_by is None or request.data is not None else recorded_files(made_by)
    rows, no_rows = evaluation_rows(run, request.data, recorded)
    _check_base(request, base, emit)
    return ExportInputs(
        request=request,
        model=named,
        checkpoint=checkpoint,
        dtype=written_dtype(request.dtype.value, checkpoint),
        rows=rows,
        no_rows=no_rows,
        trained=trained_how(run, description, request.method, request.compute),
        description=description,
        emit=emit,
    )


def _base_named(request: ExportRequest, run: RunConfig | None, config: Mapping[str, Any]) -> str:
    """The base that is asked for, else the adapter's own.

    Raises:
        ConfigError: there is none.
    """
    # The run knows the path of its base, whereas the adapter has a name for others to read.
    named = request.model or (run.model if run else config.get("base_model_name_or_path"))
    if not named:
        raise ConfigError(f"{request.adapter} does not say what its base model is; give --model")
    return str(named)


def _check_kind(to: Target, checkpoint: Checkpoint, can: Capabilities) -> None:
    """Refuse a kind of export that cannot be written for this model.

    Raises:
        ConfigError: transformers computes the model, and the kind needs our decoder.
    """
    needed = {Target.GGUF: can.gguf, Target.GGUF_ADAPTER: can.gguf, Target.MERGED_4BIT: can.quantised_files}
    if not needed.get(to, True):
        raise ConfigError(
            f"--to {to.value} needs veneer's own decoder, but transformers computes model_type "
            f"{checkpoint.config.get('model_type')!r} (backend hf); use --to merged"
        )


def _check_base(request: ExportRequest, base: BaseCheck, emit: Subscriber) -> None:
    """Refuse a base other than the adapter's, or warn of it if the user allowed it.

    Raises:
        AdapterError: the base is another one.
    """
    if not base.recorded:
        return
    with Stage(emit, "comparing the base model with the adapter's"):
        problem = base.problem()
    if problem is None:
        return
    if request.other_base is OtherBase.REFUSE:
        raise AdapterError(
            f"{problem}\nGive the adapter's own base by --model, or add --allow-other-base to use this one."
        )
    emit(Note(message=problem, level=Level.WARNING))


def _set_aside(partial: Path, output: Path) -> str:
    """Keep a failed export under a name that says so; an older one of the same name is replaced. Returns a message."""
    failed = output.with_name(output.name + FAILED)
    if failed.exists() and not (failed / PARITY_FILE).is_file():
        return f"{output} was not made: what was written is not the live adapter"
    if failed.exists():
        remove_folder(failed)
    partial.rename(failed)
    return f"{output} was not made: what was written is not the live adapter; it is kept in {failed}"
