"""Who gets in, what they may open, and what the pages may do: the usual attacks, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import SpooledTemporaryFile
from threading import Barrier, BrokenBarrierError

import httpx
import pytest
from starlette import formparsers

from helpers.run_folders.run_logs import write_run
from helpers.servers.studios import Opened, logged, studio
from helpers.support import block_writing
from veneer.event_log import EventLog
from veneer.events import Note
from veneer.jobs.job import JobKind, JobStatus
from veneer.run_folder import RunFolder
from veneer.studio import uploads
from veneer.studio.app import ROUTES
from veneer.studio.watch import RunExtras, read_extras


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    root = tmp_path_factory.mktemp("safe") / "runs"
    write_run(root / "mine")
    (root.parent / "secret.txt").write_text("secret")
    with studio(root) as found:
        yield found


def bare(opened: Opened) -> httpx.Client:
    return httpx.Client(base_url=opened.running.url, trust_env=False, follow_redirects=False)


@pytest.mark.parametrize(("method", "path"), [*ROUTES, ("DELETE", "/"), ("GET", "/nothing"), ("OPTIONS", "/v1/files")])
def test_every_route_asks_for_a_key(opened: Opened, method: str, path: str) -> None:
    with bare(opened) as client:
        answer = client.request(method, path, headers={"authorization": "Bearer wrong"})
    assert answer.status_code == (200 if path == "/health" else 401)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_other_hosts_and_pages_of_other_sites_get_nothing(opened: Opened, method: str) -> None:
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        assert opened.http.request(method, "/v1/files", headers=headers).status_code == 403


def test_the_link_works_once_and_its_cookie_is_the_browsers_alone(opened: Opened) -> None:
    path = opened.studio.sessions.link()
    with bare(opened) as client:
        assert client.get("/open/wrong").status_code == 401
        answer = client.get(path)
        assert answer.status_code == 303
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert client.get("/version").status_code == 200
    with bare(opened) as client:
        assert client.get(path).status_code == 401
        assert client.get("/version", cookies={opened.studio.sessions.cookie: "x"}).status_code == 401


def test_the_key_is_the_owners_alone(opened: Opened) -> None:
    assert opened.running.key_file.stat().st_mode & 0o077 == 0


def test_the_pages_run_nothing_but_their_own(opened: Opened) -> None:
    for path in ("/", "/static/app.js"):
        headers = opened.http.get(path).headers
        rules = headers["content-security-policy"]
        assert "default-src 'none'" in rules
        assert "script-src 'self'" in rules
        assert "unsafe" not in rules
        assert "frame-ancestors 'none'" in rules
        assert headers["x-content-type-options"] == "nosniff"
    text = opened.http.get("/").text
    assert "<script>" not in text
    assert " style=" not in text
    assert "http" not in text.replace("http-equiv", "")


@pytest.mark.parametrize(
    "path",
    [
        "/static/..%2f..%2fapp.py", "/static/%2e%2e/app.py", "/static/library/LICENSES.txt", "/static/app.py",
        "/v1/files/..%2f..%2fkey/content", "/v1/files/%2e%2e", "/studio/run?name=../secret.txt",
        "/studio/run?name=..", "/studio/report?name=/etc/passwd", "/studio/curves?name=%00", "/studio/lint?file=../key",
        "/v1/fine_tuning/jobs/..%2fmine",
    ],
)  # fmt: skip
def test_no_path_of_a_clients_is_opened(opened: Opened, path: str) -> None:
    answer = opened.http.get(path)
    assert answer.status_code in (400, 404)
    assert "secret" not in answer.text


def test_uploads_have_a_size_a_kind_and_a_name_that_is_only_shown(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent(name: str, data: bytes) -> httpx.Response:
        return opened.http.post("/v1/files", files={"file": (name, data)}, data={"purpose": "fine-tune"})

    for name in ("rows.html", "rows", "rows.jsonl.exe", ".bashrc"):
        assert sent(name, b"{}").status_code == 400
    made = sent("../../../etc/rows.jsonl", b'{"text": "a"}\n').json()
    assert made["status"] == "uploaded"
    place = opened.studio.files.content(opened.studio.file_of(made["id"], "file"))
    assert place.is_relative_to(opened.studio.root / ".studio" / "files")
    content = opened.http.get(f"/v1/files/{made['id']}/content").headers
    assert content["content-disposition"].startswith("attachment")
    expiring = {"purpose": "fine-tune", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    kept = opened.http.post("/v1/files", files={"file": ("rows.jsonl", b"{}")}, data=expiring)
    assert (kept.status_code, kept.json()["error"]["param"]) == (400, "expires_after[anchor]")
    monkeypatch.setattr(uploads, "MOST_UPLOAD_BYTES", 1_000)
    assert sent("rows.jsonl", b"x" * 5_000).status_code == 413
    assert opened.http.post("/v1/files", content=b"x", headers={"content-type": "text/plain"}).status_code == 400
    assert not list((opened.studio.root / ".studio" / "files").glob(".partial-*"))


def test_jobs_their_events_and_refusals_name_no_path_of_this_machine(opened: Opened) -> None:
    queue, root, base = opened.studio.queue, opened.studio.root, "/srv/models/tiny"
    settings = {"model": base, "distillation": {"teacher": "/srv/models/large"}}
    for kind in (JobKind.TRAIN, JobKind.EVALUATE):
        job = queue.create(settings, {"model": "tiny"}, kind=kind, status=JobStatus.VALIDATING)
        write_run(root / job.id, steps=1)
        with EventLog(root / job.id / "events.jsonl") as log:
            log.emit(Note(message=f"{base} was read, beside {base}-2; {root / job.id}/report.html is written"))
        queue.refuse(job.id, f"the weights are kept in {root}/{job.id}/checkpoints/step-3, and {root} is full")
        opened.studio.watcher.look()
        path = f"/v1/fine_tuning/jobs/{job.id}"
        found = opened.http.get(path)
        said = f"the weights are kept in {job.id}/checkpoints/step-3, and the folder of runs is full"
        assert found.json()["error"]["message"] == said
        events = opened.http.get(f"{path}/events", params={"limit": 100})
        messages = [event["message"] for event in events.json()["data"]]
        assert f"tiny was read, beside {base}-2; {job.id}/report.html is written" in messages
        told = [found.text, events.text, opened.http.get("/v1/fine_tuning/jobs").text]
        assert not [text for text in told if str(root) in text or "/srv/models/large" in text]
    refused = opened.http.post("/v1/chat/completions", json={"model": f"{root}/x", "messages": []})
    assert refused.status_code == 404
    assert str(root) not in refused.text


def test_what_cannot_be_written_is_no_fault_of_the_clients_and_names_no_path(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, root = opened.studio.queue, opened.studio.root
    files, kept = root / ".studio" / "files", root / ".studio" / "kept"
    if files.is_dir():
        files.rename(kept)
    files.write_text("a file in the folder's place")
    sent = {"files": {"file": ("rows.jsonl", b'{"text": "a"}\n')}, "data": {"purpose": "fine-tune"}}
    answers = [opened.http.post("/v1/files", **sent)]  # type: ignore[arg-type]
    files.unlink()
    if kept.is_dir():
        kept.rename(files)
    job = queue.create({"model": "tiny"}, {}, status=JobStatus.VALIDATING)
    blocked = block_writing(root / job.id / "job.json", monkeypatch)
    answers.append(opened.http.post(f"/v1/fine_tuning/jobs/{job.id}/cancel"))
    blocked.end()
    queue.cancel(job.id)
    for answer in answers:
        assert answer.status_code == 507, answer.text
        assert "the studio's disk is full" in answer.json()["error"]["message"]
        assert str(root) not in answer.text
    assert opened.http.post("/v1/files", **sent).status_code == 200  # type: ignore[arg-type]


def test_an_upload_for_which_the_temporary_folder_has_no_room_is_answered_and_logged_as_any_full_disk(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # That of forms alone: the check of a file that came before uses the folder too.
    gone = partial(SpooledTemporaryFile, dir=str(tmp_path / "gone"))
    monkeypatch.setattr(formparsers, "SpooledTemporaryFile", gone)
    row = b'{"prompt": "a", "completion": "b"}\n'
    with logged() as messages:
        answer = opened.http.post(
            "/v1/files", files={"file": ("rows.jsonl", row * 50_000)}, data={"purpose": "fine-tune"}
        )
    assert answer.status_code == 507
    assert "cannot be written" in answer.json()["error"]["message"]
    assert str(tmp_path) not in answer.text
    (said,) = messages
    assert str(tmp_path / "gone") in said


def test_a_preference_that_a_full_disk_refuses_is_told_and_can_be_sent_again(opened: Opened) -> None:
    kept = opened.studio.root / ".studio" / "preferences.jsonl"
    kept.parent.mkdir(exist_ok=True)
    body = {"prompt": [{"role": "user", "content": "where?"}], "chosen": "1", "rejected": "2"}
    kept.symlink_to("/dev/full")
    refused = opened.http.post("/studio/preferences", json=body)
    kept.unlink()
    assert refused.status_code == 507, refused.text
    assert str(opened.studio.root) not in refused.text
    assert opened.http.post("/studio/preferences", json=body).json() == {"kept": 1}


def test_notes_are_kept_in_the_runs_folder_within_limits(opened: Opened) -> None:
    put = opened.http.put("/studio/notes?name=mine", json={"text": "<b>", "tags": ["one", "one"]})
    assert put.json()["tags"] == ["one"]
    record = opened.http.get("/studio/run?name=mine").json()["record"]
    assert (record["text"], record["tags"]) == ("<b>", ["one"])
    assert opened.http.put("/studio/notes?name=mine", json={"text": "x" * 30_000}).status_code == 400
    assert opened.http.put("/studio/notes?name=mine", json={"tags": [1]}).status_code == 400
    assert opened.http.put("/studio/notes?name=other", json={"text": ""}).status_code == 404


def test_of_two_tabs_that_replace_the_same_notes_at_once_one_is_refused(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {"text": "seen by both", "tags": []}
    assert opened.http.put("/studio/notes?name=mine", json=before).status_code == 200
    both = Barrier(2)

    def read_together(folder: RunFolder) -> RunExtras:
        extras = read_extras(folder)
        with suppress(BrokenBarrierError):  # the other request waits until the first has ended
            both.wait(1)
        return extras

    monkeypatch.setattr("veneer.studio.routes.runs.read_extras", read_together)

    def put(text: str) -> int:
        body = {"text": text, "tags": [], "before": before}
        return opened.http.put("/studio/notes?name=mine", json=body).status_code

    with ThreadPoolExecutor(2) as tabs:
        assert sorted(tabs.map(put, ("one", "other"))) == [200, 409]


def test_notes_that_were_changed_elsewhere_are_not_replaced(opened: Opened) -> None:
    def put(text: str, before: object = None) -> int:
        body = {"text": text, "tags": ["one"]} | ({} if before is None else {"before": before})
        return opened.http.put("/studio/notes?name=mine", json=body).status_code

    assert put("first") == 200
    assert put("second", {"text": "first", "tags": ["one"]}) == 200
    for before in ({"text": "first", "tags": ["one"]}, {"text": "second", "tags": []}, "second", []):
        assert put("third", before) == 409
    assert opened.http.get("/studio/run?name=mine").json()["record"]["text"] == "second"
    assert put("third") == 200


def test_a_run_that_the_command_line_made_is_there_and_its_curve_is_a_table_too(opened: Opened) -> None:
    write_run(opened.studio.root / "from" / "outside", 5)
    opened.studio.watcher.look()
    found = opened.http.get("/studio/run?name=from/outside").json()
    assert found["record"]["state"] == "finished"
    table = opened.http.get("/studio/curves?name=from/outside&format=csv").text.splitlines()
    assert len(table) == 6
    assert table[0].startswith("step,loss")


def test_all_runs_are_told_and_then_those_that_have_changed(opened: Opened) -> None:
    def told(since: str) -> tuple[str, bool, set[str]]:
        found = opened.http.get("/studio/changes", params={"since": since}).json()
        return found["version"], found["whole"], {run["name"] for run in found["runs"]}

    version, whole, names = told("")
    assert whole
    assert "mine" in names
    write_run(opened.studio.root / "later")
    opened.studio.watcher.look()
    assert told(version)[1:] == (False, {"later"})
    assert told("another-5")[1]


def test_the_pages_get_refusals_as_answers_and_programs_as_errors(opened: Opened) -> None:
    """Chromium takes a status of 400 and above for an error of the page: what somebody types is none."""
    body = {"model": "nothing", "training_file": "file-0", "veneer": {"settings": {"lora.many": 1}}}
    for method, path in (
        ("POST", "/v1/fine_tuning/jobs/estimate"),
        ("POST", "/v1/fine_tuning/jobs"),
        ("GET", "/studio/run?name=none"),
        ("GET", "/nowhere"),
    ):
        plain = opened.http.request(method, path, json=body)
        assert plain.status_code in (400, 404)
        assert "x-refused" not in plain.headers
        told = opened.http.request(method, path, json=body, headers={"x-refusals": "answered"})
        assert (told.status_code, told.headers["x-refused"]) == (200, str(plain.status_code))
        assert told.json() == plain.json()
    with bare(opened) as client:
        assert client.get("/version", headers={"x-refusals": "answered"}).status_code == 401
