"""A package is installed where there is a module of its name, and not where there is a folder alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from veneer.runtime.packages import installed


def test_a_folder_of_the_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("only_a_folder_here", "a_package_here"):
        (tmp_path / name).mkdir()
    (tmp_path / "a_package_here" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert not installed("only_a_folder_here")
    assert not installed("neither_of_them_is_here")
    assert installed("a_package_here")
    assert installed("numpy")
