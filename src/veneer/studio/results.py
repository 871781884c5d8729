"""What finished runs have made: adapters, by the names that clients give them.

An adapter's name is made from its run's alone wherever that can be: a client that knows it must not get another adapter
by it because of a run that comes or goes. One name depends on another run: that of `team/a` is `team-a`, which is read
and typed more easily than one with a digest, unless the folder has a run that is itself called `team-a`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from veneer.adapters.files.store import CONFIG_FILE
from veneer.enums import ObjectiveName
from veneer.jobs.job import JobStatus
from veneer.run_records.state import RunState
from veneer.studio.bases import lasting
from veneer.studio.objects import model_of
from veneer.studio.watch import Watcher

LONGEST_NAME_CHARS, DIGEST_CHARS = 90, 8
"""Characters of a name before its digest, and of the digest. They leave room for the step of a checkpoint."""
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
    """Whether it is a reward model, which gives scores instead of answers."""


def results_of(watcher: Watcher, bases: Collection[str]) -> dict[str, MadeAdapter]:
    """The adapters of all finished runs, by their names.

    Args:
        watcher: knows the runs.
        bases: the names of the base models (`Bases.all`). No adapter may have one of them.
    """
    jobs = {job.id: job for job in watcher.since(0).jobs}
    found: dict[str, MadeAdapter] = {}
    runs = watcher.runs()
    names = {run.name for run in runs}
    for run in runs:
        record, job = run.record, jobs.get(run.name)
        whole = record.state is RunState.FINISHED and (record.path / CONFIG_FILE).is_file()
        if record.model is None or not whole or (job is not None and job.status is not JobStatus.SUCCEEDED):
            continue
        name = model_of(job) if job is not None else adapter_name(run.name, names, bases)
        scores = run.settings.get("objective") == ObjectiveName.REWARD.value
        found[name] = MadeAdapter(run.name, lasting(record.model), record.path, scores)
    return found


def adapter_name(run: str, runs: Collection[str], bases: Collection[str]) -> str:
    """The name of a run's adapter: the name of the run if that is a valid model name, with `-` for `/`. A digest
    follows if two runs could have the same name otherwise.

    Args:
        run: the name of the run.
        runs: the names of all runs.
        bases: the names of the base models. No adapter may have one of them.
    """
    plain = plain_name(run)
    own = plain == run or (plain.replace("-", "/") == run and plain not in runs)
    return plain if own and plain not in bases else f"{plain}-{digest_of(run)}"


def plain_name(name: str) -> str:
    """A name without the characters that have a meaning in addresses and file names. Several names may give the same
    plain name."""
    return _STRANGE.sub("-", name)[:LONGEST_NAME_CHARS].strip("-._") or "run"


def digest_of(name: str) -> str:
    """A short digest that distinguishes names with the same plain name."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:DIGEST_CHARS]
