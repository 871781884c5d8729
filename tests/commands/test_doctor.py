from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from veneer.cli import main
from veneer.diagnosis.facts import Facts


def test_the_command_prints_a_report_or_json() -> None:
    shown = CliRunner().invoke(main, ["doctor"])
    assert shown.exit_code == 0
    assert "\nCPU kernels " in shown.stdout
    assert shown.stderr == ""
    printed = json.loads(CliRunner().invoke(main, ["doctor", "--json", "--measure"]).stdout)
    assert printed["measured"]["products"]["reached"] > 0
    assert isinstance(printed["advice"], list)
    assert set(printed) == {*(one.name for one in fields(Facts)), "advice"}


def test_a_working_folder_that_was_deleted_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    shown = CliRunner().invoke(main, ["doctor"])
    assert shown.exit_code == 0
    assert "the working folder was deleted" in shown.stdout
