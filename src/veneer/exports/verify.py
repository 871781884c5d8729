"""Check an export again, long after it was made: `verify` is what `veneer verify` and the Python API call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from veneer.config import ComputeSection
from veneer.enums import Method
from veneer.errors import ModelError
from veneer.exports.certificate import Certificate
from veneer.exports.certify import certify, digests
from veneer.exports.job import Progress, StoredDtype
from veneer.exports.record import PARITY_FILE, RECORD_FILE, ExportRecord, read_json
from veneer.exports.run import TARGETS, Target, open_job


def verify(
    export: str | Path,
    *,
    adapter: str | Path | None = None,
    model: str | None = None,
    data: str | Path | None = None,
    limit: int | None = None,
    gap: float | None = None,
    compute: ComputeSection | None = None,
    progress: Progress = lambda what: None,
) -> Certificate:
    """Compare an export with what it was made from, as it stands now. Nothing is written.

    Args:
        export: folder that `veneer export` made.
        adapter: folder of the adapter; by default where it was then.
        model: the base; by default the one that was named then.
        data: rows to ask; by default those of the adapter's run.
        limit: take only the first rows (20 where this is not given).
        gap: largest log-probability gap that is allowed, in place of the format's.
        compute: where it is computed.
        progress: told of what is done now.

    Returns:
        The certificate, passed or not.

    Raises:
        VeneerError: it is no export, or what it was made from cannot be used.
    """
    folder = Path(export)
    values, parity = read_json(folder / RECORD_FILE), read_json(folder / PARITY_FILE)
    record = _record(values, folder)
    job, why = open_job(
        model or record.model,
        Path(adapter or record.adapter),
        folder,
        to=record.to,
        dtype=StoredDtype.AUTO,
        quant=record.format if record.to.startswith("gguf") else None,
        data=data,
        limit=limit,
        method=Method(record.method),
        compute=compute or ComputeSection(),
        progress=progress,
    )
    kind = TARGETS[Target(record.to)]
    certificate = certify(job, kind.checks(job, folder, record), record, gap=gap, why=why)
    written = {str(name): str(digest) for name, digest in dict(parity.get("files", {})).items()}
    return replace(certificate, files=written, damaged=tuple(_damaged(written, folder)))


def _damaged(written: dict[str, str], folder: Path) -> list[str]:
    """Files that are not what they were. What was added since is the user's."""
    present = digests(folder)
    found = [f"{name}: missing" for name in written if name not in present]
    return found + [f"{name}: has changed" for name in written if name in present and present[name] != written[name]]


def _record(values: dict[str, Any], folder: Path) -> ExportRecord:
    known = ("model", "adapter", "output", "to", "dtype", "format", "method", "merged_into")
    missing = [key for key in known if not isinstance(values.get(key), str)]
    if missing or values["to"] not in {target.value for target in Target}:
        raise ModelError(f"{folder / RECORD_FILE} is damaged, or of another version of veneer: {', '.join(missing)}")
    return ExportRecord(**{key: values[key] for key in known})
