"""The base that an adapter was trained beside: the digests of its files stand in the adapter's folder.

An adapter fits every base of the same shapes, and computes nonsense beside another one than its own. So the file
`base_model.json` travels with the adapter's two others. PEFT does not read it. Adapters of older runs have the digests
in their `run.lock`; PEFT's have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from veneer.adapters.integrity import LOCK_FILE, check_unchanged, read_record
from veneer.errors import AdapterError, listing
from veneer.io.digests import BackgroundDigests
from veneer.io.files import write_text
from veneer.strict_json import to_text

BASE_FILE = "base_model.json"
FORMAT = 1
COMPUTED = (".safetensors", ".gguf")
"""Ends of the names of files that a base model computes by, besides `config.json`. An answer's end, or a chat template,
may be changed without another model coming of it."""


def write_base(directory: Path, files: Mapping[str, str]) -> None:
    """Write down the base of an adapter, in the adapter's folder.

    Args:
        directory: the folder.
        files: the SHA-256 of the base's files, by name; nothing is written where there are none.

    Raises:
        OutputError: the file cannot be written.
    """
    own = {name: digest for name, digest in files.items() if computes(name)}
    if own:
        write_text(directory / BASE_FILE, to_text({"format": FORMAT, "files": own}, indent=2) + "\n")


def read_base(directory: Path) -> dict[str, str]:
    """The SHA-256 of the files of an adapter's base, by name; empty where the adapter does not say.

    Raises:
        AdapterError: what it says is damaged.
    """
    check_unchanged(directory, BASE_FILE)
    own, lock = read_record(directory / BASE_FILE), read_record(directory / LOCK_FILE)
    where, files = directory / BASE_FILE, None if own is None else own.get("files")
    if own is None:
        base = {} if lock is None else lock.get("base")
        where, files = directory / LOCK_FILE, base.get("files", {}) if isinstance(base, dict) else None
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise AdapterError(f"{where} is damaged: the digests of the base model are no object of texts; delete the file")
    return {str(name): digest for name, digest in files.items() if computes(str(name))}


def computes(name: str) -> bool:
    """Whether what a model computes follows from a file of this name."""
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


class BaseCheck:
    """Compares a base model with the one that an adapter was trained beside. The files are hashed in the background.

    Args:
        adapter: the adapter's folder.
        model: the name of the base that it is put on.
        files: the files of that base.

    Raises:
        AdapterError: what the adapter says of its base is damaged.
    """

    def __init__(self, adapter: Path, model: str, files: list[Path]):
        self._adapter, self._model = adapter, model
        self.recorded = read_base(adapter)
        """The digests of the files that the adapter was trained beside, by name; empty where it does not say."""
        self._digests = BackgroundDigests({file.name: file for file in files if self.recorded and computes(file.name)})

    def problem(self) -> str | None:
        """A message where the base is another one, which names the files that differ; waits for the digests.

        Raises:
            AdapterError: a file of the base cannot be read.
        """
        try:
            differing = base_differences(self.recorded, self._digests.result()) if self.recorded else []
        except OSError as error:
            raise AdapterError(f"{error.filename}: cannot be read: {error.strerror or error}") from error
        if not differing:
            return None
        return (
            f"{self._adapter} was trained beside another base model than {self._model}, and may compute nonsense with "
            f"this one. These files differ (SHA-256):\n{listing(differing)}"
        )
