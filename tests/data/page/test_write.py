from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from helpers.rows.lint_rows import HOSTILE, hostile_report, write
from helpers.servers.browsing import shown_by_a_browser
from helpers.texts import chat_templates as ct
from veneer.data.lint.row import LintSetting
from veneer.data.lint.run import lint
from veneer.data.page.write import write_page


def embedded(text: str) -> dict[str, Any]:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    found = json.loads(data)
    assert isinstance(found, dict)
    return found


def test_the_page_holds_every_finding_and_the_rows_as_they_train(tmp_path: Path) -> None:
    report = hostile_report(tmp_path)
    write_page(tmp_path / "page.html", report)
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
    report = hostile_report(tmp_path)
    write_page(tmp_path / "page.html", report)
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


@pytest.mark.slow
def test_a_mark_that_turns_letters_is_shown_as_an_escape(tmp_path: Path) -> None:
    """As it is, it would show what stands behind it in another order than that in which it trains."""
    file = write(tmp_path / "rows.jsonl", [{"prompt": "a\u202eevil", "completion": "b \u0645\u0631 \u2067c"}])
    write_page(tmp_path / "page.html", lint(file, LintSetting(ct.tokenizer("chatml"))))
    shown = re.sub("<script.*?</script>", "", shown_by_a_browser(tmp_path / "page.html"), flags=re.S)
    assert "\\u202e" in shown
    assert "1 row of" in shown
    assert "\\u2067" in shown
    assert "\u0645" in shown, "letters of languages from right to left stay as they are"
    assert not re.search("[\u2028-\u202e\u2066-\u2069]", shown)


@pytest.mark.slow
def test_a_browser_shows_the_page(tmp_path: Path) -> None:
    report = hostile_report(tmp_path)
    write_page(tmp_path / "page.html", report)
    dom = shown_by_a_browser(tmp_path / "page.html")
    assert "<title>veneer data</title>" in dom
    assert re.search(r"<td><button type=\"button\" class=\"link\">secret</button>", dom)
    assert "3 rows" in dom
    assert 'class="token trained"' in dom
