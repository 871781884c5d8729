"""Finds in the studio what a request for a job names: its base, its files, and the adapters of other runs.

A client never names a path. It gives files by the ids of their uploads, and models and adapters by their names. It
gives a Python reward as source text, which is kept in a file that is named after the digest of the text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veneer.config import RunConfig, parse
from veneer.config.values import laid_over
from veneer.enums import JobCode
from veneer.errors import ConfigError, nearest
from veneer.http_server.errors import ApiError
from veneer.io.files import write_text
from veneer.rewards.metric_reward import NAMES
from veneer.studio.graders import LONGEST_SOURCE_CHARS, WRAPPED, wrapped
from veneer.studio.job_request import EXTENSION, MODELS, JobRequest
from veneer.studio.results import MadeAdapter, results_of
from veneer.studio.studio import Studio

GRADERS = "graders"
"""The folder of Python rewards, below the studio's own."""


@dataclass(frozen=True, slots=True)
class JobInputs:
    """The inputs that a request names."""

    model: str
    """The source of the base."""
    rows: Path
    evaluation: Path | None
    settings: Mapping[str, Any]
    """The settings that name models, adapters and rewards, by their dotted keys, in the form that the run reads."""
    names: Mapping[str, str]
    """The names that users know for these paths."""
    code: Mapping[Path, str]
    """Python rewards: the path for each, and its source text."""

    def settings_of(self, asked: JobRequest) -> dict[str, Any]:
        """The settings of the job that has these inputs. The job stores them; with an `output` added, they are checked.

        Raises:
            ConfigError: a dotted key has a part that is a plain value instead of a group of settings.
        """
        pairs = [("model", self.model), ("data.file", str(self.rows)), *self.settings.items()]
        pairs += [] if self.evaluation is None else [("data.eval_file", str(self.evaluation))]
        return laid_over(dict(asked.values), pairs)

    def write_code(self) -> None:
        """Write the Python rewards, each once. Raises OutputError if one cannot be written."""
        for path, text in self.code.items():
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, text)


def inputs_of(studio: Studio, asked: JobRequest) -> JobInputs:
    """Find what a request names.

    Raises:
        ApiError: 404 if nothing has such a name, 400 if it cannot be used for that purpose.
    """
    results = results_of(studio.watcher, studio.bases.all())
    settings: dict[str, Any] = {}
    names: dict[str, str] = {}
    for key, name in asked.named.items():
        if key in MODELS:
            settings[key] = studio.bases.source(name)
        else:
            found = _result(results, name, key, scores=False)
            settings[key] = str(found.folder)
            names[str(found.folder)] = name
    code: dict[Path, str] = {}
    if asked.rewards:
        settings["rewards"] = [_reward(studio, results, reward, code, names) for reward in asked.rewards]
    paths, section = [], asked.values.get("data")
    mapped = isinstance(section, Mapping) and bool(section.get("columns"))
    for uploaded, param in ((asked.training_file, "training_file"), (asked.validation_file, "validation_file")):
        if uploaded is None:
            continue
        file = studio.rows_of(uploaded, param, mapped=mapped)
        paths.append(studio.files.content(file))
        names[str(paths[-1])] = file.filename
    source = studio.bases.source(asked.model)
    return JobInputs(source, paths[0], paths[1] if len(paths) > 1 else None, settings, names, code)


def config_of(asked: JobRequest, inputs: JobInputs, output: str = "-") -> RunConfig:
    """The run that a request asks for.

    Raises:
        ApiError: 400 if settings contradict each other or are not known.
    """
    try:
        return parse({**inputs.settings_of(asked), "output": output}, where=f"{EXTENSION}.settings")
    except ConfigError as error:
        raise ApiError(400, str(error), param=EXTENSION) from error


def check_device(studio: Studio, config: RunConfig) -> None:
    """Check that a worker computes on the device of a run. Raises ApiError (400) if there is none: the run would wait
    for ever."""
    wanted = config.compute.device
    if not studio.workers.serve(wanted):
        has = ", ".join(studio.workers.devices)
        message = (
            f"compute.device {wanted!r}: this studio has no worker for it; its devices are {has}: name one of them, "
            f"leave it auto, or start the studio with --worker {wanted} too"
        )
        raise ApiError(400, message, param=EXTENSION)


def adapter_of(studio: Studio, name: str, param: str) -> MadeAdapter:
    """The adapter of that name, or of a run of that name. Raises ApiError (404) if there is none."""
    return _result(results_of(studio.watcher, studio.bases.all()), name, param, scores=False)


def _result(results: Mapping[str, MadeAdapter], name: str, param: str, *, scores: bool) -> MadeAdapter:
    """The adapter of that name, or of a run of that name."""
    fitting = {key: one for key, one in results.items() if one.scores is scores}
    found = fitting.get(name) or next((one for one in fitting.values() if one.run == name), None)
    if found is None:
        what = "reward model" if scores else "adapter"
        known = ", ".join(list(fitting)[:8]) or "none yet"
        message = f"{param}: the folder has no finished {what} {name[:100]!r}{nearest(name, list(fitting))}"
        raise ApiError(404, f"{message}; known: {known}", param=param, code="model_not_found")
    return found


def _reward(
    studio: Studio,
    results: Mapping[str, MadeAdapter],
    reward: Mapping[str, Any],
    code: dict[Path, str],
    names: dict[str, str],
) -> dict[str, Any]:
    """A reward in the form of the configuration. The files and names that it needs are added to `code` and `names`."""
    kinds = [kind for kind in ("metric", "adapter", "source", "command") if reward.get(kind) is not None]
    if len(kinds) != 1 or not isinstance(reward[kinds[0]], str) or reward.get("python") is not None:
        message = (
            "a reward of a job has exactly one of metric (a name), adapter (the name of a reward model), source "
            "(Python code with grade(sample, item)) and command (a program), as a string, and no file of Python"
        )
        raise ApiError(400, f"{message}; got {', '.join(map(str, reward))[:200] or 'nothing'}", param="rewards")
    kind, value = kinds[0], str(reward[kinds[0]])
    rest = {key: one for key, one in reward.items() if key != kind and one is not None}
    if kind == "metric":
        if value not in NAMES:
            hint = nearest(value, list(NAMES))
            raise ApiError(400, f"metric {value[:40]!r} is unknown{hint}; possible are {', '.join(NAMES)}",
                           param="rewards")  # fmt: skip
        return {**rest, "metric": value}
    if kind == "adapter":
        found = _result(results, value, "rewards: adapter", scores=True)
        names[str(found.folder)] = value
        return {**rest, "adapter": str(found.folder)}
    if studio.job_code is not JobCode.RUN:
        message = (
            f"{'Python' if kind == 'source' else 'a command'} as a reward has all rights of the studio's user on this "
            "machine, so this studio refuses it; to allow it, start the studio with --job-code run"
        )
        raise ApiError(403, message, param="rewards", code="code_refused")
    if kind == "command":
        return {**rest, "command": value}
    if len(value) > LONGEST_SOURCE_CHARS:
        raise ApiError(400, f"a Python reward may have up to {LONGEST_SOURCE_CHARS:,} characters", param="rewards")
    text = wrapped(value)
    path = studio.own / GRADERS / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.py"
    code[path] = text
    names[f"{path}:{WRAPPED}"] = "grader.py:reward"
    return {"name": "grade", **rest, "python": f"{path}:{WRAPPED}"}
