"""What finished runs have made: adapters, by the names that clients give them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from veneer.adapters.store import CONFIG_FILE
from veneer.enums import ObjectiveName
from veneer.jobs.job import JobStatus
from veneer.run_records.state import RunState
from veneer.studio.objects import model_of
from veneer.studio.watch import Watcher

_STRANGE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class MadeAdapter:
    """The adapter of a finished run."""

    run: str
    """The name of the run."""
    base: str
    """The source of its base model."""
    folder: Path
    scores: bool
    """Whether it is a reward model, which gives scores and no answers."""


def results_of(watcher: Watcher) -> dict[str, MadeAdapter]:
    """The adapters of all finished runs, by their names."""
    jobs = {job.id: job for job in watcher.since(0).jobs}
    found: dict[str, MadeAdapter] = {}
    for run in watcher.runs():
        record, job = run.record, jobs.get(run.name)
        whole = record.state is RunState.FINISHED and (record.path / CONFIG_FILE).is_file()
        if record.model is None or not whole or (job is not None and job.status is not JobStatus.SUCCEEDED):
            continue
        name = model_of(job) if job is not None else plain_name(run.name)
        scores = run.settings.get("objective") == ObjectiveName.REWARD.value
        found[name] = MadeAdapter(run.name, record.model, record.path, scores)
    return found


def plain_name(name: str) -> str:
    """A name without what addresses and files give a meaning to."""
    return _STRANGE.sub("-", name).strip("-.")[:120] or "run"
