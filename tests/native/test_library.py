from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.models.compiled_variants import COMPILED
from veneer.native import library
from veneer.native.build import VARIANTS, machine
from veneer.native.library import compiled_choice, kernels, used_variant


def test_the_choice_is_the_best_compiled_variant_and_gives_a_reason() -> None:
    assert compiled_choice().reason
    assert (compiled_choice().variant in COMPILED[:1]) if COMPILED else (compiled_choice().variant is None)
    assert (kernels() is not None) == bool(COMPILED)
    assert used_variant() == compiled_choice().variant


@pytest.fixture
def nothing_cached() -> Iterator[None]:
    """The choice is made anew in a test, and again after it."""
    compiled_choice.cache_clear()
    kernels.cache_clear()
    yield
    compiled_choice.cache_clear()
    kernels.cache_clear()


def test_without_library_files_torch_does_the_work(
    tmp_path: Path, nothing_cached: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "library_path", lambda variant: tmp_path / variant)
    assert kernels() is None
    assert compiled_choice().variant is None
    if COMPILED:
        assert "install a C compiler" in compiled_choice().reason


def test_a_library_that_does_not_load_is_not_used(
    tmp_path: Path, nothing_cached: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variant in VARIANTS.get(machine(), {}):
        (tmp_path / variant).write_text("no library")
    monkeypatch.setattr(library, "library_path", lambda variant: tmp_path / variant)
    assert kernels() is None
    assert used_variant() is None


@pytest.mark.skipif(not COMPILED, reason="no kernels were compiled")
def test_a_narrower_variant_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_chosen", [])
    try:
        library.use_variant(COMPILED[-1])
        assert library.compiled_choice().variant == COMPILED[-1]
        assert library.kernels() is not None
        with pytest.raises(ValueError, match="'vliw': this processor runs"):
            library.use_variant("vliw")
    finally:
        library._chosen.clear()
        library.compiled_choice.cache_clear()
        library.kernels.cache_clear()
