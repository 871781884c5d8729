"""Runs as the pages are told of them, and the settings in which they differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx

from helpers.run_folders.run_logs import step_done, write_run
from helpers.servers.studios import Opened
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


def test_settings_that_differ_are_answered_for_named_runs_and_for_a_folder(opened: Opened) -> None:
    for name, number in (("grid/a", 1), ("grid/b", 2), ("grid/c", 2), ("grid/deeper/d", 3), ("grid-2/e", 4)):
        config = f"model: m\nmethod: lora\noutput: {name}\nlora: {{rank: {number}}}\n"
        write_run(opened.studio.root / name, 1, config=config)
    opened.studio.watcher.look()

    def asked(*query: tuple[str, str]) -> httpx.Response:
        return opened.http.get("/studio/differing", params=query)

    def rank(number: int) -> dict[str, int]:
        return {"lora.rank": number}

    grid = {"grid/a": rank(1), "grid/b": rank(2), "grid/c": rank(2)}
    assert asked(("folder", "grid")).json() == {"settings": grid}
    assert asked(("folder", "grid/deeper")).json() == {"settings": {"grid/deeper/d": {}}}
    assert asked(("folder", "nowhere")).json() == {"settings": {}}
    named = asked(("name", "grid/deeper/d"), ("name", "grid/b")).json()["settings"]
    assert list(named.items()) == [("grid/deeper/d", rank(3)), ("grid/b", rank(2))]
    assert asked(("name", "grid/b"), ("name", "grid/c")).json() == {"settings": {"grid/b": {}, "grid/c": {}}}
    missing = asked(("name", "grid/b"), ("name", "grid/x"))
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "run_not_found")
