"""`veneer runs`: a folder, a run, two runs, as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from helpers.processes.invoking import invoke, refused
from helpers.run_folders.run_logs import write_run
from veneer.event_log import EventLog
from veneer.events import AnswersJudged, SamplesAnswered


def test_the_runs_in_a_folder_are_listed(tmp_path: Path) -> None:
    write_run(tmp_path / "one")
    write_run(tmp_path / "two", reason="interrupted")
    shown = invoke("runs", tmp_path)
    assert shown.exit_code == 0, shown.output
    assert "2 runs" in shown.stdout
    assert "finished" in shown.stdout
    assert "stopped" in shown.stdout
    for argv in (("runs", tmp_path, "--json"), ("runs", "--json", tmp_path), ("runs", "list", tmp_path, "--json")):
        found = json.loads(invoke(*argv).stdout)
        assert {one["name"]: one["state"] for one in found["runs"]} == {"one": "finished", "two": "stopped"}
        assert found["runs"][0]["best_loss"] == 0.5


def test_one_run_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one", config="model: base/tiny\nmethod: lora\nlora:\n  rank: 3\n")
    shown = invoke("runs", "show", run)
    assert shown.exit_code == 0, shown.output
    for part in ("one: finished", "10 of 10", "█", "lora.rank", "a note", "0.5000 after step 10"):
        assert part in shown.stdout
    found = json.loads(invoke("runs", "show", run, "--json").stdout)
    assert len(found["losses"]) == 10
    assert found["evaluations"] == [[10, 0.5]]
    assert found["settings"]["lora"] == {"rank": 3}
    assert found["log"][0]["message"] == "a note"


def test_a_run_shows_what_it_answered_last_with_the_rewards(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one")
    sampled = SamplesAnswered(
        step=9, prompts=("a parcel?",), answers=("late",), cut_short=False, seconds=0.1, share=0.01
    )
    rewarded = AnswersJudged(
        step=9, answers=8, tokens=50, failed=(), prompts=("b?", "b?"), shown=("best", "worst"), rewards=(1.5, -2.0)
    )
    with EventLog(run / "events.jsonl") as log:
        log.emit(sampled)
        log.emit(rewarded)
    shown = invoke("runs", "show", run).stdout
    for part in ("samples of step 9", "a parcel? → 'late'", "reward 1.5: b? → 'best'", "reward -2: b? → 'worst'"):
        assert part in shown
    found = json.loads(invoke("runs", "show", run, "--json").stdout)
    assert found["samples"][0]["answers"] == ["late"]
    assert found["judged"][0]["rewards"] == [1.5, -2.0]


def test_two_runs_are_compared(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", config="model: m\nlora:\n  rank: 3\n")
    other = write_run(tmp_path / "other", 20, config="model: m\nlora:\n  rank: 8\n")
    shown = invoke("runs", "compare", one, other)
    assert shown.exit_code == 0, shown.output
    assert "lora.rank" in shown.stdout
    assert "20 of 20" in shown.stdout
    assert json.loads(invoke("runs", "compare", one, other, "--json").stdout)["settings"] == {"lora.rank": [3, 8]}
    assert "no setting differs" in invoke("runs", "compare", one, one).stdout


def test_several_folders_are_told_which_command_takes_them(tmp_path: Path) -> None:
    for argv in (("runs", tmp_path, tmp_path), ("runs", "--json", tmp_path, tmp_path), ("runs", "list", "a", "b")):
        said = " ".join(refused(*argv).split())
        assert "compare two runs with `veneer runs compare RUN OTHER`" in said
        assert "with `veneer runs show RUN`" in said


def test_what_is_missing_is_refused(tmp_path: Path) -> None:
    assert "no such folder" in refused("runs", tmp_path / "nothing")
    assert "holds no run" in refused("runs", "show", tmp_path)
    assert "holds no run" in refused("runs", "compare", tmp_path, tmp_path)
    assert "no run in it or below it" in invoke("runs", tmp_path).stdout
    assert json.loads(invoke("runs", tmp_path, "--json").stdout)["runs"] == []
