"""Values of a configuration before they are checked: nested mappings, read from YAML and set by dotted keys."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from veneer.errors import ConfigError, listing


class _StrictLoader(yaml.CSafeLoader):
    """YAML that refuses what SafeLoader misreads: a key that is given twice, of which the last one would win, and
    numbers in the notation of YAML 1.1, in which `1:30` is 90 and `010` is 8."""

    def __init__(self, stream: str):
        super().__init__(stream)
        self._merged: set[yaml.Node] = set()

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError) as error:  # SafeLoader on February 30th, !!bool x, …
            kind = node.tag.rpartition(":")[2]
            raise ConfigError(
                f"line {node.start_mark.line + 1}: {node.value!s:.60} looks like a value of YAML's type {kind} but is "
                "not valid; write text in quotation marks"
            ) from error

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge the mappings that its merge key (`<<`) names into a mapping; the first of them takes precedence. In
        SafeLoader's own version this depends on the release."""
        if node in self._merged:
            return
        self._merged.add(node)
        self._refuse_repeats(node)
        merged = [one for key, value in node.value if key.tag == _MERGE for one in reversed(_sources(value))]
        for source in merged:
            self.flatten_mapping(source)
        both = [pair for one in (*merged, node) for pair in one.value if pair[0].tag != _MERGE]
        node.value = list({_told_by(key): (key, value) for key, value in both}.values())

    def _refuse_repeats(self, node: yaml.MappingNode) -> None:
        keys = [key.value if key.tag == _MERGE else self.construct_object(key) for key, _ in node.value]
        repeats = [number for number, key in enumerate(keys) if key in keys[:number]]
        if repeats:
            line = node.value[repeats[0]][0].start_mark.line + 1
            twice = ", ".join(sorted({str(keys[number]) for number in repeats}))
            raise ConfigError(f"line {line}: key given twice: {twice}; each key may occur only once")


_MERGE = "tag:yaml.org,2002:merge"


def _sources(node: yaml.Node) -> list[yaml.MappingNode]:
    """The mappings that the value of a merge key names: one, or a list of them."""
    found = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not all(isinstance(one, yaml.MappingNode) for one in found):
        raise ConfigError(
            f"line {node.start_mark.line + 1}: << merges mappings; give one (`<<: *name`), or a list of them"
        )
    return list(found)


def _told_by(key: yaml.Node) -> Any:
    """What distinguishes the key from the others of a mapping."""
    return (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    return dict(loader.construct_mapping(node, deep=True))


_OLD_NUMBER = re.compile(r"[-+]?[0-9][0-9_]*(:[0-9_.]+)+|[-+]?0[0-9_]+")


def _number(loader: _StrictLoader, node: yaml.ScalarNode) -> Any:
    value = loader.construct_yaml_float(node) if node.tag.endswith("float") else loader.construct_yaml_int(node)
    if _OLD_NUMBER.fullmatch(node.value):
        raise ConfigError(
            f"line {node.start_mark.line + 1}: {node.value} is {value} in YAML; write that, or what you mean: a time "
            "as 1h30m, a number without leading zeros, text in quotation marks"
        )
    return value


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
for _kind in ("int", "float"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _number)


def _loaded(text: str) -> Any:
    """The value of a text in YAML.

    Raises:
        ConfigError: it is not YAML, or SafeLoader would misread it.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        if error.problem_mark is None:
            raise ConfigError(f"not valid YAML: {error}") from error
        line, column = error.problem_mark.line, error.problem_mark.column
        at_tab = "".join(text.splitlines()[line : line + 1])[column : column + 1] == "\t"
        problem = "a tab; indent with spaces" if at_tab else error.problem
        raise ConfigError(f"not valid YAML: line {line + 1}, column {column + 1}: {problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"not valid YAML: {error}") from error


def home_replaced(name: str) -> str:
    """The name of a file or a folder with `~` and `~NAME` at its start replaced. Shells do not replace them
    after the `=` of an option.

    Raises:
        ValueError: the home is not known.
    """
    if not name.startswith("~"):  # Path drops the `./` of `./~NAME`, which would be replaced then
        return name
    try:
        return str(Path(name).expanduser())
    except RuntimeError as problem:  # of no class of its own
        shown = name if len(name) <= 300 else f"{name[:300]}…"
        raise ValueError(
            f"{shown}: {problem} `~` means the folder in HOME, and `~NAME` the home of a user: write the path in "
            "full, or ./~NAME for a file of this name."
        ) from problem


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: it cannot be read, is not YAML, or does not hold a mapping.
    """
    try:
        values = _loaded(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; give a YAML file of settings") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start + 1:,} is not UTF-8; save the file as UTF-8") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: holds a {type(values).__name__}; it must hold keys and values, such as `model: DIR`"
        )
    return values


def read_assignment(text: str) -> tuple[str, Any]:
    """The dotted key and value of an assignment `key=value`, whose value is YAML.

    Raises:
        ConfigError: it has no `=` or no key, or its value is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r}: write it as key=value, for example train.epochs=2")
    return key.strip(), read_value(value, f"--set {text!r}")


def read_value(text: str, option: str) -> Any:
    """The value of a text in YAML; empty text is null.

    Args:
        text: the value as the user gave it.
        option: the name of the option, for messages.

    Raises:
        ConfigError: it is not YAML.
    """
    try:
        return _loaded(text) if text.strip() else None
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}") from error


def given_twice(settings: Iterable[tuple[str, Any]]) -> list[str]:
    """The settings that have two values in a sequence of settings, with both values.

    Args:
        settings: pairs of a dotted key and its value, which may be a section.
    """
    found: list[str] = []
    before: dict[str, Any] = {}
    for key, value in settings:
        own = flat({key: value})
        lost = {one: old for one, old in before.items() if one in own or one.startswith(f"{key}.")}
        found += [
            f"{one}: {old!r} and " + (repr(own[one]) if one in own else f"{key}: {value!r}")
            for one, old in lost.items()
            if one not in own or own[one] != old
        ]
        before = {one: old for one, old in before.items() if one not in lost} | own
    return found


def refuse_two_values(found: Sequence[str]) -> None:
    """Refuse settings that have two values.

    Args:
        found: a line for each, with both values.

    Raises:
        ConfigError: there are such settings; all are named.
    """
    if found:
        raise ConfigError(f"a setting has two values; give one of them:\n{listing(found)}")


def override(values: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """A copy of `values` with `key=value` assignments (dotted keys, YAML values) applied.

    Raises:
        ConfigError: an assignment has no `=`, its value is not YAML, or its key leads through a plain value.
    """
    return laid_over(values, map(read_assignment, assignments))


def laid_over(values: Mapping[str, Any], settings: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A copy of `values` with settings (dotted key and value) applied.

    Raises:
        ConfigError: a key leads through a plain value.
    """
    result = _copy(values)
    for key, value in settings:
        put(result, key, value)
    return result


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested values."""
    *sections, leaf = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{key}: {section!r} is a value, not a section")
    values[leaf] = value


def drop(values: dict[str, Any], key: str) -> None:
    """Remove a dotted key from nested values, if it exists."""
    *sections, leaf = key.split(".")
    for section in sections:
        values = values.get(section, {})
        if not isinstance(values, dict):
            return
    values.pop(leaf, None)


_AMOUNT = r"\d+(?:\.\d+)?"
_DURATION = re.compile(
    rf"(?P<alone>{_AMOUNT}(?:e[-+]?\d+)?)|(?:(?P<h>{_AMOUNT})h)?(?:(?P<m>{_AMOUNT})m)?(?:(?P<s>{_AMOUNT})s)?"
)
"""A number alone means seconds. After hours or minutes it needs a unit: many people would read 1h30 as 1h30m."""
_SECONDS = {"alone": 1.0, "h": 3600.0, "m": 60.0, "s": 1.0}


def seconds_of(value: Any) -> Any:
    """The seconds of a duration in common notation (`90`, `90s`, `10m`, `1h30m`); a value that is not text stays as it
    is.

    Raises:
        ValueError: the text is not a duration, or an infinite one.
    """
    if not isinstance(value, str):
        return value
    text = value.replace(" ", "").lower()
    found = _DURATION.fullmatch(text)
    if not text or found is None:
        raise ValueError("must be a time: seconds, or such as 90s, 10m, 1h30m")
    seconds = sum(size * float(found[unit] or 0) for unit, size in _SECONDS.items())
    if not math.isfinite(seconds):
        raise ValueError("must be a finite time")
    return seconds


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in values.items()}


def flat(settings: Mapping[str, Any], prefix: str = "", *, whole: Collection[str] = ()) -> dict[str, Any]:
    """Nested settings by their dotted keys.

    Args:
        settings: nested values.
        prefix: the prefix of every key.
        whole: dotted keys whose value is kept whole even if it is a mapping.
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value and f"{prefix}{key}" not in whole:
            found |= flat(value, f"{prefix}{key}.", whole=whole)
        else:
            found[f"{prefix}{key}"] = value
    return found
