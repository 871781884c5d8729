"""Numbers, as in GSM8K: the last number of an answer, compared by value.

A mark (`#### 72`, `\\boxed{72}`) has precedence over the last number, and counts if its whole content is one number: a
root, a fraction or a pair is more than the first of its digits. Thousands separators (also as LaTeX writes them),
currency, percent signs and units are skipped. 72 and 72.0 are equal, as are 1e3 and 1,000.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from veneer.evaluation.metrics.base import AnsweredRow, TaskResult
from veneer.evaluation.statistics.measures import mean_of

_DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?!\w))?"
_NUMBER = rf"(?:([-+−]?)[$€£¥₹]\s*)?([-+−]?{_DIGITS})"
"""A sign may be before the currency or after it."""
_ANY = re.compile(rf"(?<![\w.]){_NUMBER}")
_MARK = re.compile(r"\\boxed\s*+(\{)|(?<!#)#{4,}+\s*+(?=([^#][^\n#]*))")
"""A mark. The line after `####` is looked at but not consumed, since it may contain a box."""
_HEADING = re.compile(r"[^\w\\(=+−-]*(?:\d+[.):]\s+)?(?:[AI]\s)?[^\W\d_]{2}")
"""The beginning of a Markdown heading, which also has the sign of a mark: a word, or a number and a word."""
_LATEX = {"\\$": "$", "{,}": ",", "\\!": "", "\\,": ""}
"""LaTeX around and within digits, with its plain replacement: `\\$72{,}000`, `72,\\!000`, `72\\,000`."""
_UPRIGHT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_BLANK = re.compile(r"\\[ ;:()\[\]]|~")
_JOINED = re.compile(r"(?<=\d)(?=[^\W\d_]{2})")
_AROUND = " \t\r\n*_`"
_IDEOGRAPH = "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_WORD = rf"(?:[^\W\d_]{{2,}}|[aghlmsL]|{_IDEOGRAPH})(?:\^\{{?[23]\}}?|[²³])?[).,;。]*"
_UNIT = (
    r"(?:\s*+(?:\\?%|°|\^\{?\\circ\}?|[$€£¥₹¢]))?"
    rf"(?:(?:\s++\(?|/|(?<=[^\W\d_])-|(?<=\d)(?={_IDEOGRAPH})){_WORD})*"
)
_PLAIN = re.compile(rf"{_NUMBER}{_UNIT}\.?\$?")
"""One number and its unit. Words are units; letters directly after a digit in LaTeX (`3xy`) are variables."""


def number(text: str) -> Decimal | None:
    """The number that a text ends in; None if it has none, or if its last mark contains something else."""
    text = _without_latex(text)
    mark = _last_mark(text)
    if mark is not None:
        return _plain(mark)
    found = _ANY.findall(text)
    return _value(*found[-1]) if found else None


def marked_number(text: str) -> Decimal | None:
    """The number in a text's last mark; None if there is no mark, or if it contains something else."""
    mark = _last_mark(_without_latex(text))
    return None if mark is None else _plain(mark)


def numbers(rows: Sequence[AnsweredRow]) -> TaskResult:
    """The share of answers whose number equals the reference's; rows whose reference has no number do not count."""
    values: list[float | None] = []
    for row in rows:
        expected = number(row.reference)
        values.append(None if expected is None else float(number(row.answer) == expected))
    found = mean_of("number", values)
    return TaskResult([] if found is None else [found])


def _without_latex(text: str) -> str:
    for written, plain in _LATEX.items():
        text = text.replace(written, plain)
    return text


def _last_mark(text: str) -> str | None:
    """The content of a text's last mark; None if it has no mark. A box that is not closed ends with the text."""
    last = None
    for found in _MARK.finditer(text):
        if found.group(1) or not _HEADING.match(found.group(2)):
            last = found
    if last is None:
        return None
    if not last.group(1):
        return _JOINED.sub(" ", last.group(2).removeprefix("- "))  # "5cm" is not a product on a line of prose
    depth, start = 1, last.end()
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace.group() == "{" else -1
        if not depth:
            return text[start : start + brace.start()].replace("- ", "-")
    return text[start:]


def _plain(mark: str) -> Decimal | None:
    """The number that a mark contains, or None if it contains more than one number."""
    found = _PLAIN.fullmatch(_BLANK.sub(" ", _UPRIGHT.sub(r" \1", mark)).strip(_AROUND))
    return None if found is None else _value(*found.groups(default=""))


def _value(before: str, digits: str) -> Decimal:
    sign = before if digits[0] not in "-+−" else ""
    return Decimal(f"{sign}{digits}".replace(",", "").replace("−", "-"))
