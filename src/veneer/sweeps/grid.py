"""The points of a grid: every combination of the varied settings, each as the configuration of a run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from veneer.config import RunConfig, parse
from veneer.config.section import sets_listed
from veneer.config.values import laid_over, read_value
from veneer.errors import ConfigError, listing
from veneer.training.evaluations.best import best_by

LONGEST_NAME = 80
"""The most characters of a folder's name."""


@dataclass(frozen=True, slots=True)
class Point:
    """One combination of the varied settings, and its run."""

    name: str
    """The name of the point's folder."""
    settings: Mapping[str, Any]
    """The varied settings, by dotted key."""
    config: RunConfig


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Varied settings from `key=value,value`; values are YAML.

    Raises:
        ConfigError: a text has another form, gives no value or one value twice, or a key is given twice; all such texts
            are named.
    """
    grid: dict[str, list[Any]] = {}
    problems = []
    for text in texts:
        key, equals, values = (piece.strip() for piece in text.partition("="))
        if not equals or not key or not values:
            problems.append(f"{text!r}: write it as key=value,value, for example lora.rank=4,16")
            continue
        try:
            found = [_number(value) for value in read_value(f"[{values}]", repr(text))]
        except ConfigError as error:
            problems.append(str(error))
            continue
        if key in grid:
            problems.append(f"{key}: given twice; give all of its values at once")
        if _repeats(found):
            problems.append(f"{key}: a value is given twice")
        grid[key] = found
    if not grid and not problems:
        problems.append("nothing is varied; give at least one key=value,value")
    if problems:
        raise ConfigError(f"the grid cannot be used:\n{listing(problems)}")
    return grid


def check_settings(grid: Mapping[str, Sequence[Any]], given: Iterable[str]) -> None:
    """Refuse keys of a grid that the command line sets as well, since one of the two would be ignored.

    Args:
        grid: the varied settings.
        given: the dotted keys that options and `--set` give a value to. A key that a file sets may be varied.

    Raises:
        ConfigError: there are such keys; all are named.
    """
    twice = [key for key in dict.fromkeys(given) if key in grid or _section_of(key, grid) is not None]
    if twice:
        raise ConfigError(f"a setting is both varied and set; give it only to --grid:\n{listing(twice)}")


def _number(value: Any) -> Any:
    """A number that YAML reads as text, such as 1e-4, which has no dot."""
    return float(value) if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value) else value


def plain_grid(grid: Mapping[str, Iterable[Any]]) -> dict[str, list[Any]]:
    """Varied settings in the form that the table of a sweep can contain: paths and members of an `Enum` as text,
    numbers of numpy as Python's, sets as sorted lists."""
    return {key: [_plain(value) for value in some] for key, some in grid.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    value = sets_listed(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def points(values: Mapping[str, Any], grid: Mapping[str, Sequence[Any]], output: Path) -> list[Point]:
    """All points, with the last key varying fastest; each has its own folder in `output`.

    Raises:
        ConfigError: a point is not a valid configuration, a key has no values or one of them twice, or nothing is
            varied; all such points and keys are named.
    """
    found, problems = list[Point](), _problems(grid)
    for number, chosen in enumerate(product(*grid.values()), start=1):
        settings = dict(zip(grid, chosen, strict=True))
        name = _name(number, settings)
        own = laid_over(values, [*settings.items(), ("output", str(output / name))])
        try:
            config = parse(own, where="the point")
            best_by(config)  # raises if its objective has no such metric
            found.append(Point(name, settings, config))
        except ConfigError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise ConfigError(f"these points cannot be run:\n{listing(problems)}")
    return found


def _problems(grid: Mapping[str, Sequence[Any]]) -> list[str]:
    """Why a grid has no distinct points, independently of the other settings."""
    found = [] if grid else ["nothing is varied; give at least one setting and its values"]
    for key, some in grid.items():
        if not some:
            found.append(f"{key}: no value is given; give at least one")
        if _repeats(some):
            found.append(f"{key}: a value is given twice")
        section = _section_of(key, grid)
        if section is not None:
            found.append(f"{key}: it is a part of {section}, which is varied too; vary one of them")
    if "output" in grid:
        found.append("output: every point has its own folder; give the sweep's folder by --output")
    return found


def _repeats(values: Sequence[Any]) -> bool:
    return any(value in values[:place] for place, value in enumerate(values))


def _section_of(key: str, grid: Mapping[str, Any]) -> str | None:
    """The varied section that a key is a part of: the value of either the key or the section would be ignored."""
    return next((section for section in grid if key.startswith(f"{section}.")), None)


def _name(number: int, settings: Mapping[str, Any]) -> str:
    leaves = [key.rpartition(".")[2] for key in settings]
    words = []
    for (key, value), leaf in zip(settings.items(), leaves, strict=True):
        words.append(f"{leaf if leaves.count(leaf) == 1 else key}={value}")
    return f"{number:02d}-" + re.sub(r"[^A-Za-z0-9=.,+_-]+", "_", ",".join(words))[:LONGEST_NAME]
