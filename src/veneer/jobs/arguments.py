"""The command line of veneer that runs a job."""

from __future__ import annotations

from veneer.jobs.folder import JobFolder
from veneer.jobs.job import Job, JobKind


def arguments_of(job: Job, folder: JobFolder) -> list[str]:
    """The arguments after `veneer` for a job.

    The settings of an evaluation are `model`, `adapter` and `data`, and optionally `limit`, `metrics`, `suites`,
    `suite_items` and `gate` (the margins themselves). Those of an export are `model`, `adapter` and `to`, and
    optionally `dtype`, `quant` and `data`.
    """
    if job.kind is JobKind.TRAIN:
        return ["train", "--config", str(folder.settings_file), "--resume"]
    given = job.settings
    words = [job.kind.value, "--model", str(given["model"]), "--adapter", str(given["adapter"])]
    for key in ("data", "limit", "suite_items", "to", "dtype", "quant"):
        if given.get(key) is not None:
            words += [f"--{key.replace('_', '-')}", str(given[key])]
    for key, option in (("metrics", "--metric"), ("suites", "--suite")):
        for name in given.get(key) or ():
            words += [option, str(name)]
    if job.kind is JobKind.EXPORT:
        return [*words, "--output", str(folder.export)]
    words += ["--gate", str(folder.gate_file)] if given.get("gate") else []
    return [*words, "--html", str(folder.run.report_file)]
