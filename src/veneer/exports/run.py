"""From a trained adapter to something that others load: `export` is what `veneer export` and the Python API call.

A kind of export is a module with two functions: one writes into a folder, the other says what its certificate compares.
Everything else is here and the same for all: nothing stands under the name that was asked for before the certificate
has passed.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path

from veneer.adapters.store import read_config
from veneer.assistant import recorded_run
from veneer.backends.choose import backend_of
from veneer.config import ComputeSection
from veneer.enums import Backend, Method
from veneer.errors import ConfigError, OutputError
from veneer.exports import gguf, gguf_adapter, merged, peft_folder
from veneer.exports.card import model_card
from veneer.exports.certificate import ParityError
from veneer.exports.certify import certify, write_certificate
from veneer.exports.job import Job, Kind, Progress, StoredDtype, stored_dtype, trained_how
from veneer.exports.prompts import evaluation_rows
from veneer.exports.record import CARD_FILE, PARITY_FILE, ExportRecord
from veneer.io.checkpoint import open_checkpoint
from veneer.io.files import atomic_folder, remove_folder, write_text

FAILED = ".failed"
"""End of the name of a folder whose certificate did not pass."""


class Target(Enum):
    """What an adapter is exported to."""

    PEFT = "peft"
    """An adapter's directory as PEFT writes it."""
    MERGED = "merged"
    """A Hugging Face directory with the adapter in the weights."""
    MERGED_4BIT = "merged-4bit"
    """The same with the linear layers in 4 bits, as bitsandbytes and transformers store them. Only with evaluation
    rows: an update that is smaller than the grid's steps is lost, and the loss says whether it was."""
    GGUF = "gguf"
    """One GGUF model with the adapter in the weights, and an Ollama Modelfile."""
    GGUF_ADAPTER = "gguf-adapter"
    """A GGUF adapter that llama.cpp puts on its base, and an Ollama Modelfile."""


TARGETS: dict[Target, Kind] = {
    Target.PEFT: Kind(peft_folder.write, peft_folder.checks),
    Target.MERGED: Kind(merged.write, merged.checks),
    Target.MERGED_4BIT: Kind(merged.write, merged.checks),
    Target.GGUF: Kind(gguf.write, gguf.checks),
    Target.GGUF_ADAPTER: Kind(gguf_adapter.write, gguf_adapter.checks),
}
"""What makes each kind of export, and what is compared of it."""


OF_TRANSFORMERS = (Target.PEFT.value, Target.MERGED.value)
"""Kinds of export that are there for models that transformers computes."""


def export(
    model: str | None,
    adapter: str | Path,
    output: str | Path,
    *,
    to: Target = Target.MERGED,
    dtype: StoredDtype = StoredDtype.AUTO,
    quant: str | None = None,
    data: str | Path | None = None,
    limit: int | None = None,
    gap: float | None = None,
    method: Method | None = None,
    compute: ComputeSection | None = None,
    progress: Progress = lambda what: None,
) -> ExportRecord:
    """Write an adapter (and its base) as something that other programs load, and prove that it is the same model.

    W + s · B A is summed in float32 or wider and rounded once. An adapter that was trained beside a 4-bit base may be
    merged into that base as it decodes, or into the original: with evaluation rows both are measured and the better
    is kept; without, it is the first.

    What was written is read back, by our loader and by the other programs that are installed, and compared with the
    live adapter (`veneer.exports.certificate`).

    Args:
        model: the base: directory, GGUF file or hub id. It is only read. None takes the one that the adapter names.
        adapter: folder of an adapter, from veneer or PEFT.
        output: a folder that does not exist yet.
        to: the kind of export.
        dtype: of the weights.
        quant: of GGUF files: what the matrices are written in.
        data: evaluation rows, on which losses are measured and the certificate asks its prompts; by default those of
            the adapter's run.
        limit: take only the first rows; the certificate takes 20 where this is not given.
        gap: largest log-probability gap that is allowed, in place of the format's.
        method: how the base was held in training; by default as the adapter's run recorded it, else as LORA.
        compute: device and dtype of the measuring.
        progress: told of what is done now.

    Raises:
        ConfigError: 4 bits without evaluation rows, or `quant` where nothing is quantised.
        ParityError: what was written is not the live adapter; it stands in OUTPUT.failed, with its certificate.
        VeneerError: model, adapter or data cannot be used, or the output exists or cannot be written.
    """
    output, adapter = Path(output), Path(adapter)
    if output.exists():
        raise OutputError(f"{output} exists already; give a folder that does not, an export replaces nothing")
    job, why = open_job(
        model, adapter, output, to=to.value, dtype=dtype, quant=quant, data=data, limit=limit, method=method,
        compute=compute or ComputeSection(), progress=progress,
    )  # fmt: skip
    if to is Target.MERGED_4BIT and job.rows is None:
        raise ConfigError(
            f"merging into 4 bits can lose the update, so it is done only with rows to measure that on, and {why}: "
            "give --data"
        )
    kind = TARGETS[to]
    with atomic_folder(output) as partial:
        record = kind.write(job, partial)
        certificate = certify(job, kind.checks(job, partial, record), record, gap=gap, why=why)
        record = replace(record, parity=certificate)
        write_text(partial / CARD_FILE, model_card(record, output.name))
        record.write(partial)
        record = replace(record, parity=write_certificate(partial, certificate))
        if not certificate.passed:
            certificate.refuse(_set_aside(partial, output))
    return record


def open_job(
    model: str | None,
    adapter: Path,
    output: Path,
    *,
    to: str,
    dtype: StoredDtype,
    quant: str | None,
    data: str | Path | None,
    limit: int | None,
    method: Method | None,
    compute: ComputeSection,
    progress: Progress,
) -> tuple[Job, str]:
    """Open the base and find the rows; also says why there are none.

    Raises:
        ConfigError: no base is named, or `quant` where nothing is quantised.
        VeneerError: model, adapter or data cannot be used.
    """
    _, config = read_config(adapter)
    named = model or config.get("base_model_name_or_path")
    if not named:
        raise ConfigError(f"{adapter} does not say what its base model is; give --model")
    if quant is not None and not to.startswith("gguf"):
        raise ConfigError(
            f"--quant {quant} is for GGUF files, and --to {to} writes none; leave it out, or take --dtype"
        )
    checkpoint = open_checkpoint(str(named), revision=config.get("revision") if model is None else None)
    run = recorded_run(adapter)
    backend = backend_of(checkpoint.config, run.backend if run else Backend.AUTO)
    if backend is Backend.HF and to not in OF_TRANSFORMERS:
        raise ConfigError(
            f"--to {to} is done by veneer's own decoder alone, and transformers computes model_type "
            f"{checkpoint.config.get('model_type')!r} (backend hf); take --to merged"
        )
    rows, why = evaluation_rows(adapter, None if data is None else str(data))
    job = Job(
        model=str(named),
        checkpoint=checkpoint,
        adapter=adapter,
        output=output,
        to=to,
        dtype=stored_dtype(dtype, checkpoint),
        quant=quant,
        rows=rows,
        measuring=data is not None,
        limit=limit,
        trained=trained_how(adapter, checkpoint, method, compute, backend),
        backend=backend,
        compute=compute,
        progress=progress,
    )
    return job, why


def _set_aside(partial: Path, output: Path) -> str:
    """Keep a failed export under a name that says so; an older one of the same name is replaced. Returns a message."""
    failed = output.with_name(output.name + FAILED)
    if failed.exists() and not (failed / PARITY_FILE).is_file():
        return f"{output} was not made: what was written is not the live adapter"
    if failed.exists():
        remove_folder(failed)
    partial.rename(failed)
    return f"{output} was not made: what was written is not the live adapter, and stands in {failed}"


__all__ = ["TARGETS", "ParityError", "StoredDtype", "Target", "export", "open_job"]
