from __future__ import annotations

from veneer.notebook import html_facts, html_table


def test_every_text_is_escaped() -> None:
    shown = html_table("<b>rows</b> & more", ("<i>", "n"), [("<script>x</script>", 1234.5678), ("yes", True)])
    assert "<b>" not in shown
    assert "<script>" not in shown
    assert "&lt;script&gt;x&lt;/script&gt;" in shown
    assert "&lt;b&gt;rows&lt;/b&gt; &amp; more" in shown
    assert "1,235" in shown
    assert shown.count("<tr>") == 3


def test_facts_are_rows() -> None:
    assert html_facts("run", {"output": "a&b", "steps": 3}).count("<tr>") == 3
