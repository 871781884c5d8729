from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import chat_templates as ct
from veneer.data.lint.report import LintReport
from veneer.data.lint.row import LintSetting
from veneer.data.lint.run import lint
from veneer.data.page import content as page_content
from veneer.data.page.content import content
from veneer.data.page.write import write_page

HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)> <!-- 😀 é"


def made(tmp_path: Path, count: int = 30) -> tuple[LintReport, LintSetting]:
    rows: list[Any] = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(count)]
    rows[3] = {"prompt": HOSTILE, "completion": "AKIAIOSFODNN7EXAMPLE"}
    rows[5] = {"messages": [{"role": HOSTILE, "content": "x"}]}
    rows[7] = rows[6]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    setting = LintSetting(ct.tokenizer("chatml"))
    return lint(file, tokenizer=setting.tokenizer), setting


def embedded(text: str) -> dict[str, Any]:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    found = json.loads(data)
    assert isinstance(found, dict)
    return found


def test_the_page_holds_every_finding_and_the_rows_as_they_train(tmp_path: Path) -> None:
    report, setting = made(tmp_path)
    write_page(tmp_path / "page.html", report, setting)
    values = embedded((tmp_path / "page.html").read_text())
    found = {rule["name"]: rule["count"] for rule in values["rules"]}
    assert found == {"unusable-row": 1, "secret": 1, "duplicate": 1}
    by_where = {row["where"].rpartition(":")[2]: row for row in values["rows"]}
    assert len(by_where) == 30
    fourth = by_where["4"]
    text = "".join(fourth.get("odd", {}).get(str(i)) or values["texts"][str(t)] for i, t in enumerate(fourth["ids"]))
    assert HOSTILE.replace("é", "").replace("😀", "")[:60] in text
    assert fourth["targets"] == sum(end - start for start, end in trained(fourth))
    assert by_where["6"]["strings"] == [["messages[0].role", HOSTILE], ["messages[0].content", "x"]]


def trained(row: dict[str, Any]) -> list[tuple[int, int]]:
    starts = [0, *(end for end, _, _ in row["spans"])]
    return [(start, end) for start, (end, flag, _) in zip(starts, row["spans"], strict=False) if flag]


def test_nothing_of_a_row_can_become_markup_and_nothing_is_loaded(tmp_path: Path) -> None:
    report, setting = made(tmp_path)
    write_page(tmp_path / "page.html", report, setting)
    text = (tmp_path / "page.html").read_text()
    assert "<img" not in text
    assert HOSTILE not in text
    assert len(re.findall("<script", text)) == 2
    text = re.sub(r'id="data">.*?</script>', "</script>", text, flags=re.S)
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\son\w+=", text)
    addresses = set(re.findall(r"\w+://[^\"' ]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    for tag in ("style", "script"):
        (body,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_a_large_file_makes_a_page_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_content, "TOKENS", 400)
    monkeypatch.setattr(page_content, "CLEAN", 5)
    report, setting = made(tmp_path, count=200)
    values = content(report, setting)
    written = [row for row in values["rows"] if "ids" in row or "strings" in row]
    assert len(written) == values["written"] < 15
    # Every row with a finding is listed, and those with errors come first where there is not room for all.
    assert {row["where"].rpartition(":")[2] for row in values["rows"] if row["findings"]} == {"4", "6", "8"}
    assert "ids" in next(row for row in values["rows"] if row["where"].endswith(":4"))


@pytest.mark.slow
def test_a_browser_shows_the_page(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    report, setting = made(tmp_path)
    write_page(tmp_path / "page.html", report, setting)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"]
    command = [browser, *flags, "--virtual-time-budget=3000", (tmp_path / "page.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert "<title>veneer data</title>" in dom
    assert re.search(r"<td><button type=\"button\" class=\"link\">secret</button>", dom)
    assert "3 rows" in dom
    assert 'class="token trained"' in dom
