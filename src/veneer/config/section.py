"""A section of the configuration: how it is read, and how its problems are reported in veneer's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from difflib import get_close_matches
from reprlib import Repr
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler  # pydantic 2.9 has it here alone

from veneer.config.foreign_values import veneers_value
from veneer.config.migration import counterpart
from veneer.errors import ConfigError, listing, nearest

_INSIDE: ContextVar[bool] = ContextVar("_INSIDE", default=False)
"""Whether a section is being read as a part of another, which then reports the problems of both."""

_SHORT = Repr()
_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlevel = 80, 80, 2


class Section(BaseModel):
    """A part of the configuration, or the whole. It accepts no unknown keys and never changes.

    Raises:
        ConfigError: keys are unknown (veneer's name is suggested) or missing, or values are wrong; all are named.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    place: ClassVar[str] = ""
    """The dotted key of the section in the configuration; empty for the whole."""

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, values: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        # However a section is made (by keyword, from a mapping, from a file), its problems are reported in veneer's
        # words.
        if _INSIDE.get():
            return handler(values)
        token = _INSIDE.set(True)
        values = sets_listed(values)
        try:
            return handler(values)
        except ValidationError as error:
            where = info.context if isinstance(info.context, str) else cls.__name__
            # A configuration of another library has some 30 keys, and its user translates all of them.
            raise ConfigError(f"{where} is not valid:\n{listing(_explain(error, cls, values), limit=100)}") from error
        finally:
            _INSIDE.reset(token)


def sets_listed(value: Any) -> Any:
    """A value with every set in it as a list in alphabetical order. The order of a set differs from process to process,
    so that a resumed run would not be the same run."""
    if isinstance(value, dict):
        return {key: sets_listed(item) for key, item in value.items()}
    return sorted(value, key=str) if isinstance(value, set | frozenset) else value


def keys_of(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key of a section, with the prefix."""
    keys = []
    for name, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys += keys_of(info.annotation, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def _explain(error: ValidationError, section: type[Section], given: Any) -> list[str]:
    """One line for each wrong key (pydantic reports a union once for every branch).

    Args:
        error: pydantic's error.
        section: the section to read.
        given: the values that it was read from.
    """
    above = section.place.split(".") if section.place else []
    known = keys_of(section, f"{section.place}." if section.place else "")
    lines: dict[str, list[str]] = {}
    met: dict[str, str] = {}
    for problem in error.errors():
        key = ".".join([*above, *map(str, problem["loc"])])
        if problem["type"] == "extra_forbidden":
            text = f"unknown key{_hint(key, known)}"
        elif problem["type"] == "missing":
            text = "required, but not given"
        else:
            key = _place_in(given, problem["loc"], above, known)
            text = _said(problem["type"], problem["msg"], problem["input"])
            ours = veneers_value(key, problem["input"])
            met[key] = f", got {_met(problem['input'])}" + (f"; veneer's is {ours}" if ours else "")
        lines.setdefault(key, []).append(text)
    # Of a union's branches, the one that complains about an item has recognised the type of the value.
    whole = {key for key in lines if any(other.startswith(f"{key}.") for other in lines)} & met.keys()
    return [
        f"{key}: {'; or '.join(dict.fromkeys(texts))}{met.get(key, '')}"
        for key, texts in lines.items()
        if key not in whole
    ]


def _place_in(given: Any, place: Sequence[int | str], above: Sequence[str], known: Sequence[str]) -> str:
    """Pydantic's place of a problem, as the keys and numbers that lead to it in the given values. Pydantic adds names
    of a union's branches and of validators between and after them.

    Args:
        given: the values that were read.
        place: pydantic's `loc`.
        above: the keys of the section itself.
        known: every known key; a key that was not given may have a default that is wrong here.
    """
    steps = list(above)
    for step in place:
        items = isinstance(given, list | tuple) and isinstance(step, int) and step < len(given)
        if items or (isinstance(given, Mapping) and step in given):
            given = given[step]
        elif ".".join([*steps, str(step)]) not in known:
            continue
        steps.append(str(step))
    return ".".join(steps)


def _met(value: Any) -> str:
    """The value that was found. YAML reads an empty value as null, which differs from empty text."""
    return "nothing (null)" if value is None else _SHORT.repr(value)


def _said(kind: str, message: str, given: Any) -> str:
    """What a value must be, in the words of YAML and of the command line, if pydantic uses Python's."""
    if kind in ("tuple_type", "list_type"):
        item = given if isinstance(given, (str, int, float)) and given != "" else "…"
        return f"must be a list, such as [{item}]"
    if kind in ("dict_type", "mapping_type"):
        return "must be a mapping, such as {key: value}"
    if kind in ("model_type", "model_attributes_type"):
        return "is a section, and must be a mapping of its keys, such as {key: value}"
    message = message.removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}"


def _hint(key: str, known: list[str]) -> str:
    """veneer's name for an unknown key: the names of other programs are tried first, then the nearest spelling.

    The nearest is the known key that is closest as a whole, or whose last word is closest.
    """
    if meant := counterpart(key.split(".")):
        return f"; {meant.sentence()}"
    leaf = key.rpartition(".")[2]
    if key in known:
        section = key.rpartition(".")[0]
        return f" with a dot in it; give {leaf!r} as a key of the section {section!r}"
    known = [*known, *dict.fromkeys(name.partition(".")[0] for name in known if "." in name)]
    homes = {name.rpartition(".")[2]: name for name in reversed(known)}
    if leaf in homes:
        return f" (did you mean {homes[leaf]!r}?)"
    close = get_close_matches(leaf, homes, n=1, cutoff=0.6)
    return nearest(key, known) or (f" (did you mean {homes[close[0]]!r}?)" if close else "")
