"""OWASP's usual attacks, one after another: none is answered, and none makes the studio fail."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest

from helpers.run_folders.run_logs import write_run
from helpers.servers.studios import Opened, studio
from veneer.http_server.limits import ServerLimits
from veneer.studio.app import JOBS, ROUTES
from veneer.studio.job_request import ADAPTERS, MODELS, PATHS

SECRET = "the secret beside the folder"
TRAVERSALS = (
    "..", "../secret.jsonl", "..%2fsecret.jsonl", "%2e%2e%2fsecret.jsonl", "..%252fsecret.jsonl", "....//secret.jsonl",
    "..\\secret.jsonl", "%5c..%5csecret.jsonl", "/etc/passwd", "%2fetc%2fpasswd", "file:///etc/passwd", "~/.ssh/id_rsa",
    "secret.jsonl%00", "%00", "file-000000000000000000000000/../key", "mine/../../secret.jsonl",
    "C:\\boot.ini", "a" * 5_000,
)  # fmt: skip
"""Names that would lead out of the folder, or be cut, if they were taken for paths."""
ADDRESSES = (
    "http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:1/", "https://example.com/rows.jsonl",
    "hub:owner/name", "s3://bucket/rows.jsonl", "gopher://127.0.0.1:6379/_x", "\\\\host\\share", "//host/share",
)  # fmt: skip
"""Names that would be fetched if they were taken for addresses."""


def some_at_once(names: Sequence[str]) -> list[Any]:
    """The first names for every run of the tests, and the others for the long one."""
    return [pytest.param(name, marks=[pytest.mark.slow] if place > 2 else []) for place, name in enumerate(names)]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    root = tmp_path_factory.mktemp("attacked") / "runs"
    write_run(root / "mine")
    (root.parent / "secret.jsonl").write_text(json.dumps({"text": SECRET}) + "\n")
    with studio(root) as found:
        yield found


@pytest.fixture(scope="module")
def session(opened: Opened) -> Iterator[httpx.Client]:
    """A browser that has opened the link."""
    with httpx.Client(base_url=opened.running.url, trust_env=False) as client:
        client.get(opened.studio.sessions.link())
        yield client


def refused(answer: httpx.Response) -> None:
    assert 400 <= answer.status_code < 500, answer.text
    assert SECRET not in answer.text
    assert "root:" not in answer.text


WITH_ID = [(method, path) for method, path in ROUTES if "{" in path]


@pytest.mark.parametrize(("method", "path"), WITH_ID)
@pytest.mark.parametrize("name", some_at_once(TRAVERSALS))
def test_an_id_in_a_path_is_no_path(opened: Opened, method: str, path: str, name: str) -> None:
    address = path.split("{")[0] + name + path.split("}")[1]
    answer = opened.http.request(method, httpx.URL(opened.running.url).copy_with(raw_path=address.encode()))
    assert SECRET not in answer.text
    if address not in ("/static/..", f"{JOBS}/..", "/v1/files/.."):
        refused(answer)


@pytest.mark.parametrize("name", some_at_once([*ADDRESSES, *TRAVERSALS]))
def test_a_name_in_a_query_or_a_body_is_no_path_and_no_address(opened: Opened, name: str) -> None:
    http = opened.http
    for path, key in (("run", "name"), ("curves", "name"), ("report", "name"), ("lint", "file")):
        refused(http.get(f"/studio/{path}", params={key: name}))
    refused(http.put("/studio/notes", params={"name": name}, json={"text": ""}))
    for body in (
        {"model": name, "training_file": "file-000000000000000000000000"},
        {"model": "tiny", "training_file": name},
        {"model": "tiny", "training_file": "file-000000000000000000000000", "validation_file": name},
        *(
            {"model": "tiny", "training_file": "file-000000000000000000000000", "veneer": {"settings": named}}
            for named in ({key: name} for key in (*MODELS, *ADAPTERS))
        ),
        {
            "model": "tiny",
            "training_file": "file-000000000000000000000000",
            "veneer": {"settings": {"objective": "grpo", "rewards": [{"adapter": name}]}},
        },
    ):
        for route in (JOBS, f"{JOBS}/estimate", f"{JOBS}/preview"):
            refused(http.post(route, json=body))
    refused(http.post("/v1/chat/completions", json={"model": name, "messages": [{"role": "user", "content": "x"}]}))
    assert not list(opened.studio.root.glob("ftjob-*"))


def test_every_setting_that_names_a_file_is_refused(opened: Opened) -> None:
    """A key that is added later and speaks of files or programs must stand in `PATHS`, take a name, or stand here."""
    words = re.compile(r"\b(files?|folder|directory|hub id|sources|python|command|program)\b", re.IGNORECASE)
    settings = opened.http.get("/studio/options").json()["settings"]
    found = {one["key"] for one in settings if words.search(one["text"])}
    harmless = {"data.split.column", "data.cache", "data.columns", "data.held_out", "track", "tracking.mode"}
    harmless |= {"rewards"}  # Python and programs are refused, and adapters are named (test_jobs.py)
    assert found - PATHS - MODELS - ADAPTERS == harmless


BODIES = [method_path for method_path in ROUTES if method_path[0] in ("POST", "PUT") and method_path[1] != "/v1/files"]


UNREAD = [
    b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b'{"seed": ' + b"9" * 5_000 + b"}", b'{"model": NaN}',
    b'{"model": 1e999}', b"\xff\xfe{}", b'{"model": "a", "model": ["b"]}',
]  # fmt: skip
"""Bodies that are no JSON here: one reader refuses them on every route, and each of them is tried on two."""
READ = [
    b"[" * 100_000 + b"]" * 100_000, b"", b"[]", b"null", b'{"model": "\\ud800", "training_file": "x"}',
    b'{"__proto__": {"admin": true}, "constructor": {}}',
    b'{"veneer": {"settings": {"train": {"steps": {"steps": {}}}}}, "model": "m", "training_file": "f"}',
    b'{"veneer": {"settings": {"__class__.__init__": 1, "": 2, "..": 3}}, "model": "m", "training_file": "f"}',
]  # fmt: skip
"""Bodies for every route: two that are no JSON, and JSON that is not what it takes."""


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        pytest.param(
            method, path, body, id=f"{body[:24].decode('latin-1')}-{method}-{path}",
            marks=pytest.mark.slow if body in UNREAD and number > 1 else (),
        )
        for body in (*UNREAD, *READ)
        for number, (method, path) in enumerate(BODIES)
    ],
)  # fmt: skip
def test_json_that_is_nested_huge_or_broken_is_refused(opened: Opened, method: str, path: str, body: bytes) -> None:
    address = path.replace("{job}", "ftjob-0")
    params = {"name": "mine"} if address == "/studio/notes" else {}
    answer = opened.http.request(method, address, content=body, params=params)
    if address == "/studio/notes" and body.startswith(b'{"') and answer.status_code == 200:
        assert answer.json() == {"text": "", "tags": []}  # other fields say nothing of a note
    else:
        refused(answer)


def test_a_body_beyond_the_limit_is_not_read(opened: Opened) -> None:
    body = b'{"model": "' + b"x" * (ServerLimits().body_bytes + 1) + b'"}'
    assert opened.http.post(JOBS, content=body).status_code == 413


@pytest.mark.parametrize(("method", "path"), [one for one in ROUTES if one[1] != "/health"])
def test_no_page_of_another_site_is_answered(session: httpx.Client, method: str, path: str) -> None:
    """At worst they carry a session's cookie: the host, the origin or the browser's word gives them away."""
    address = path.replace("{file}", "file-0").replace("{job}", "ftjob-0").replace("{name}", "app.js")
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"host": "evil.example"},
                    {"host": "127.0.0.1.evil.example"}, {"host": "user@127.0.0.1"}):  # fmt: skip
        assert session.request(method, address, headers=headers).status_code == 403
    for site in ("cross-site", "same-site"):
        assert session.request(method, address, headers={"sec-fetch-site": site}).status_code == 401
    assert session.request(method, address).status_code != 401


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_form_of_another_site_changes_nothing(session: httpx.Client, opened: Opened, kind: str) -> None:
    headers = {"content-type": kind, "origin": "http://localhost:3000"}
    before = opened.http.get("/studio/run?name=mine").json()["record"]
    answer = session.put("/studio/notes?name=mine", content=b'{"text": "changed"}', headers=headers)
    assert answer.status_code == 403
    opened.studio.watcher.look()
    assert opened.http.get("/studio/run?name=mine").json()["record"]["text"] == before["text"]


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PATCH", "CONNECT", "PROPFIND"])
def test_other_verbs_are_not_answered(opened: Opened, method: str) -> None:
    for path in ("/v1/files", JOBS, "/studio/options"):
        headers = {"x-http-method-override": "DELETE"}
        assert opened.http.request(method, path, headers=headers).status_code in (200, 400, 404, 405)
    assert opened.http.request("OPTIONS", "/v1/files").headers.get("access-control-allow-origin") is None


def test_fields_that_the_studio_sets_cannot_be_given(opened: Opened) -> None:
    for field in ("id", "status", "object", "fine_tuned_model", "error", "peak", "attempts"):
        body: dict[str, Any] = {"model": "tiny", "training_file": "file-000000000000000000000000", field: "x"}
        answer = opened.http.post(JOBS, json=body)
        refused(answer)
        assert field in answer.json()["error"]["message"]


HTML = b"<!doctype html><script>alert(1)</script>"


def test_what_was_uploaded_is_never_a_page(opened: Opened) -> None:
    names = (
        "page.html.jsonl",
        'a"; filename="b.html.jsonl',
        "a\r\nset-cookie: x=y.jsonl",
        "<svg onload=alert(1)>.jsonl",
    )
    for name in names:
        sent = opened.http.post("/v1/files", files={"file": (name, HTML, "text/html")}, data={"purpose": "fine-tune"})
        assert sent.status_code == 200
        answer = opened.http.get(f"/v1/files/{sent.json()['id']}/content")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-disposition"].startswith("attachment")
        assert "set-cookie" not in answer.headers
        assert answer.headers["content-disposition"].count("filename") <= 2


def test_the_name_of_a_file_cannot_be_turned_around_where_it_is_shown(opened: Opened) -> None:
    made = opened.client.files.create(file=("ñ\u202egpj.jsonl", b"{}\n"), purpose="fine-tune")
    assert made.filename == r"ñ\u202egpj.jsonl"
    assert opened.client.files.retrieve(made.id).filename == made.filename


def test_no_answer_is_sniffed_and_only_the_page_is_html(opened: Opened) -> None:
    opened.http.put("/studio/notes?name=mine", json={"text": HTML.decode(), "tags": ["<b>"]})
    paths = ("/", "/static/app.js", "/version", "/v1/files", JOBS, "/v1/models", "/studio/options", "/studio/queue",
             "/studio/run?name=mine", "/studio/curves?name=mine", "/studio/curves?name=mine&format=csv",
             "/studio/preferences", "/studio/run?name=<script>", "/nothing/<script>alert(1)</script>")  # fmt: skip
    for path in paths:
        answer = opened.http.get(path)
        kind = answer.headers["content-type"]
        assert ("text/html" in kind) == (path == "/"), path
        assert answer.headers["x-content-type-options"] == "nosniff", path


def test_numbers_of_thousands_of_digits_are_refused(opened: Opened) -> None:
    digits = "9" * 5_000
    assert opened.http.get(f"/studio/curves?name=mine&most={digits}").status_code == 400
    version = f"{opened.studio.watcher.epoch}-{digits}"
    assert opened.http.get(f"/studio/changes?since={version}").json()["whole"]


def test_a_page_in_a_report_is_not_served_as_one(opened: Opened) -> None:
    write_run(opened.studio.root / "forged")
    (opened.studio.root / "forged" / "report.html").write_text(
        f'<script type="application/json" id="data">{HTML.decode()}</script>'
    )
    opened.studio.watcher.look()
    answer = opened.http.get("/studio/report?name=forged")
    refused(answer)
    assert "html" not in answer.headers["content-type"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_wrong_key_says_nothing_of_the_right_one(opened: Opened) -> None:
    key = opened.running.key_file.read_text().strip()
    for wrong in ("", "Bearer", f"Bearer {key[:-1]}", f"Bearer {key}x", f"bearer  {key}", f"Basic {key}", "\u00e9"):
        answer = httpx.get(
            f"{opened.running.url}/v1/files", headers={"authorization": wrong.encode()},
            trust_env=False,
        )  # fmt: skip
        assert answer.status_code in (200, 401)
        assert answer.status_code == 401 or key in wrong
        assert key not in answer.text


def test_words_for_links_cannot_be_tried_out(opened: Opened) -> None:
    with httpx.Client(base_url=opened.running.url, trust_env=False) as client:
        for word in ("", "a", "%00", "../", "\u00e9", "x" * 10_000):
            answer = client.get(f"/open/{word}")
            assert answer.status_code in (400, 401, 404, 414, 431)
            assert "set-cookie" not in answer.headers
