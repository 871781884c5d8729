"""Checks an export again, perhaps long after it was made: `veneer verify` and the Python API call `verify`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from veneer.arguments import check_types
from veneer.config import ComputeSection, QuantSection
from veneer.enums import Method, OtherBase
from veneer.errors import ModelError, listing
from veneer.events import Result, Subscriber, broadcast
from veneer.exports import gguf, gguf_adapter
from veneer.exports.base import MergeBase, TrainingBase
from veneer.exports.certificate import Certificate
from veneer.exports.certify import certify, comparing_memory, digests
from veneer.exports.record import PARITY_FILE, RECORD_FILE, ExportRecord, export_json
from veneer.exports.request import ExportRequest, Target, VerifyRequest
from veneer.exports.run import TARGETS, open_inputs
from veneer.exports.thresholds import TENSOR
from veneer.io.model_files import DTYPES


def verify(
    export: str | Path,
    *,
    adapter: str | Path | None = None,
    model: str | Path | None = None,
    data: str | Path | None = None,
    limit: int | None = None,
    gap: float | None = None,
    compute: ComputeSection | None = None,
    subscribers: Sequence[Subscriber] = (),
) -> Certificate:
    """Compare an export, as it is now, with the adapter and base that it was made from. Nothing is written into it or
    next to it.

    Args:
        export: the folder that `veneer export` made.
        adapter: the folder of the adapter; by default its place at the export.
        model: the base; by default the one named at the export.
        data: the rows to ask; by default those of the adapter's run.
        limit: take only the first rows (20 where this is not given).
        gap: the largest log-probability gap that is allowed, in nats, instead of the format's.
        compute: the device and dtype to compute with.
        subscribers: called with every event: stages, their progress, and the certificate.

    Returns:
        The certificate, passed or not.

    Raises:
        VeneerError: the folder is not an export, or its adapter or base cannot be used.
    """
    check_types(verify, locals())
    request = VerifyRequest(
        export=Path(export),
        adapter=None if adapter is None else Path(adapter),
        model=None if model is None else str(model),
        data=None if data is None else str(data),
        limit=limit,
        gap=gap,
        compute=compute or ComputeSection(),
    )
    return run_verify(request, broadcast(subscribers))


def run_verify(request: VerifyRequest, emit: Subscriber) -> Certificate:
    """Carry out a request, as `verify` says."""
    folder = request.export
    record, written = _record(folder), _digests(folder)
    target, adapter = Target(record.to), request.adapter or Path(record.adapter)
    if request.adapter is None and not os.path.exists(adapter):
        raise ModelError(
            f"{folder} was made from the adapter {record.adapter}, but there is no such folder from {Path.cwd()}; "
            "give the adapter's folder by --adapter"
        )
    exported = ExportRequest(
        adapter=adapter,
        output=folder,
        model=request.model or record.model,
        to=target,
        quant=record.format if target.takes_quant else None,
        data=request.data,
        limit=request.limit,
        gap=request.gap,
        method=Method(record.method),
        compute=request.compute,
        other_base=OtherBase.ALLOW,
    )
    inputs = open_inputs(exported, emit, folder / RECORD_FILE if request.model is None else None)
    inputs = replace(inputs, trained=_trained(record, folder) or inputs.trained)
    with comparing_memory(inputs, "verifying"):
        certificate = certify(inputs, TARGETS[target].checks(inputs, folder, record), record)
    certificate = replace(certificate, files=written, damaged=tuple(_damaged(written, folder)))
    emit(Result(verb="verify", values=certificate.to_json()))
    return certificate


def _trained(record: ExportRecord, folder: Path) -> TrainingBase | None:
    """How the base was quantised when the adapter was trained, as the record of the export says, since the record of
    the adapter's run may be lost; None if it was not quantised.

    Raises:
        ConfigError: settings are unknown, or have wrong values.
    """
    if record.quant is None:
        return None
    quant = QuantSection.model_validate(record.quant, context=str(folder / RECORD_FILE))
    return TrainingBase(True, quant, DTYPES[record.base_dtype])


def _damaged(written: dict[str, str], folder: Path) -> list[str]:
    """Files that have changed. Files that were added since are the user's."""
    present = digests(folder)
    found = [f"{name}: missing" for name in written if name not in present]
    return found + [f"{name}: has changed" for name in written if name in present and present[name] != written[name]]


def _digests(folder: Path) -> dict[str, str]:
    """The digests of an export's files, as they were written.

    Raises:
        ModelError: the file is not there, or is damaged.
    """
    files = export_json(folder / PARITY_FILE).get("files", {})
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise ModelError(f"{folder / PARITY_FILE} is damaged: files must be names with digests, got {files!r:.80}")
    return files


def _record(folder: Path) -> ExportRecord:
    """The record of an export.

    Raises:
        ModelError: the file is not there, is damaged, or is from a version with other values; all such are named.
    """
    values = export_json(folder / RECORD_FILE)
    known = ("model", "adapter", "output", "to", "dtype", "format", "method", "base_dtype", "merged_into")
    problems = [f"{key}: must be a text, got {values.get(key)!r:.80}" for key in known if not _is_text(values.get(key))]
    for key, possible in {} if problems else _possible(values["to"]).items():
        if values[key] not in possible:
            problems.append(f"{key}: {values[key]!r:.80} is unknown; possible are {', '.join(possible)}")
    if problems:
        raise ModelError(
            f"{folder / RECORD_FILE} is damaged, or of another version of veneer:\n{listing(problems)}\n"
            "Export the adapter again."
        )
    return ExportRecord(**{key: values[key] for key in known}, quant=values.get("quant"))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _possible(to: str) -> dict[str, list[str]]:
    """The values that an export of a kind can have, by key."""
    files = {
        Target.GGUF.value: {quant.value: name for quant, name in gguf.FORMATS.items()},
        Target.GGUF_ADAPTER.value: {kind.value: name for kind, name in gguf_adapter.FORMATS.items()},
    }
    formats = files.get(to)
    return {
        "to": [target.value for target in Target],
        "dtype": list(DTYPES if formats is None else formats),
        "format": list(TENSOR if formats is None else formats.values()),
        "method": [method.value for method in Method],
        "base_dtype": list(DTYPES),
        "merged_into": [base.value for base in MergeBase],
    }
