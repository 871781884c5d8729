"""What `veneer runs` prints of runs, and of the numbers that no chart could show."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from helpers.processes.consoles import recorded
from helpers.run_folders.run_logs import write_run
from veneer.run_records.find import runs
from veneer.screens.runs import BARS, list_runs, show_comparison, show_run, show_runs, sparkline


def test_a_sparkline_is_as_high_as_its_values() -> None:
    assert sparkline([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) == BARS
    assert sparkline([3.0, 3.0]) == BARS[0] * 2
    assert sparkline([]) == ""
    assert sparkline([1.0, None, math.nan, 2.0]) == f"{BARS[0]}··{BARS[-1]}"
    assert sparkline([None, math.inf]) == "··"


@pytest.mark.parametrize("count", [1, 47, 48, 49, 1_000])
def test_a_sparkline_has_a_width(count: int) -> None:
    drawn = sparkline([float(place) for place in range(count)])
    assert len(drawn) == min(48, count)
    assert list(drawn) == sorted(drawn)


def test_two_sparklines_can_share_a_scale() -> None:
    assert sparkline([0.0, 10.0], span=(0.0, 20.0)) == f"{BARS[0]}{BARS[4]}"


@pytest.mark.parametrize(("terminal", "width"), [(False, 80), (True, 80), (True, 400)])
def test_no_name_and_no_number_is_cut(terminal: bool, width: int, tmp_path: Path) -> None:
    name = "a-run-with-a-long-name-" * 6
    write_run(tmp_path / name, 30)
    screen = recorded(terminal=terminal, width=width)
    list_runs(screen, tmp_path, runs(tmp_path))
    shown = screen.export_text()
    assert name in shown
    assert "…" not in shown
    for known in ("finished", "30 of 30", "0.5000", "15 s"):
        assert known in shown


@pytest.mark.parametrize("content", [b"", b"\xf0\x00\n[1]\n{}\n"])
def test_a_log_without_an_event_is_told_from_a_run_that_failed(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_run(tmp_path / "blank") / "events.jsonl"
    log.write_bytes(content)
    for show in (show_runs, show_run):
        show(tmp_path if show is show_runs else tmp_path / "blank", as_json=False)
        said = " ".join(capsys.readouterr().out.split())
        assert "unknown" in said
        assert "failed" not in said
        assert "no line of it is an event, so steps, losses and the end of this run are not known" in said
    write_run(tmp_path / "whole")
    show_comparison(tmp_path / "whole", tmp_path / "blank", as_json=False)
    said = capsys.readouterr().out
    assert said.count("no line of it is an event") == 1
    assert [one.has_events for one in runs(tmp_path)] == [True, False]
