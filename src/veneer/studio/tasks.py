"""Evaluations and exports of the adapters of finished runs, as jobs in the queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request

from veneer.data.files.json_values import BadRow
from veneer.data.files.readers import iterate_rows
from veneer.data.forms.formats import to_record
from veneer.data.forms.preference import is_pair
from veneer.errors import ConfigError, VeneerError
from veneer.evaluation.columns import record_columns
from veneer.evaluation.gate import gate_of
from veneer.evaluation.metrics.choose import METRICS
from veneer.evaluation.suites.base import MOST_ITEMS
from veneer.evaluation.suites.registry import SUITES
from veneer.exports.request import StoredDtype, Target
from veneer.http_server.errors import ApiError
from veneer.io.gguf.encode import Quant
from veneer.jobs.job import Job, JobKind
from veneer.run_folder import recorded_run
from veneer.studio.fields import optional_whole, refuse_unknown
from veneer.studio.files import StoredFile
from veneer.studio.inputs import adapter_of
from veneer.studio.job_request import EXTENSION
from veneer.studio.objects import beginning, error_of, job_object, standing
from veneer.studio.path_names import names_for_job, values_with_names, without_paths
from veneer.studio.studio import Studio
from veneer.text.json_numbers import is_finite

METRIC_NAMES = ("exact", "loss", "choice", *METRICS)
"""Metrics that run no code of a client."""
ANSWERED = (
    "an evaluation needs one answer in each row; choose or upload such rows, as {messages} that end with the "
    "assistant's turn, or as {prompt, completion}"
)
FIELDS = {
    JobKind.EVALUATE: ("run", "file", "limit", "metrics", "suites", "suite_items", "gate"),
    JobKind.EXPORT: ("run", "file", "to", "dtype", "quant"),
}
NOUNS = {JobKind.EVALUATE: "evaluation", JobKind.EXPORT: "export"}
GATE = ("metric", "better_by", "suites", "items", "discordant")


def task_settings(studio: Studio, kind: JobKind, body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings and the details of an evaluation or an export.

    Raises:
        ApiError: 404 if there is no such run or file; 400 if a field is wrong, with its name.
    """
    refuse_unknown(body, FIELDS[kind], f"an {NOUNS[kind]}")
    run = body.get("run")
    if not isinstance(run, str):
        raise _wrong("run", "give the name of a finished run, or of its adapter")
    made = adapter_of(studio, run, "run")
    settings: dict[str, Any] = {"model": made.base, "adapter": str(made.folder)}
    details: dict[str, Any] = {"run": made.run, "model": studio.bases.name_of(made.base)}
    names = {str(made.folder): run}
    if body.get("file") is not None or kind is JobKind.EVALUATE:
        file = studio.rows_of(body.get("file"), "file", mapped=True)
        settings["data"] = str(studio.files.content(file))
        if kind is JobKind.EVALUATE:
            _check_answers(file, settings["data"], made.folder)
        details |= {"file": file.id, "filename": file.filename}
        names[settings["data"]] = file.filename
    chosen = _evaluation(body) if kind is JobKind.EVALUATE else _export(body)
    return settings | chosen, {**details, "called": names}


def _check_answers(file: StoredFile, rows: str, adapter: Path) -> None:
    """Refuse rows that do not have one answer each, before an evaluation of them would fail in the queue. The check of
    the file and its first row show it.

    Raises:
        ApiError: 400 if the rows have no answer or two answers, or the file cannot be read.
    """
    if file.asks:
        raise _wrong("file", f"these rows have no answers, and {ANSWERED}")
    try:
        columns = record_columns(rows, {}, recorded_run(adapter))
        where, first = next(iterate_rows(rows, [], columns), ("", None))
    except VeneerError as error:
        raise _wrong("file", without_paths(str(error), {rows: file.filename, str(adapter): adapter.name})) from error
    if is_pair(first, columns):
        try:
            to_record(first, where, columns=columns)
        except BadRow as error:
            raise _wrong("file", f"these rows are pairs of answers, and {ANSWERED}") from error


def _evaluation(body: Mapping[str, Any]) -> dict[str, Any]:
    gate = body.get("gate")
    found = {
        "limit": optional_whole(body, "limit", 1, 10**7),
        "suite_items": optional_whole(body, "suite_items", 1, MOST_ITEMS),
        "metrics": _names(body, "metrics", METRIC_NAMES),
        "suites": _names(body, "suites", SUITES),
        "gate": None if gate is None else _gate(gate),
    }
    return {key: value for key, value in found.items() if value is not None}


def _export(body: Mapping[str, Any]) -> dict[str, Any]:
    to = _one(body, "to", [one.value for one in Target]) or Target.MERGED.value
    quant = _one(body, "quant", [one.value for one in Quant])
    if quant is not None and not Target(to).takes_quant:
        raise _wrong("quant", f"only gguf and gguf-adapter take it, and to is {to}")
    dtype = _one(body, "dtype", [one.value for one in StoredDtype])
    if dtype not in (None, StoredDtype.AUTO.value) and not Target(to).takes_dtype:
        raise _wrong("dtype", f"only merged and merged-4bit take it, and to is {to}")
    found = {"to": to, "quant": quant, "dtype": dtype}
    return {key: value for key, value in found.items() if value is not None}


def _gate(value: Any) -> dict[str, Any]:
    """The margins of a gate. Only suites that need no file are possible."""
    if not isinstance(value, Mapping) or set(value) - set(GATE):
        raise _wrong("gate", f"must be an object with {', '.join(GATE)}")
    suites = value.get("suites") or {}
    known = isinstance(suites, Mapping) and not set(suites) - set(SUITES)
    if not known or not all(is_finite(one) and one > 0 for one in suites.values()):
        raise _wrong("gate", f"suites must map some of {', '.join(SUITES)} to margins above 0")
    if value.get("better_by") is not None and not is_finite(value["better_by"]):
        raise _wrong("gate", "better_by must be a number")
    _one(value, "metric", METRIC_NAMES)
    optional_whole(value, "items", 1, MOST_ITEMS)
    if value.get("better_by") is None and not suites:
        raise _wrong("gate", "without better_by and suites it refuses nothing; give one of them, or leave the gate out")
    found = {key: one for key, one in value.items() if one is not None}
    try:
        gate_of(found, "it")
    except ConfigError as error:
        raise _wrong("gate", str(error)) from error
    return found


def _names(body: Mapping[str, Any], key: str, known: Sequence[str] | Mapping[str, Any]) -> list[str] | None:
    found = body.get(key)
    if found is not None and (not isinstance(found, list) or not all(one in known for one in map(str, found))):
        raise _wrong(key, f"must be a list of some of {', '.join(known)}")
    return [str(one) for one in found] if found else None


def _one(body: Mapping[str, Any], key: str, known: Sequence[str]) -> str | None:
    found = body.get(key)
    if found is not None and found not in known:
        raise _wrong(key, f"must be one of {', '.join(known)}")
    return found


def _wrong(key: str, rule: str) -> ApiError:
    return ApiError(400, f"{key}: {rule}", param=key)


def task_of(studio: Studio, request: Request, kind: JobKind) -> Job:
    """The evaluation or export, in any state, that the query field `task` of a request names. Raises ApiError (404) if
    there is none."""
    job = studio.queue.get(request.query_params.get("task", ""))
    if job is None or job.kind is not kind:
        message = f"task: there is no such {NOUNS[kind]}"
        raise ApiError(404, message, param="task", code="job_not_found")
    return job


def job_values(studio: Studio, job: Job) -> dict[str, Any]:
    """A job of any kind, in the form that clients get."""
    if job.kind is not JobKind.TRAIN:
        return task_object(job, studio.root)
    run = studio.watcher.run(job.id)
    return job_object(job, None if run is None else run.record, studio.root)


def task_object(job: Job, root: Path) -> dict[str, Any]:
    """An evaluation or an export, in the form that the pages use for jobs. No message contains a path below `root`."""
    details, names = job.details, names_for_job(job, root)
    what = details.get("filename", "") if job.kind is JobKind.EVALUATE else job.settings.get("to", "")
    rest = {key: value for key, value in job.settings.items() if key not in ("model", "adapter", "data")}
    return {
        **beginning(job, f"veneer.{NOUNS[job.kind]}"),
        "model": details.get("model", ""),
        "status": job.status.value,
        "error": error_of(job, names),
        EXTENSION: {
            "kind": job.kind.value,
            **standing(job, names),
            "attempts": job.attempts,
            "of": details.get("run", ""),
            "name": f"{job.kind.value} {what}",
            "settings": values_with_names(rest, names),
        },
    }
