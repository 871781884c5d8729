"""The command line of veneer that carries a job out."""

from __future__ import annotations

from veneer.jobs.folder import JobFolder
from veneer.jobs.job import Job, JobKind


def arguments_of(job: Job, folder: JobFolder) -> list[str]:
    """What stands behind `veneer` for a job.

    An evaluation has under its settings `model`, `adapter` and `data`, and may have `limit`, `metrics`, `suites`,
    `suite_items` and `gate` (the margins themselves). An export has `model`, `adapter` and `to`, and may have `dtype`,
    `quant` and `data`.
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
