"""The base that an adapter was trained on: the digests of its files are in the adapter's folder.

An adapter fits every base of the same shapes, but computes nonsense on a base other than its own. So the file
`base_model.json` is kept with the adapter's two other files. PEFT does not read it. Adapters of older runs have the
digests in their `run.lock`; PEFT's have none.

A quantised copy of a model (`veneer quantize`) has other files, but computes the same up to quantisation, as method
qlora does. So the copy records the files of its source, in `quantized_from.json`, and counts as the same base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

from veneer.adapters.files.integrity import LOCK_FILE, check_unchanged, read_record
from veneer.errors import AdapterError, listing, reading
from veneer.io.digests import BackgroundDigests, file_digest, sha256
from veneer.io.files import write_text
from veneer.text.strict_json import to_text

BASE_FILE = "base_model.json"
SOURCE_FILE = "quantized_from.json"
FORMAT = 1
COMPUTED = (".safetensors", ".gguf")
"""Ends of the names of files that decide what a base model computes, in addition to `config.json`. A changed answer end
or chat template does not make it another model."""


def write_base(directory: Path, files: Mapping[str, str]) -> None:
    """Record the base of an adapter, in the adapter's folder.

    Args:
        directory: the folder.
        files: the SHA-256 of the base's files, by name; nothing is written if there are none.

    Raises:
        OutputError: the file cannot be written.
    """
    own = {name: digest for name, digest in files.items() if computes(name)}
    if own:
        write_text(directory / BASE_FILE, to_text({"format": FORMAT, "files": own}, indent=2) + "\n")


def read_base(directory: Path, digest: Callable[[Path], str] = file_digest) -> dict[str, str]:
    """The SHA-256 of the files of an adapter's base, by name; empty if the adapter does not record them.

    Args:
        directory: the adapter's folder.
        digest: a function that returns the SHA-256 of a file of the adapter.

    Raises:
        AdapterError: the record is damaged.
    """
    check_unchanged(directory, BASE_FILE, digest)
    own, lock = read_record(directory / BASE_FILE), read_record(directory / LOCK_FILE)
    where, files = directory / BASE_FILE, None if own is None else own.get("files")
    if own is None:
        base = {} if lock is None else lock.get("base")
        where, files = directory / LOCK_FILE, base.get("files", {}) if isinstance(base, dict) else None
    if not _are_digests(files):
        raise AdapterError(
            f"{where} is damaged: the digests of the base model are not an object of strings; delete the file"
        )
    return {name: digest for name, digest in files.items() if computes(name)}


def computes(name: str) -> bool:
    """Whether a file of this name decides what a model computes."""
    return name.endswith(COMPUTED) or name == "config.json"


def base_differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Files of a base model that are not those of another time, a line for each; renamed ones are the same.

    Args:
        then: the SHA-256 of the files by name, at one time.
        now: at the other.
    """
    here = {digest for name, digest in now.items() if computes(name)}
    there = {digest for name, digest in then.items() if computes(name)}
    lost = [name for name, digest in then.items() if computes(name) and digest not in here]
    found = [name for name, digest in now.items() if computes(name) and digest not in there]
    return [
        *(f"{name}: has other content" for name in lost if name in found),
        *(f"{name}: is not there" for name in lost if name not in found),
        *(f"{name}: was not there" for name in found if name not in lost),
    ]


def write_source(directory: Path, source: Mapping[str, str]) -> None:
    """Record the model that a folder is a quantised copy of, and the copy's own digests.

    Args:
        directory: the folder, with everything else that belongs to it.
        source: the SHA-256 of the model's files, by name.

    Raises:
        OutputError: the file cannot be written.
    """
    own = {file.name: sha256(file) for file in sorted(directory.iterdir()) if computes(file.name)}
    content = {"format": FORMAT, "source": {name: source[name] for name in source if computes(name)}, "files": own}
    write_text(directory / SOURCE_FILE, to_text(content, indent=2) + "\n")


def read_source(directory: Path, now: Mapping[str, str]) -> dict[str, str]:
    """The SHA-256 of the files of the model that a folder is a quantised copy of, by name; empty if it is not a copy,
    or has changed since it was written.

    Args:
        directory: the folder.
        now: the SHA-256 of the folder's files, by name.

    Raises:
        AdapterError: the folder's record of it is damaged.
    """
    record = read_record(directory / SOURCE_FILE)
    if record is None:
        return {}
    source, own = record.get("source"), record.get("files")
    if not (_are_digests(source) and _are_digests(own)):
        raise AdapterError(
            f"{directory / SOURCE_FILE} is damaged: the digests of the model and of its quantised copy are not objects "
            "of strings; delete the file"
        )
    return {} if base_differences(own, now) else dict(source)


def _are_digests(value: object) -> TypeGuard[dict[str, str]]:
    return isinstance(value, dict) and all(isinstance(digest, str) for digest in value.values())


class BaseFiles:
    """The files of a base model, which are hashed in the background."""

    def __init__(self, files: Sequence[Path]):
        own = {file.name: file for file in files if computes(file.name)}
        self._folders = {file.parent for file in own.values()}
        self._digests = BackgroundDigests(own)

    def differences(self, recorded: Mapping[str, str]) -> list[str]:
        """The differences between the base and the one that an adapter was trained on, a line for each file; empty if
        it is that base, or a quantised copy of it. Waits for the digests.

        Args:
            recorded: the SHA-256 of the files that the adapter was trained on, by name.

        Raises:
            AdapterError: the base's record of the model that it was quantised from is damaged.
            OSError: a file of the base cannot be read.
        """
        now = self._digests.result()
        differing = base_differences(recorded, now)
        sources = [read_source(folder, now) for folder in self._folders] if differing else []
        return [] if any(source and not base_differences(recorded, source) for source in sources) else differing


class BaseCheck:
    """Compares a base model with the one that an adapter was trained on. The files are hashed in the background.

    Args:
        adapter: the adapter's folder.
        model: the name of the base that it is put on.
        files: the files of that base.

    Raises:
        AdapterError: the adapter's record of its base is damaged.
    """

    def __init__(self, adapter: Path, model: str, files: Sequence[Path]):
        self._adapter, self._model = adapter, model
        self.recorded = read_base(adapter)
        """The digests of the files that the adapter was trained on, by name; empty if it does not record them."""
        self._base = BaseFiles(files if self.recorded else [])

    def problem(self) -> str | None:
        """A message that names the files that differ, if the base is another one; waits for the digests.

        Raises:
            AdapterError: a file of the base cannot be read.
        """
        with reading(AdapterError):
            differing = self._base.differences(self.recorded) if self.recorded else []
        if not differing:
            return None
        return (
            f"{self._adapter} was trained on another base model than {self._model}, and may compute nonsense with "
            f"this one. These files differ (SHA-256):\n{listing(differing)}"
        )
