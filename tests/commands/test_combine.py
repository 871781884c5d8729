"""`veneer combine`: what is refused."""

from __future__ import annotations

from pathlib import Path

from invoking import refused


def test_a_weight_that_is_not_finite_is_refused(adapter: Path, tmp_path: Path) -> None:
    message = refused("combine", "--adapter", f"{adapter}=nan", "--output", tmp_path / "out")
    assert "write it as DIR or DIR=WEIGHT" in message
