"""Finished runs are evaluated on uploaded files and exported, as jobs of the queue."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import rows, run_config, write_model, write_rows
from helpers.processes.job_workers import wait_for
from helpers.processes.task_processes import peak_of
from helpers.rows.preference_rows import pairs
from helpers.run_folders.run_logs import write_run
from helpers.servers.studios import Opened, studio
from veneer.event_log import EventLog
from veneer.events import Note
from veneer.exports.record import PARITY_FILE, RECORD_FILE
from veneer.jobs.arguments import arguments_of
from veneer.jobs.folder import JobFolder
from veneer.jobs.job import Job, JobKind, JobStatus
from veneer.planning.choose import Limit
from veneer.studio.task_plans import planned_task
from veneer.tracked_run import train_tracked

MARGINS = {"better_by": 0.02, "suites": {"copying": 0.9}}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Opened]:
    root, files = tmp_path_factory.mktemp("tasks") / "runs", tmp_path_factory.mktemp("files")
    taught, judged = write_rows(files / "rows.jsonl", rows(6)), write_rows(files / "pairs.jsonl", pairs(4))
    train_tracked(run_config(tiny_model, taught, root / "made" / "one", "train.steps=1", "lora.rank=2"))
    train_tracked(run_config(tiny_model, judged, root / "judge", "objective=reward", "train.steps=1", "lora.rank=2"))
    with studio(root, tiny_model) as found:
        yield found


@pytest.fixture(scope="module")
def file(opened: Opened) -> str:
    content = "".join(json.dumps(row) + "\n" for row in rows(6, seed=3)).encode()
    made = opened.client.files.create(file=("test.jsonl", content), purpose="fine-tune")
    return opened.client.files.wait_for_processing(made.id, poll_interval=0.05).id


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("evaluations", {"run": "made-one"}, "there is no such file"),
        ("evaluations", {"run": "/etc"}, "no finished adapter"),
        ("evaluations", {"run": "judge"}, "no finished adapter"),
        ("evaluations", {"run": "made-one", "judge": "x"}, "the fields of an evaluation are"),
        ("evaluations", {"metrics": ["/tmp/x.py:f"]}, "metrics: must be a list of"),
        ("evaluations", {"metrics": ["command:touch /tmp/x"]}, "metrics: must be a list of"),
        ("evaluations", {"suites": ["/etc/passwd"]}, "suites: must be a list of"),
        ("evaluations", {"suites": ["kl:/etc/passwd"]}, "suites: must be a list of"),
        ("evaluations", {"limit": 0}, "limit must be a whole number"),
        ("evaluations", {"suite_items": 10_001}, "suite_items must be a whole number from 1 to 10,000"),
        ("evaluations", {"gate": {"better_by": 0, "items": 10_001}}, "items must be a whole number from 1 to 10,000"),
        ("evaluations", {"gate": {}}, "it refuses nothing"),
        ("evaluations", {"gate": {"suites": {"/etc/passwd": 0.1}}}, "margins above 0"),
        ("evaluations", {"gate": {"suites": {"copying": -1}}}, "margins above 0"),
        ("evaluations", {"gate": {"better_by": "much"}}, "better_by must be a number"),
        ("evaluations", {"gate": {"better_by": 0.1, "discordant": "abc"}}, "discordant: 'abc' is not a share above 0"),
        ("evaluations", {"gate": {"better_by": 0.1, "discordant": 7}}, "discordant: 7 is not a share above 0"),
        ("evaluations", {"gate": {"better_by": 1e-9}}, "is below 0.000001"),
        ("evaluations", {"gate": {"metric": "/tmp/x.py:f", "better_by": 1}}, "metric: must be one of"),
        ("exports", {"run": "made-one", "to": "/tmp/x"}, "to: must be one of"),
        ("exports", {"run": "made-one", "quant": "q8_0"}, "quant: only gguf and gguf-adapter"),
        ("exports", {"run": "made-one", "to": "gguf", "dtype": "float16"}, "dtype: only merged and merged-4bit"),
        ("exports", {"run": "made-one", "to": "gguf", "quant": "q1"}, "quant: must be one of"),
        ("exports", {"run": "made-one", "output": "/tmp/x"}, "the fields of an export are"),
    ],
)
def test_what_cannot_be_done_with_a_run_is_refused_with_the_field(
    opened: Opened, file: str, kind: str, body: dict[str, Any], said: str
) -> None:
    given = {"run": "made-one", "file": file, **body} if "run" not in body else body
    answer = opened.http.post(f"/studio/{kind}", json=given)
    assert answer.status_code in (400, 404)
    assert said in answer.json()["error"]["message"]
    assert not list(opened.studio.root.glob("ftjob-*"))


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("evaluations", {}, "by its plan, the evaluation needs"),
        ("exports", {"to": "gguf"}, "by its plan, the export needs"),
    ],
)
def test_a_task_that_can_never_fit_is_refused_with_the_plans_reason(
    opened: Opened, file: str, kind: str, body: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = Limit(bytes=10**8, source="the test")
    monkeypatch.setattr("veneer.studio.task_plans.limit_of", lambda compute, total, free: limit)
    task = opened.http.post(f"/studio/{kind}", json={"run": "made-one", "file": file, **body}).json()
    found = done(opened, task["id"])
    assert found["status"] == "failed"
    assert found["error"]["message"].startswith(said)
    assert found["error"]["message"].endswith("above the limit of 100 MB (the test)")


def done(opened: Opened, task: str, seconds: float = 90.0) -> dict[str, Any]:
    path = f"/v1/fine_tuning/jobs/{task}"
    wait_for(lambda: opened.http.get(path).json()["finished_at"] is not None, seconds)
    found: dict[str, Any] = opened.http.get(path).json()
    return found


@pytest.mark.slow
def test_a_run_is_evaluated_on_a_file_with_its_gate(opened: Opened, file: str) -> None:
    body = {"run": "made/one", "file": file, "limit": 4, "gate": {**MARGINS, "items": 3}}
    task = opened.http.post("/studio/evaluations", json=body).json()
    assert opened.http.delete(f"/v1/files/{file}").status_code == 409  # the evaluation needs it
    found = done(opened, task["id"])
    assert found["status"] == "succeeded", found["error"]
    assert found["veneer"]["peak"] > 10**8
    shown = opened.http.get("/studio/report", params={"task": task["id"]}).json()
    assert shown["report"]["rows"] == 4
    assert {one["name"] for one in shown["report"]["gate"]["conditions"]} == {"exact", "copying"}
    assert shown["worst"] + shown["best"] + shown["same"]
    assert task["id"] not in {job.id for job in opened.client.fine_tuning.jobs.list()}  # it is none of OpenAI's
    assert str(opened.studio.root) not in opened.http.get(f"/v1/fine_tuning/jobs/{task['id']}").text


@pytest.mark.slow
def test_a_file_whose_columns_have_other_names_is_for_jobs_and_adapters_that_map_them(
    opened: Opened, tiny_model: Path, tmp_path: Path
) -> None:
    renamed = [{"frage": f"Wo ist {number}?", "antwort": f"In Köln {number}."} for number in range(6)]
    content = "".join(json.dumps(row) + "\n" for row in renamed).encode()
    made = opened.client.files.create(file=("mails.jsonl", content), purpose="fine-tune")
    wait_for(lambda: opened.http.get(f"/v1/files/{made.id}").json()["status"] != "uploaded")
    found = opened.http.get(f"/v1/files/{made.id}").json()
    assert (found["status"], found["veneer"]["unnamed"]) == ("error", True)
    assert found["status_details"].endswith("so a job needs the setting data.columns")
    columns = {"prompt": "frage", "completion": "antwort"}
    for settings, code in (({}, 400), ({"data.columns": columns}, 200)):
        body = {"model": tiny_model.name, "training_file": made.id, "veneer": {"settings": settings}}
        assert opened.http.post("/v1/fine_tuning/jobs/estimate", json=body).status_code == code
    given = write_rows(tmp_path / "mails.jsonl", renamed)
    mapped = json.dumps(columns)
    root = opened.studio.root
    train_tracked(
        run_config(tiny_model, given, root / "mapped", "train.steps=1", "lora.rank=2", f"data.columns={mapped}")
    )
    opened.studio.watcher.look()
    body = {"run": "mapped", "file": made.id, "limit": 2}
    assert (
        done(opened, opened.http.post("/studio/evaluations", json=body).json()["id"])["veneer"]["status"] == "succeeded"
    )


@pytest.mark.slow
def test_a_run_is_exported_with_its_certificate_and_the_files_can_be_taken(opened: Opened, file: str) -> None:
    http = opened.http
    task = http.post("/studio/exports", json={"run": "made-one", "to": "gguf", "quant": "q8_0", "file": file}).json()
    found = done(opened, task["id"])
    assert found["status"] == "succeeded", found["error"]
    assert found["veneer"]["peak"] > 10**8
    shown = http.get("/studio/export", params={"task": task["id"]}).json()
    assert shown["parity"]["passed"]
    assert shown["record"]["to"] == "gguf"
    assert str(opened.studio.root) not in json.dumps([shown["task"], shown["record"]])
    (model,) = (one for one in shown["files"] if one["name"].endswith(".gguf"))
    content = http.get("/studio/export/file", params={"task": task["id"], "name": model["name"]}).content
    assert content.startswith(b"GGUF")
    assert len(content) == model["bytes"]
    for name in ("../job.json", "/etc/passwd", "..", ""):
        assert http.get("/studio/export/file", params={"task": task["id"], "name": name}).status_code == 404
    for task_id in ("../x", "made", found["veneer"]["of"]):
        assert http.get("/studio/export", params={"task": task_id}).status_code == 404


def test_what_is_told_of_an_export_names_no_path_of_this_machine(opened: Opened, file: str, tiny_model: Path) -> None:
    root, kept = opened.studio.root, opened.studio.files.get(file)
    assert kept is not None
    rows_file = opened.studio.files.content(kept)
    settings = {"model": str(tiny_model), "adapter": str(root / "made" / "one"), "to": "gguf"}
    job = opened.studio.queue.create(settings, {"run": "made-one"}, kind=JobKind.EXPORT, status=JobStatus.PAUSED)
    folder = JobFolder(root / job.id).export
    folder.mkdir(parents=True)
    record = {"model": str(tiny_model), "adapter": settings["adapter"], "output": str(folder)}
    (folder / RECORD_FILE).write_text(json.dumps(record))
    (folder / PARITY_FILE).write_text(json.dumps({"prompts_from": f"{rows_file} (the 6 rows held out of training)"}))
    answer = opened.http.get("/studio/export", params={"task": job.id})
    shown = answer.json()
    assert shown["record"] == {"model": "model", "adapter": "made/one", "output": "export"}
    assert shown["parity"]["prompts_from"] == "test.jsonl (the 6 rows held out of training)"
    assert str(root) not in answer.text
    assert str(tiny_model) not in answer.text


@pytest.mark.slow
def test_a_task_that_waits_can_be_cancelled_and_one_that_fails_says_why(opened: Opened, file: str) -> None:
    http = opened.http
    refused = http.post("/studio/exports", json={"run": "made-one", "to": "merged-4bit"}).json()
    task = http.post("/studio/exports", json={"run": "made-one", "to": "merged"}).json()
    http.post(f"/v1/fine_tuning/jobs/{task['id']}/cancel").raise_for_status()
    found = done(opened, refused["id"])
    assert found["status"] == "failed"
    assert found["error"]["message"]
    assert done(opened, task["id"])["status"] == "cancelled"
    assert not (opened.studio.root / task["id"] / "export").exists()


@pytest.mark.slow
def test_a_task_takes_no_more_memory_than_its_plan(tmp_path: Path) -> None:
    model, data = write_model(tmp_path / "wide", hidden=1024), write_rows(tmp_path / "rows.jsonl", rows(8))
    run = tmp_path / "run"
    train_tracked(run_config(model, data, run, "train.steps=1", "lora.rank=2", "data.held_out=0.3"))
    settings = {"model": str(model), "adapter": str(run)}
    for kind, more in ((JobKind.EVALUATE, {"data": str(data)}), (JobKind.EXPORT, {"to": "gguf", "quant": "q8_0"})):
        job = Job(id="job", created_at=0.0, settings=settings | more, kind=kind)
        plan = planned_task(job)
        assert plan.peak is not None
        folder = JobFolder(tmp_path / kind.value)
        folder.path.mkdir()
        taken = peak_of(*arguments_of(job, folder))
        assert 0.5 * plan.peak <= taken <= plan.peak


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": [{"role": "user", "content": "parcel?"}]}, "these rows have no answers"),
        ({"prompt": "parcel?", "chosen": "1", "rejected": "2"}, "pairs of answers"),
    ],
)
def test_rows_without_one_answer_are_refused_before_an_evaluation_waits(
    opened: Opened, row: dict[str, Any], said: str
) -> None:
    content = (json.dumps(row) + "\n").encode() * 3
    made = opened.client.files.create(file=("other.jsonl", content), purpose="fine-tune")
    opened.client.files.wait_for_processing(made.id, poll_interval=0.05)
    answer = opened.http.post("/studio/evaluations", json={"run": "made-one", "file": made.id})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")
    assert said in answer.json()["error"]["message"]
    assert "such rows, as {messages}" in answer.json()["error"]["message"]


def test_reports_and_logs_of_runs_name_no_path_of_the_machine(opened: Opened, file: str, tiny_model: Path) -> None:
    root = opened.studio.root
    uploaded = root / ".studio" / "files" / file
    (stored,) = [one for one in uploaded.iterdir() if one.name.startswith("rows")]
    said = f"4 of 6 rows were in the training data of the run of {root}/made/one: {stored}:3"
    folder = write_run(root / "paths", 2)
    with EventLog(folder / "events.jsonl") as log:
        log.emit(Note(message=f"{stored}: read for {tiny_model}"))
    values = json.dumps({"report": {"warnings": [said], "loss": 1.5}})
    (folder / "report.html").write_text(f'<script type="application/json" id="data">{values}</script>', "utf-8")
    opened.studio.watcher.look()
    report = opened.http.get("/studio/report", params={"name": "paths"}).json()["report"]
    assert report == {
        "warnings": ["4 of 6 rows were in the training data of the run of made/one: test.jsonl:3"],
        "loss": 1.5,
    }
    log_lines = opened.http.get("/studio/run", params={"name": "paths"}).json()["log"]
    assert log_lines[-1]["message"] == f"test.jsonl: read for {tiny_model.name}"
