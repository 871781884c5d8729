"""The content of the page, as plain values: the findings, their rows, a sample of the clean ones, and histograms.

Rows are written as ids only, and the text of each id once for all rows, so that a row of 200 tokens takes about a
kilobyte. Tokens are written for as many rows as fit into MOST_TOKENS: rows with errors first, and clean ones last.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veneer.data.lint.report import LintReport
from veneer.data.lint.row import LintSetting, Row
from veneer.data.lint.view import rows_again, spans_of, tokens_of
from veneer.html.histograms import histograms

MOST_CLEAN_ROWS = 1_000
"""The number of rows without a finding in the page, spread evenly over the file."""
MOST_TOKENS = 6_000_000
"""The tokens (without a model, characters) of all rows that are written; further rows show only their findings."""
MOST_ROW_TOKENS = 4_000
"""The most tokens that are written of one row."""
HISTOGRAM_BINS = 40
_MOST_FREQUENT_TOKENS = 50


def content(report: LintReport) -> dict[str, Any]:
    """The whole content of the page."""
    findings = _findings(report)
    shown = _chosen(report, findings)
    rows: dict[int, dict[str, Any]] = {
        number: {"where": report.facts.where(number), "findings": found} for number, found in findings.items()
    }
    texts: dict[int, str] = {}
    fields: dict[str, int] = {}
    counts: Counter[int] = Counter()
    for number, row in rows_again(report, shown):
        entry = rows.setdefault(number, {"where": report.facts.where(number), "findings": []})
        entry.update(_written(row, report.setting, texts, fields, counts))
    frequent = [
        [index, count, texts[index] or _name(index, report.setting)]
        for index, count in counts.most_common(_MOST_FREQUENT_TOKENS)
    ]
    return {
        "files": list(report.files),
        "objective": None if report.objective is None else report.objective.value,
        "checked": report.rows,
        "clean": report.rows - len(findings),
        "rules": [
            {
                "name": found.rule.name,
                "severity": found.rule.severity.value,
                "summary": found.rule.summary,
                "remedy": found.rule.remedy,
                "count": len(found.rows),
            }
            for found in report.found
        ],
        "rows": [rows[number] for number in sorted(rows)],
        "written": len(shown),
        "texts": texts,
        "fields": list(fields),
        "frequent": frequent,
        "not_checked": list(report.skipped),
        "not_done": list(report.undone),
        "histograms": _histograms(report),
        **report.statistics(),
    }


def _findings(report: LintReport) -> dict[int, list[tuple[int, str]]]:
    """For each row with findings: the indices of their rules in the report, and their details."""
    findings: dict[int, list[tuple[int, str]]] = {}
    for place, found in enumerate(report.found):
        for row in found.rows:
            findings.setdefault(row, []).append((place, found.details.get(row, "")))
    return findings


def _chosen(report: LintReport, findings: dict[int, list[tuple[int, str]]]) -> list[int]:
    """The rows whose tokens are written: rows with findings by severity, as long as there is room, and a sample of the
    clean ones in the rest."""
    lengths = np.minimum(report.facts.length, MOST_ROW_TOKENS)
    clean = [row for row in range(0, report.rows, max(1, -(-report.rows // MOST_CLEAN_ROWS))) if row not in findings]
    # Rules are in order of severity, so the first finding of a row is its gravest.
    grave = sorted(findings, key=lambda row: (findings[row][0][0], row))
    chosen = grave[: _fitting(lengths[grave], MOST_TOKENS)]
    room = MOST_TOKENS - int(lengths[chosen].sum())
    sample, fewer = clean, 1
    while _fitting(lengths[sample], room) < len(sample):
        fewer += 1  # from the whole file, and not from its beginning
        sample = clean[::fewer] if fewer <= len(clean) else []
    return [*chosen, *sample]


def _fitting(lengths: NDArray[np.int32], room: int) -> int:
    """The number of rows of these lengths, from the first, that fit into the room."""
    return int(np.searchsorted(np.cumsum(lengths, dtype=np.int64), room, side="right"))


def _written(
    row: Row, setting: LintSetting, texts: dict[int, str], fields: dict[str, int], counts: Counter[int]
) -> dict[str, Any]:
    """A row in the form of the page: its tokens, or its strings if it has no tokens."""
    tokens = tokens_of(row, setting)
    if not tokens:
        strings = [[path, text[:MOST_ROW_TOKENS]] for path, text in row.texts]
        return {"strings": strings or [["", row.problem or ""]]}
    for token in tokens:
        texts.setdefault(token.id, token.text)
        counts[token.id] += 1
    spans = [
        [span.end, int(span.trained), fields.setdefault(span.field, len(fields))]
        for span in spans_of(tokens[:MOST_ROW_TOKENS])
    ]
    # A token is shown by its own text if that differs from the usual one (at the beginning of a text, for example).
    odd = {place: token.text for place, token in enumerate(tokens[:MOST_ROW_TOKENS]) if texts[token.id] != token.text}
    written: dict[str, Any] = {"ids": [token.id for token in tokens[:MOST_ROW_TOKENS]], "spans": spans}
    written["length"], written["targets"] = len(tokens), sum(token.trained for token in tokens)
    return written | ({"odd": odd} if odd else {})


def _name(index: int, setting: LintSetting) -> str:
    """The name of a token in the vocabulary."""
    return "" if setting.tokenizer is None else setting.tokenizer.backend.id_to_token(index) or ""


def _histograms(report: LintReport) -> list[dict[str, Any]]:
    """The lengths of rows, the trained tokens of rows and the lengths of answers."""
    usable = report.facts.usable
    kinds = (
        (f"{(report.statistics()['lengths'] or {}).get('unit', 'tokens')} a row", report.facts.length[usable]),
        ("trained tokens a row", report.facts.targets[usable]),
        ("characters of the answer", report.facts.answer_length[usable]),
    )
    return [made for name, values in kinds for made in histograms({name: values}, HISTOGRAM_BINS)]
