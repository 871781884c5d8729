"""Settings of an export beside those that it should have: configuration, tokenizer and chat template, key by key.

Both are what files hold: the metadata of a GGUF file, or the JSON and text files of a directory. They are compared as
they stand, since a setting that is a thousandth off, or a token that no prompt has, shows in no answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from reprlib import Repr
from typing import Any

import numpy as np

from veneer.errors import ModelError

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_ABSENT = object()


def differences(expected: Any, found: Any, where: str = "") -> Iterator[str]:
    """Every place where two trees of plain values differ, as "key: is X, should be Y".

    Numbers with a fraction are compared as float32 holds them: GGUF files have no other. Of a list the first difference
    is named alone.
    """
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in dict.fromkeys((*expected, *found)):
            place = f"{where}.{key}" if where else str(key)
            yield from differences(expected.get(key, _ABSENT), found.get(key, _ABSENT), place)
    elif isinstance(expected, list | tuple) and isinstance(found, list | tuple) and len(expected) == len(found):
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            if not _equal(one, other):
                yield from differences(one, other, f"{where}[{number}]")
                return
    elif not _equal(expected, found):
        yield f"{where}: is {_shown(found)}, should be {_shown(expected)}"


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, float) or isinstance(other, float):
        numbers = isinstance(one, int | float) and isinstance(other, int | float)
        return numbers and bool(np.float32(one) == np.float32(other))
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_equal(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "not there"
    if isinstance(value, list | tuple | Mapping) and len(value) > 4:
        return f"{len(value)} entries"
    return _SHORT.repr(value)


def file_differences(expected: Path, found: Path) -> list[str]:
    """Every setting that differs between the JSON and text files of two folders; weights are left out.

    Args:
        expected: a folder with the files as they should be; all of them are compared.
        found: the export.
    """
    problems = []
    for name in sorted(file.name for file in expected.iterdir() if _is_text(file)):
        if not (found / name).is_file():
            problems.append(f"{name}: missing")
            continue
        wanted, there = (_content(folder / name) for folder in (expected, found))
        problems += [f"{name}: {one}" for one in differences(wanted, there)]
    return problems


def _is_text(file: Path) -> bool:
    return file.is_file() and file.suffix in (".json", ".jinja", ".txt")


def _content(file: Path) -> Any:
    try:
        text = file.read_text(encoding="utf-8")
        # A text alone is one value, under a name that reads well in a message.
        return json.loads(text) if file.suffix == ".json" else {"text": text}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{file} is damaged: {error}") from error
