"""Checks the arguments of public functions against their annotations, before anything is done.

A type checker finds a wrong type where it is written. Without one, as in a notebook, the caller learns of it here, and
not from a later failure or a result that means something else.
"""

from __future__ import annotations

import os
import types
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from reprlib import Repr
from typing import Any, Union, get_args, get_origin, get_type_hints

from veneer.errors import ConfigError, listing

_SHORT = Repr()
_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlevel = 80, 80, 2

_WORDS = {
    str: "a text",
    Path: "a path",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    types.NoneType: "None",
}


def check_types(function: Callable[..., object], values: Mapping[str, object]) -> None:
    """Refuse arguments whose types differ from a function's annotations; only types are checked.

    Args:
        function: the function whose annotations count.
        values: the arguments by name.

    Raises:
        ConfigError: a type is wrong; the message names each wrong argument, what it must be, and what was given.
    """
    hints = _hints(function)
    problems = [line for name, value in values.items() if (line := _problem(name, value, hints[name]))]
    if problems:
        raise ConfigError(f"veneer.{function.__name__}: arguments of the wrong type:\n{listing(problems)}")


def check_type(name: str, value: object, kind: Any) -> None:
    """Refuse a value that is not of a type, as `check_types` does.

    Raises:
        ConfigError: the type is wrong.
    """
    line = _problem(name, value, kind)
    if line:
        raise ConfigError(line)


def check_least(least: int, numbers: Mapping[str, int | None]) -> None:
    """Refuse numbers below the smallest allowed one; None is always allowed.

    Raises:
        ConfigError: numbers are too small; the message names each.
    """
    problems = [
        f"{name}: must be at least {least}, got {number}"
        for name, number in numbers.items()
        if number is not None and number < least
    ]
    if problems:
        raise ConfigError(f"numbers that are too small:\n{listing(problems)}")


def names_given(given: str | Iterable[str]) -> tuple[str, ...]:
    """Names given alone or as a list; a single string is one name, not its letters."""
    return (given,) if isinstance(given, str) else tuple(given)


def repeats(given: Mapping[str, Sequence[str]]) -> list[str]:
    """A line for each name that an argument has more than once, since one of them would be ignored.

    Args:
        given: the names in each argument, by argument.
    """
    return [
        f"{argument}: {name!r} is given {times} times; give it once"
        for argument, names in given.items()
        for name, times in Counter(names).items()
        if times > 1
    ]


@cache
def _hints(function: Callable[..., object]) -> dict[str, Any]:
    return get_type_hints(function)


def _problem(name: str, value: object, kind: Any) -> str:
    if fits(value, kind):
        return ""
    return f"{name}: must be {described(kind)}, got {_SHORT.repr(value)}{_remedy(name, value)}"


def _remedy(name: str, value: object) -> str:
    # What `datasets` loads where no split is named; the library is not imported for it.
    if not isinstance(value, Mapping) or not type(value).__name__.endswith("DatasetDict"):
        return ""
    return f"; give one of its splits: {', '.join(f'{name}[{split!r}]' for split in value)}"


def fits(value: object, kind: Any) -> bool:
    """Whether a value is of the type that an annotation states.

    A string is not a list of strings, and an iterator is not a list either: it could be read only once. The elements of
    an `Iterable` are not checked here, but where it is iterated over.
    """
    origin: Any = get_origin(kind) or kind
    inner = get_args(kind)
    if origin is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if not isinstance(origin, type):
        return True
    if origin is Callable:
        return callable(value)
    if issubclass(origin, Mapping):
        keys, values = inner or (Any, Any)
        return isinstance(value, Mapping) and all(fits(k, keys) and fits(v, values) for k, v in value.items())
    if issubclass(origin, Collection) and not issubclass(origin, str):
        return _many(value) and isinstance(value, Collection) and all(fits(one, inner[0]) for one in value)
    if origin is Iterable:
        return _many(value) and isinstance(value, Iterable)
    return _one(value, origin)


def _many(value: object) -> bool:
    return not isinstance(value, str | bytes | bytearray | Mapping | type)


def _one(value: object, kind: type) -> bool:
    """Whether a value is of a class. A number may be numpy's, and a bool is not a number."""
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    return isinstance(value, os.PathLike if kind is Path else kind)


def described(kind: Any) -> str:
    """The name of a type for people: "a text, a path or None"."""
    origin: Any = get_origin(kind) or kind
    inner = get_args(kind)
    if origin in (Union, types.UnionType):
        words = [described(one) for one in inner]
        return f"{', '.join(words[:-1])} or {words[-1]}"
    if origin is Any:
        return "anything"
    if origin in _WORDS:
        return _WORDS[origin]
    if origin is Callable:
        return "a function"
    if not isinstance(origin, type):
        return "anything"
    if issubclass(origin, Mapping):
        known = inner and Any not in inner
        return f"a mapping ({described(inner[0])} to {described(inner[1])})" if known else "a mapping"
    if issubclass(origin, Iterable) and inner:
        many = "a list or another iterable" if origin is Iterable else "a list"
        return many if inner[0] is Any else f"{many} (each {described(inner[0])})"
    return f"{'an' if origin.__name__[0] in 'AEIOU' else 'a'} {origin.__name__}"
