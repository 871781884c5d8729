"""The example of the API runs, and a type checker that reads the installed package accepts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import veneer

EXAMPLE = Path(__file__).parents[2] / "examples" / "api.py"


@pytest.mark.slow
def test_the_example_runs(tiny_model: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tiny_model), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "the same model"
    assert "step 5: loss" in done.stdout


@pytest.mark.slow
def test_the_example_is_typed(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    assert (Path(veneer.__file__).parent / "py.typed").is_file()
    (tmp_path / "example.py").write_text(EXAMPLE.read_text())
    check = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "example.py"]
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
