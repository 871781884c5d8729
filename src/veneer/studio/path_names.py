"""The names that users know for the paths in a job. A client gives names and never learns a path of this machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from veneer.io.checkpoint import model_name
from veneer.jobs.job import Job


def values_with_names(value: Any, names: Mapping[str, str]) -> Any:
    """Plain values in which each path is replaced by the name that users know."""
    return _with_texts(value, lambda text: names.get(text, text))


def values_without_paths(value: Any, names: Mapping[str, str]) -> Any:
    """Plain values in which each path inside a string is replaced by the name that users know."""
    return _with_texts(value, lambda text: without_paths(text, names))


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Plain values in which `change` was applied to every string except the keys."""
    if isinstance(value, Mapping):
        return {key: _with_texts(one, change) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_with_texts(one, change) for one in value]
    return change(value) if isinstance(value, str) else value


def without_paths(message: str, names: Mapping[str, str]) -> str:
    """A message in which each path is replaced by the name that users know. The longest paths are replaced first, since
    a shorter path may be the beginning of a longer one."""
    for path in sorted(names, key=len, reverse=True):
        # /a/runs must not match in /a/runs-2.
        end = "" if path.endswith("/") else r"(?![\w-])"
        message = names[path].join(re.split(re.escape(path) + end, message))
    return message


def names_for_job(job: Job, root: Path) -> dict[str, str]:
    """The names that users know for the paths that may occur in the messages of a job: its files, its models, and the
    folder of runs. A path below that folder is shown relative to it."""
    teacher = (job.settings.get("distillation") or {}).get("teacher")
    models = [source for source in (job.settings.get("model"), teacher) if isinstance(source, str)]
    return {**names_for_folder(root), **names_for_models(models), **(job.details.get("called") or {})}


def names_for_folder(root: Path) -> dict[str, str]:
    """The names that users know for the folder of runs and for what it contains."""
    return {str(root): "the folder of runs", f"{root}/": ""}


def names_for_models(sources: Iterable[str]) -> dict[str, str]:
    """The names that users know for models, by their paths. A hub id is such a name already."""
    return {source: model_name(source) for source in sources if Path(source).is_absolute()}
