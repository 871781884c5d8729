"""The types of values on the command line. Each refuses values that would be mistaken for something else, before
anything heavy is imported."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import click


class Number(click.types.FloatParamType):
    """A finite number: NaN and infinity, which Python would accept, are refused.

    Args:
        above: the bound that the number must exceed.
    """

    name = "number"

    def __init__(self, above: float = -math.inf):
        self.above = above

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType.convert`."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        if not number > self.above:
            self.fail(f"{value} is not above {self.above:g}.", param, ctx)
        return number


class Text(click.types.StringParamType):
    """Text in UTF-8; other bytes are refused before anything is loaded."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See `click.ParamType.convert`."""
        text = str(super().convert(value, param, ctx))
        fault = _fault_of(text)
        if fault is not None:
            self.fail(fault, param, ctx)
        return text


def _fault_of(text: str) -> str | None:
    """Why text is not UTF-8; None if it is."""
    from veneer.data.files.json_values import half_character
    from veneer.screens.standard_input import not_text

    at = half_character(text)
    return None if at is None else f"it {not_text(text, at)}."


class Name(Text):
    """The name of something, such as a model or a file. An empty name, as an unset variable gives it, is refused: it
    would mean the current folder, or nothing.

    Args:
        forms: the forms that may be given, for the error.
    """

    def __init__(self, forms: str):
        self.forms = forms

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See `click.ParamType.convert`."""
        text = super().convert(value, param, ctx)
        if not text.strip():
            self.fail(f"{text!r} is empty; give {self.forms}.", param, ctx)
        return text


class FilePath(click.Path):
    """The path of a file or a folder, in which `~` is replaced. An empty one, which would be the current folder, is
    refused as by `Name`, and one that is not UTF-8, which no record of a run or an export can hold."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """See `click.ParamType.convert`."""
        if value == "":
            self.fail("'' is not a path; give one (. is the current folder).", param, ctx)
        path = os.fsdecode(value)
        fault = _fault_of(path)
        if fault is not None:
            self.fail(fault, param, ctx)
        return Path(os.fsdecode(super().convert(_home_replaced(self, path, param, ctx), param, ctx)))


class Folder(Name):
    """The name of a folder as a setting takes it, in which `~` is replaced."""

    def __init__(self) -> None:
        super().__init__("a folder")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See `click.ParamType.convert`."""
        return _home_replaced(self, super().convert(value, param, ctx), param, ctx)


def _home_replaced(kind: FilePath | Folder, name: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
    from veneer.config.values import home_replaced

    try:
        return home_replaced(name)
    except ValueError as problem:
        kind.fail(str(problem), param, ctx)


class Duration(click.types.FloatParamType):
    """A number of seconds, from a duration as people write it: 90, 90s, 10m, 1h30m."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType.convert`."""
        from veneer.config.values import seconds_of

        try:
            seconds = float(seconds_of(value))
        except ValueError as error:
            self.fail(f"{value!r} {error}.", param, ctx)
        if not seconds > 0:
            self.fail(f"{value!r} is not above 0.", param, ctx)
        return seconds


class Count(click.IntRange):
    """A whole number.

    Args:
        least: the smallest number allowed.
        most: the largest number allowed.
    """

    name = "integer"

    def __init__(self, least: int = 1, most: int = 1_000_000_000):
        super().__init__(min=least, max=most)


MODEL = Name("a directory, a GGUF file or a hub id")
ROWS = Name("a file of rows, or hub:owner/name[split]")
ADDRESS = Name("ray, HOST:PORT or ray://HOST:PORT")
PATH = FilePath()
FOLDER = Folder()
COUNT = Count()
FEW, MANY = Count(most=1_024), Count(most=1_000_000)
"""Counts of things that are done one by one, or held in memory."""
RANK = Count(most=65_536)
SEED = Count(0, 2**31 - 1)
