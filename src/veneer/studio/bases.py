"""The base models that jobs may be made of, by their names. A client gives a name and never a path."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from veneer.enums import Method
from veneer.errors import ConfigError, ModelError, listing, nearest
from veneer.http_server.errors import ApiError
from veneer.io.checkpoint import model_name, read_model_config
from veneer.jobs.job import JobKind, JobStatus
from veneer.run_records.state import RunState
from veneer.studio.objects import model_of
from veneer.studio.watch import Watcher


def check_models(named: Sequence[str]) -> None:
    """Refuse models that do not exist, and different models with one name: pages and clients know only the names.

    Raises:
        ConfigError: a model is missing, or two models have one name. The message names each of them.
    """
    problems, by_name = [], dict[str, str]()
    for source in named:
        try:
            read_model_config(source)
        except ModelError as error:
            problems.append(str(error))
        other = by_name.setdefault(model_name(source), source)
        if Path(other).resolve() != Path(source).resolve():
            problems.append(f"{other} and {source} have one name, {model_name(source)!r}; rename one of them")
    if problems:
        raise ConfigError(f"these models cannot be offered:\n{listing(problems)}")


def lasting(source: str) -> str:
    """The source of a model in a form that is valid in any working directory: a job runs later, perhaps in a studio
    that was started elsewhere."""
    # Symbolic links are not resolved: in the cache of the hub only the name of the link says what a file is.
    path = Path(os.path.expanduser(source)).absolute()
    # Unlike `Path.exists`, this returns False for a path that cannot be looked up.
    return str(path) if os.path.exists(path) else source


class Bases:
    """The models that were named when the studio was started, the bases of the runs in its folder, and the models that
    jobs have trained in full.

    Args:
        named: directories, GGUF files or hub ids that `check_models` has accepted.
        watcher: knows the runs.
    """

    def __init__(self, named: tuple[str, ...], watcher: Watcher):
        self._named = {model_name(source): lasting(source) for source in named}
        self._watcher = watcher

    def all(self) -> Mapping[str, str]:
        """The models by name; those that were named at the start come first."""
        found, made = dict(self._named), dict(self._made())
        for run in self._watcher.runs():
            source = None if run.record.model is None else lasting(run.record.model)
            # The base of a run may be a model that a job has made. Such a model has a name already.
            if source is not None and source not in made.values():
                found.setdefault(model_name(source), source)
        for name, source in made.items():
            found.setdefault(name, source)
        return found

    def _made(self) -> Iterator[tuple[str, str]]:
        """The models that jobs have trained in full, each with the name that its job gives it."""
        for job in self._watcher.since(0).jobs:
            run = self._watcher.run(job.id)
            if run is None or job.kind is not JobKind.TRAIN or job.status is not JobStatus.SUCCEEDED:
                continue
            if run.record.method == Method.FULL.value and run.record.state is RunState.FINISHED:
                yield model_of(job), str(run.record.path)

    def source(self, name: str) -> str:
        """The directory, file or hub id of a model.

        Raises:
            ApiError: 404 if no model has that name.
        """
        found = self.all()
        if name not in found:
            hint = nearest(name, list(found))
            known = ", ".join(list(found)[:8]) or "none; start the studio with --model MODEL"
            message = f"there is no base model {name[:100]!r}{hint}; known: {known}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return found[name]

    def name_of(self, source: str) -> str:
        """The name of the model that has this source."""
        return next((name for name, one in self.all().items() if one == source), model_name(source))
