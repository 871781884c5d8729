"""What users call the paths that a job names. A client gives names, and learns none of this machine's paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from veneer.io.checkpoint import model_name
from veneer.jobs.job import Job


def called(value: Any, names: Mapping[str, str]) -> Any:
    """Plain values in which paths are what users call them."""
    return _with_texts(value, lambda text: names.get(text, text))


def told(value: Any, names: Mapping[str, str]) -> Any:
    """Plain values in whose texts paths stand as their users call them."""
    return _with_texts(value, lambda text: without_paths(text, names))


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Plain values with every text that is none's key changed."""
    if isinstance(value, Mapping):
        return {key: _with_texts(one, change) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_with_texts(one, change) for one in value]
    return change(value) if isinstance(value, str) else value


def without_paths(message: str, called: Mapping[str, str]) -> str:
    """A text in which paths stand as their users call them; the longest come first, since they begin with others."""
    for path in sorted(called, key=len, reverse=True):
        # /a/runs is no part of /a/runs-2.
        end = "" if path.endswith("/") else r"(?![\w-])"
        message = re.sub(re.escape(path) + end, lambda _, name=called[path]: name, message)  # type: ignore[misc]
    return message


def paths_of(job: Job, root: Path) -> dict[str, str]:
    """What users call the paths that the messages of a job may have: of its files, its models, and the folder of runs,
    below which a path is told as it stands there."""
    teacher = (job.settings.get("distillation") or {}).get("teacher")
    models = [source for source in (job.settings.get("model"), teacher) if isinstance(source, str)]
    return {**folder_called(root), **models_called(models), **(job.details.get("called") or {})}


def folder_called(root: Path) -> dict[str, str]:
    """What users call the folder of runs, and what stands in it."""
    return {str(root): "the folder of runs", f"{root}/": ""}


def models_called(sources: Iterable[str]) -> dict[str, str]:
    """What users call models, by their paths; a hub id is called so already."""
    return {source: model_name(source) for source in sources if Path(source).is_absolute()}
