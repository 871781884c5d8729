"""Compares the settings of an export with those it should have: configuration, tokenizer and chat template, key by key.

Both are what files hold: the metadata of a GGUF file, or the JSON and text files of a directory. They are compared
directly, because a setting that is off by a thousandth, or a token that no prompt contains, shows in no answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from reprlib import Repr
from typing import Any

import numpy as np

from veneer.errors import ModelError
from veneer.exports.certificate import parted

LOADED = (
    *("*.safetensors", "*.safetensors.index.json", "adapter_config.json", "added_tokens.json"),
    *("additional_chat_templates", "chat_template.*", "generation_config.json", "special_tokens_map.json"),
)
"""Names that loaders read if they exist, besides the files that every model's directory has."""
SHOWN = 60
"""The most characters of a text that a message shows."""
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = SHOWN
_ABSENT = object()


def differences(expected: Any, found: Any, where: str = "") -> Iterator[str]:
    """Every place where two trees of plain values differ, as "key: is X, should be Y".

    Numbers with a fraction are compared as float32 holds them: GGUF files have no other numbers. In a list only the
    first difference is named.
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
        if isinstance(expected, str) and isinstance(found, str) and max(len(expected), len(found)) > SHOWN:
            at = parted(expected, found)
            where = f"{where} from character {at + 1}"
            expected, found = (text[at : at + SHOWN] for text in (expected, found))
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


def text_differences(expected: str, found: Path, *, first: int = 0) -> list[str]:
    """The differences of a text file of an export.

    Args:
        expected: the text that it should hold.
        found: the file.
        first: the line that is compared first; those before it are left out.
    """
    if not found.is_file():
        return [f"{found.name}: missing"]
    wanted, there = ("".join(text.splitlines(True)[first:]) for text in (expected, _content(found)["text"]))
    return list(differences(wanted, there, found.name))


def unexpected_files(expected: Path, found: Path, *weights: str) -> list[str]:
    """Files of an export that a loader would read but that should not be there.

    Args:
        expected: a folder with the files as they should be, without the weights.
        found: the export.
        weights: the names of the export's weight files.
    """
    known = {*weights, *(file.name for file in expected.iterdir())}
    present = sorted(file.name for file in found.iterdir() if file.name not in known)
    return [f"{name}: should not be there" for name in present if any(fnmatch(name, one) for one in LOADED)]


def _is_text(file: Path) -> bool:
    return file.is_file() and file.suffix in (".json", ".jinja", ".txt")


def _content(file: Path) -> Any:
    try:
        text = file.read_text(encoding="utf-8")
        # A bare text is one value, under a name that reads well in a message.
        return json.loads(text) if file.suffix == ".json" else {"text": text}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} is damaged: {error}") from error
