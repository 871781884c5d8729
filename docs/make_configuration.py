"""Print docs/configuration.md from the declarations in `veneer.config`: `make docs` runs it, a test compares."""

from __future__ import annotations

import types
import typing
from datetime import date
from enum import Enum
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from veneer.config import RunConfig

HEAD = """# Configuration

Every setting of a run. In a YAML file they stand in sections, as the keys are dotted; on the command line any of them
is `--set key=value`. An unknown key is refused. Made from `src/veneer/config/` by `make docs`.

| key | values | default | meaning |
|---|---|---|---|"""


def rows(section: type[BaseModel], prefix: str = "") -> list[str]:
    """A table row for every key of a section and those below it."""
    lines = []
    for name, info in section.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            lines += rows(kind, f"{prefix}{name}.")
            continue
        meaning = " ".join((info.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{prefix}{name}` | {values(info)} | {default(info)} | {meaning} |")
    return lines


def values(info: FieldInfo) -> str:
    """What may stand there."""
    bounds = {"Ge": "≥", "Gt": ">", "Le": "≤", "Lt": "<"}
    limits = []
    for item in [*info.metadata, *inner_metadata(info.annotation)]:
        sign = bounds.get(type(item).__name__)
        if sign:
            limit = next(iter(vars_of(item).values()))
            limits.append(f"{sign} {limit:,}" if isinstance(limit, int) else f"{sign} {limit:g}")
    text = kind_name(info.annotation)
    return f"{text}, {' and '.join(limits)}" if limits else text


def vars_of(item: Any) -> dict[str, Any]:
    """The fields of an annotated-types constraint."""
    return {slot: getattr(item, slot) for slot in item.__dataclass_fields__}


def inner_metadata(kind: Any) -> list[Any]:
    """Constraints that stand inside a union, as in `Count | None`."""
    found: list[Any] = []
    for part in typing.get_args(kind):
        if typing.get_origin(part) is typing.Annotated:
            for item in typing.get_args(part)[1:]:
                found += getattr(item, "metadata", [item])
    return found


def kind_name(kind: Any) -> str:
    """A type as people say it."""
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return kind_name(typing.get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(kind_name(part) for part in typing.get_args(kind) if part is not type(None))
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(kind))
    if origin is tuple:
        item = typing.get_args(kind)[0]
        if isinstance(item, type) and issubclass(item, BaseModel):
            return f"list of {{{', '.join(item.model_fields)}}}"
        name = kind_name(item)
        return f"list of {name}" if name.endswith("`") else f"list of {name}s"
    if origin is dict:
        return f"{kind_name(typing.get_args(kind)[1])} by name"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{member.value}`" for member in kind)
    return {str: "text", int: "whole number", float: "number", bool: "`true`, `false`", date: "date"}[kind]


def default(info: FieldInfo) -> str:
    """What stands there if nothing is given."""
    if info.is_required():
        return "required"
    if info.default is None:
        return "none"
    if info.default in ((), {}):
        return "nothing"
    return f"`{as_yaml(info.default)}`"


def as_yaml(value: Any) -> str:
    """A value as a YAML file has it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(as_yaml, value))}]"
    if isinstance(value, Enum):
        return str(value.value)
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    print("\n".join([HEAD, *rows(RunConfig)]))
