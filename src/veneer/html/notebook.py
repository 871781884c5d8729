"""Results as HTML, which notebooks show: plain tables, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape


def html_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with a caption. Texts are left-aligned and numbers right-aligned, with 4 digits unless they are whole."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def html_facts(title: str, facts: Mapping[str, object]) -> str:
    """A table of names and values."""
    return html_table(title, ("", ""), facts.items())


def html_notes(notes: Iterable[str]) -> str:
    """A list of remarks, whose line breaks are kept; an empty string if there are none."""
    lines = "".join(f"<li style='white-space:pre-line'>{escape(note)}</li>" for note in notes)
    return f"<ul>{lines}</ul>" if lines else ""


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"<td style='text-align:left'>{escape(str(value))}</td>"
    places = "," if isinstance(value, int) else ",.0f" if 10_000 <= abs(value) < 1e15 else ",.4g"
    return f"<td style='text-align:right'>{format(value, places)}</td>"
