"""Runs as the pages are told of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from helpers.run_folders.run_logs import step_done, write_run
from veneer.event_log import EventLog
from veneer.jobs.sqlite_store import SqliteStore
from veneer.studio.routes.runs import run_values
from veneer.studio.watch import Watcher


def test_a_run_is_told_with_its_objective_and_the_names_of_what_it_measures(tmp_path: Path) -> None:
    """Pages keep a place for each measure before its figures come."""
    run = write_run(tmp_path / "asked", 2, config="model: m\nmethod: lora\nobjective: grpo\n")
    with EventLog(run / "events.jsonl") as log:
        log.emit(replace(step_done(3), metrics={"reward": 1.0, "kl": 0.1}))
    write_run(tmp_path / "plain", 2)
    watcher = Watcher(tmp_path, SqliteStore(tmp_path))
    watcher.look()
    told = {one.name: run_values(one) for one in watcher.runs()}
    assert (told["asked"]["objective"], told["asked"]["metrics"]) == ("grpo", ["kl", "reward"])
    assert (told["plain"]["objective"], told["plain"]["metrics"]) == ("sft", [])
