from __future__ import annotations

import pytest

from veneer.html.notebook import html_facts, html_notes, html_table


def test_every_text_is_escaped() -> None:
    shown = html_table("<b>rows</b> & more", ("<i>", "n"), [("<script>x</script>", 1234.5678), ("yes", True)])
    assert "<b>" not in shown
    assert "<script>" not in shown
    assert "&lt;script&gt;x&lt;/script&gt;" in shown
    assert "&lt;b&gt;rows&lt;/b&gt; &amp; more" in shown
    assert "1,235" in shown
    assert shown.count("<tr>") == 3


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (12_345, "12,345"), (1_234_567, "1,234,567"), (-12_345, "-12,345"), (20_221.4, "20,221"), (1234.5678, "1,235"),
        (0.00001234, "1.234e-05"), (0.5, "0.5"), (float("nan"), "nan"), (float("inf"), "inf"),
        (10**400, f"{10**400:,}"),
    ],
)  # fmt: skip
def test_counts_are_whole(value: float, shown: str) -> None:
    assert f">{shown}<" in html_facts("run", {"n": value})


def test_remarks_are_a_list() -> None:
    assert html_notes(["<b>", "x\n  - y"]).count("<li") == 2
    assert "<b>" not in html_notes(["<b>"])
    assert html_notes([]) == ""


def test_facts_are_rows() -> None:
    assert html_facts("run", {"output": "a&b", "steps": 3}).count("<tr>") == 3
