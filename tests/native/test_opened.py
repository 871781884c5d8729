"""A library from other sources is refused."""

from __future__ import annotations

import pytest

from helpers.models.compiled_variants import COMPILED
from veneer.native.build import library_path
from veneer.native.functions import Kernels
from veneer.native.opened import INTERFACE


def test_a_library_of_another_interface_is_refused(native: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veneer.native.opened.INTERFACE", INTERFACE + 1)
    with pytest.raises(OSError, match=rf"from other sources \(interface {INTERFACE}, not {INTERFACE + 1}\)"):
        Kernels(library_path(COMPILED[0]))
