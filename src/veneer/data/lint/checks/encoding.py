"""Damaged encoding: replacement characters, control characters, and UTF-8 that was read as another encoding."""

from __future__ import annotations

import re
from collections.abc import Iterator

from veneer.data.lint.mojibake import repaired
from veneer.data.lint.row import LintSetting, Row
from veneer.data.lint.rules import Cost, Finding, LintRule, RowCheck, Severity

DAMAGED_ENCODING = LintRule(
    "damaged-encoding",
    Severity.WARNING,
    Cost.TEXT,
    "contain text whose encoding was damaged",
    "read the source in its own encoding; `veneer data FILE --fix NEW` repairs what needs no judgement",
)
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd\ufffe\uffff]")


def _run(row: Row, setting: LintSetting) -> Iterator[Finding]:
    for path, text in row.texts:
        if text.isascii() and text.isprintable():
            continue
        found = _CONTROLS.search(text)
        if found is not None:
            code = ord(found.group())
            what = "a replacement character" if code == 0xFFFD else f"the control character U+{code:04X}"
            around = text[max(0, found.start() - 15) : found.start() + 15]
            yield DAMAGED_ENCODING.found(f"{path} contains {what}: {around!r}")
            return
        if not text.isascii():
            mended = repaired(text)
            if mended != text:
                at = next(i for i, (a, b) in enumerate(zip(text, mended, strict=False)) if a != b)
                shown = text[max(0, at - 12) : at + 8]
                yield DAMAGED_ENCODING.found(f"{path} contains UTF-8 that was read as another encoding: {shown!r}")
                return


CHECK = RowCheck((DAMAGED_ENCODING,), _run)
