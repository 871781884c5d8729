"""What clients are told of jobs, in pages that they go through one after another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.run_folders.run_logs import write_run
from veneer.event_log import EventLog
from veneer.events import Note
from veneer.jobs.job import Job
from veneer.run_records.log import MOST_NOTES, RunLog
from veneer.studio.objects import events_of, job_object, page_of


def test_pages_of_events_go_on_where_they_were_while_old_notes_are_dropped(tmp_path: Path) -> None:
    job, log = Job(id="ftjob-1", created_at=1.0, settings={}), RunLog(tmp_path / "events.jsonl")

    def say(*numbers: int) -> None:
        with EventLog(tmp_path / "events.jsonl") as told:
            for number in numbers:
                told.emit(Note(message=f"note {number}"))
        log.refresh()

    say(*range(MOST_NOTES + 100))
    first = page_of(events_of(job, log, tmp_path), None, 3)
    say(*range(MOST_NOTES + 100, MOST_NOTES + 103))
    second = page_of(events_of(job, log, tmp_path), first["last_id"], 3)
    told = [event["message"] for page in (first, second) for event in page["data"]]
    assert told == [f"note {MOST_NOTES + 99 - place}" for place in range(6)]


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({}, "qlora"),
        ({"method": "full"}, "full"),
        ({"train": {"steps": 3}}, "qlora"),
        ({"train": {"from_adapter": "lora"}}, "lora"),
        ({"train": {"from_adapter": "full"}}, "qlora"),
        ({"train": {"from_adapter": "nowhere"}}, "qlora"),
        ({"train": {"from_adapter": "lora"}, "method": "qlora"}, "qlora"),
    ],
)
def test_a_job_is_told_with_the_method_that_it_takes(settings: dict[str, Any], method: str, tmp_path: Path) -> None:
    for name in ("lora", "full"):
        write_run(tmp_path / name, config=f"model: base\nmethod: {name}\noutput: x\n")
    if "from_adapter" in settings.get("train", {}):
        settings = {**settings, "train": {"from_adapter": str(tmp_path / settings["train"]["from_adapter"])}}
    told = job_object(Job(id="ftjob-1", created_at=1.0, settings=settings), None, tmp_path)
    assert told["veneer"]["settings"]["method"] == method
