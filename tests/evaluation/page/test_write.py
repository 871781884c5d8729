from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from helpers.models.tiny import rows, run_config, write_rows
from helpers.servers.browsing import shown_by_a_browser
from veneer.config import ComputeSection
from veneer.enums import Dtype
from veneer.evaluation.forgetting import SuiteResult
from veneer.evaluation.page.content import content
from veneer.evaluation.page.write import write_report
from veneer.evaluation.report import Report, Sample
from veneer.evaluation.run import evaluate
from veneer.evaluation.statistics.compare import Comparison, Metric
from veneer.events import ignore
from veneer.training.run import train

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)
HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)>"


def full_report(tmp_path: Path, model: Path) -> tuple[Path, Report]:
    """An evaluation with everything that a page shows: a gate, suites, labels, a run's record."""
    questions = [row["messages"][0]["content"] for row in rows(8)]
    asked = [{"prompt": text, "completion": ["late", "blue"][i % 2]} for i, text in enumerate(questions)]
    data = write_rows(tmp_path / "rows.jsonl", asked)
    settings = ("train.steps=6", "data.held_out=0.25", "train.eval_every=2")
    output = train(run_config(model, data, tmp_path / "run", *settings)).output
    (tmp_path / "gate.yaml").write_text("metric: classification\nbetter_by: 0.1\nsuites: {arithmetic: 0.1}\nitems: 3\n")
    page = tmp_path / "report.html"
    report = evaluate(
        str(model), data, adapter=output, compute=FLOAT32, max_new_tokens=3, metrics=["classification", "choice"],
        suites=[f"kl:{data}"], gate=tmp_path / "gate.yaml", html=page,
    )  # fmt: skip
    return page, report


def test_the_page_holds_what_the_json_holds(tmp_path: Path, tiny_model: Path) -> None:
    page, report = full_report(tmp_path, tiny_model)
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    values = json.loads(data)
    plain = json.loads(json.dumps(report.to_json()))
    for key in ("comparison", "suites", "gate", "details", "warnings", "primary"):
        assert values["report"][key] == plain[key]
    facts = values["report"]["trained"]["facts"]
    assert (facts["method"], facts["steps"], facts["rank, alpha"]) == ("lora", 6, "4, 8")
    assert len(values["report"]["trained"]["losses"]["steps"]) == 6
    assert len(values["report"]["trained"]["losses"]["evaluations"]) == 3
    shown = values["worst"] + values["best"]
    assert len(shown) == 8
    # Numbers, as the page expects them: it says of no other value whether an answer is exact.
    assert {type(value) for row in shown for value in row["exact"]} == {float}


def test_nothing_of_a_row_can_become_markup(tmp_path: Path) -> None:
    sample = Sample(HOSTILE, HOSTILE, HOSTILE, HOSTILE, None)
    write_report(
        tmp_path / "page.html", Report(rows=1, base=[Metric("exact", 0, 0, 1)], samples=[sample]), HOSTILE, ignore
    )
    text = (tmp_path / "page.html").read_text()
    assert HOSTILE not in text
    assert "<img" not in text
    assert len(re.findall("<script", text)) == 2


@pytest.mark.slow
def test_the_page_of_a_single_row_is_shown_to_its_end(tmp_path: Path) -> None:
    """One row says nothing of others, so that the intervals of losses have no ends."""
    ends = (-math.inf, math.inf)
    found = {"ece": 0.5, "low": -math.inf, "high": math.inf, "interval": "bootstrap", "bins": []}
    report = Report(
        rows=1,
        base=[Metric("loss", 2.0, *ends), Metric("perplexity", 7.4, *ends)],
        comparison=[
            Comparison("loss", 2.0, 1.0, -1.0, *ends, p=0.0),
            Comparison("perplexity", 7.4, 2.7, -4.7, *ends, ratio=(0.368, 0.0, math.inf)),
        ],
        samples=[Sample("rows.jsonl:1", "Where?", "Here.", "There.", "Here.")],
        primary="loss",
        suites=[SuiteResult("kl:a.jsonl", 1, "KL", Comparison("kl", 0.0, 0.5, 0.5, *ends, "bootstrap"))],
        details={"base": {"calibration": found}},
    )
    write_report(tmp_path / "page.html", report, "of one row", ignore)
    dom = shown_by_a_browser(tmp_path / "page.html")
    assert "1 row. These rows do not say which is better" in dom
    assert "highest bar: 1 row)" in dom
    assert "<td>bootstrap, 1 row</td>" in dom, "a suite of one row"
    assert not re.search(r"(?<!of )\b1 rows", dom)
    assert '<td class="number">&lt; 1e-12</td>' in dom, "a p of 0, which no test can tell"
    assert "Perplexity is multiplied by 0.368 (0.000 to –)." in dom
    assert "calibration error 0.500 (95 %: – to –; bootstrap)" in dom
    assert dom.count('<article class="card">') == 1, "what stands last on the page"


@pytest.mark.slow
def test_a_browser_shows_the_page(tmp_path: Path, tiny_model: Path) -> None:
    page, report = full_report(tmp_path, tiny_model)
    dom = shown_by_a_browser(page)
    headings = ("Gate", "Measures", "What was forgotten", "Details", "What was trained", "Lengths of answers", "Rows")
    for heading in headings:
        section = re.search(f"<section[^>]*><h2>{heading}</h2>", dom.replace("\n", ""))
        assert section is not None, heading
        assert "hidden" not in section[0], heading
    assert report.gate is not None
    assert f'<span class="{report.gate.verdict}">{report.gate.verdict}</span>' in dom
    assert dom.count("<svg") >= 6
    lists = content(report, "of a run", ignore)
    assert dom.count('<article class="card">') == len(lists["worst"] or lists["best"] or lists["same"])
    assert "<mark>" in dom
