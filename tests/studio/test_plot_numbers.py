"""The numbers at the axes and in the legends of static/plots, and the curves of printed plots, in Debian's Chromium."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.run_folders.run_logs import step_done, write_run
from helpers.servers.browsing import CHROMIUM, Watched
from helpers.servers.studios import Opened
from veneer.event_log import EventLog

pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
    pytest.mark.slow,
]
RECORD = """window.drawn = []; const draw = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
  window.drawn.push([text, this.textAlign]); return draw.call(this, text, ...rest); };"""
"""Keeps every text that is drawn on a canvas, since axes have no elements. Those of x axes are centred."""


def fast_run(folder: Path, steps: int) -> Path:
    """A run of a few steps whose loss and speed are in the thousands."""
    run = write_run(folder, 1, reason=None)
    with EventLog(run / "events.jsonl") as log:
        for step in range(2, steps + 1):
            log.emit(replace(step_done(step), loss=12_700.0 + step))
    return run


def test_steps_at_an_axis_are_whole_and_large_numbers_have_separators(watched: Watched, opened: Opened) -> None:
    fast_run(opened.studio.root / "fast", 4)
    opened.studio.watcher.look()
    page: Any = watched.page
    page.add_init_script(RECORD)
    page.goto("about:blank")
    watched.go("run/fast")
    page.locator(".plot canvas").first.wait_for()
    page.wait_for_timeout(300)
    drawn = page.evaluate("drawn")
    assert {text for text, align in drawn if align == "center"} == {"1", "2", "3", "4"}
    assert any(re.fullmatch(r"\d+,000", text) for text, align in drawn if align == "right")
    assert "12,704" in page.locator(".plot .legend").first.inner_text()
    with page.expect_download() as taken:
        page.get_by_role("button", name="Loss as SVG").click()
    printed = Path(taken.value.path()).read_text("utf-8")
    assert ">12,704</text>" in printed
    assert ">2.5</text>" not in printed
    assert printed.count("<circle") == 1, "the only evaluation is a dot, as on the page"


DRAWN = """async (count) => {
  const { printedPlot } = await import("/static/plots/printed_plot.js");
  const series = Array.from({ length: count }, (_, place) => (
    { name: `a run with a name of some length ${place}`, x: [1, 2], y: [place, 2], kind: "line", place }));
  series.push({ name: "limit ".repeat(40), x: [1, 2], y: [3, 3], kind: "limit", place: 1 });
  document.body.innerHTML = printedPlot({ title: "Loss", unit: "", series, along: "step", isLog: false });
  const svg = document.querySelector("svg"), whole = svg.getBoundingClientRect();
  const isInside = (element) => {
    const box = element.getBoundingClientRect();
    return box.left >= whole.left && box.right <= whole.right && box.bottom <= whole.bottom; };
  return {
    outside: [...svg.querySelectorAll("text, path")].filter((one) => !isInside(one)).map((one) => one.textContent),
    looks: [...svg.querySelectorAll("path")].map((one) =>
      `${one.getAttribute("stroke")} ${one.getAttribute("stroke-dasharray")}`) };
}"""
"""A printed plot of a number of runs and a limit: what leaves the picture, and how the curves look."""


def test_a_printed_plot_of_many_runs_tells_them_apart_and_holds_all_their_names(watched: Watched) -> None:
    watched.go("runs")
    for count in (2, 20):
        found = watched.page.evaluate(DRAWN, count)
        assert found["outside"] == []
        assert len(set(found["looks"])) == count + 1, found["looks"]
