"""All records of a file to examples: limits on their length applied, everything that is left out counted and named."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import tee
from typing import TYPE_CHECKING

from veneer.data.chat import Encoder, Example, Trace, template_of
from veneer.data.problems import RowProblem, grouped
from veneer.data.records import Record
from veneer.enums import BadRows, Overlong
from veneer.errors import DataError

if TYPE_CHECKING:
    from veneer.data.lint.audit import RowAudit
    from veneer.io.tokenizer import Tokenizer

HUGE = 1 << 20
"""Characters of a row beyond which only its beginning is tokenised, where there is a limit on its length."""
KEPT = 16
"""Characters of a message that are kept where its row has been cut before it."""


@dataclass(frozen=True, slots=True)
class EncodeReport:
    """The complete account of `encode_all`: every row is either in the examples or named here."""

    rows: int
    """Number of rows given."""
    examples: int
    """Number of rows that became examples."""
    tokens: int
    """Number of tokens of all examples."""
    supervised: int
    """Number of targets of all examples."""
    longest: int
    """Number of tokens of the longest row as given, before anything was cut."""
    longest_where: str
    """Place of the longest row: file and line."""
    longest_is_bound: bool
    """Whether the longest row is longer than `longest` says: a huge row is tokenised only as far as is needed."""
    max_length: int | None
    dropped: tuple[str, ...]
    """Places of the rows that were left out because they were longer than `max_length`."""
    truncated: tuple[str, ...]
    """Places of the rows that were cut to `max_length` and still train."""
    untrained: tuple[str, ...]
    """Places of the rows that were left out because no target remained."""
    spelled: tuple[str, ...]
    """Places of the rows that spell a special token, which was made ordinary text."""
    skipped: tuple[RowProblem, ...]
    """The rows that cannot be encoded and were left out."""
    notes: tuple[str, ...]
    """Sentences that the user should know about the template or tokenizer."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedFile:
    """The examples of a file, and the account of how they came about."""

    examples: list[Example]
    report: EncodeReport


def encode_all(
    records: Iterable[Record],
    tokenizer: Tokenizer,
    *,
    max_length: int | None,
    overlong: Overlong,
    bad_rows: BadRows = BadRows.REFUSE,
    audit: RowAudit | None = None,
) -> EncodedFile:
    """Encode every record with the tokenizer's own chat template.

    Args:
        records: the rows, at least one.
        tokenizer: the tokenizer of the model, with its chat template.
        max_length: most tokens of an example, all counted; None sets no limit.
        overlong: whether longer rows are left out or cut to their first `max_length` tokens.
        bad_rows: whether a row that cannot be encoded, or is refused by `audit`, is an error or left out.
        audit: checks each row, but those of which only the beginning is tokenised; it keeps what it finds.

    Returns:
        The examples in the records' order, and a report that names every row that is cut or missing.

    Raises:
        DataError: rows that the template or `audit` refuses and that may not be skipped (one error names all of them by
            cause), or nothing is left to train on.
    """
    if max_length is not None and max_length < 2:
        raise DataError(f"max_length is {max_length}; at least 2 tokens are needed, one to predict from the other")
    encoder = Encoder(tokenizer, template_of(tokenizer))
    tally = _Tally(max_length, overlong)
    records, whole = tee(records)
    beginnings = (record if max_length is None else _beginning(record, HUGE) for record in records)
    for record, found in zip(whole, encoder.traces(beginnings), strict=True):
        cut = False
        if max_length is not None and _characters(record) > HUGE:
            found, cut = _lengthened(encoder, record, found, max_length)
        if isinstance(found, DataError):
            tally.problems.append(RowProblem(record.where, str(found)))
        else:
            reason = None if audit is None or cut else audit.refusal(record, found)
            if reason is None:
                tally.add(found, cut)
            else:
                tally.problems.append(RowProblem(record.where, reason))
    problems = tally.problems
    if problems and (bad_rows is BadRows.REFUSE or not tally.rows):
        total = len(problems) + tally.rows
        remedy = "\ndata.bad_rows: skip leaves such rows out" if tally.rows else ""
        checks = "" if audit is None else "; data.checks says which rules refuse rows"
        raise DataError(f"{len(problems)} of {total} rows cannot be encoded:\n{grouped(problems)}{remedy}{checks}")
    report = tally.report(encoder.notes())
    if not tally.examples:
        raise DataError(
            f"no row is left to train on: of {report.rows} rows, {len(report.dropped)} are longer than "
            f"{max_length} tokens (the longest has {report.longest}) and {len(report.untrained)} have nothing that "
            "trains; raise max_length or shorten the rows"
        )
    return EncodedFile(tally.examples, report)


def _lengthened(
    encoder: Encoder, record: Record, found: Trace | DataError, max_length: int
) -> tuple[Trace | DataError, bool]:
    """Tokenise more of a huge record, until it shows that the record is longer than `max_length` or all is tokenised.

    The first `max_length` tokens of a beginning with twice as many are those of the whole record, since tokenizers
    merge characters locally.

    Args:
        encoder: makes the tokens.
        record: the whole record.
        found: what came of its first HUGE characters.
        max_length: tokens that a row may have.

    Returns:
        What came of as much as was needed, and whether that is the beginning only.
    """
    room = HUGE
    while isinstance(found, Trace) and len(found.example.tokens) < 2 * max_length:
        room *= 4
        (found,) = encoder.traces([_beginning(record, room)])
        if room >= _characters(record):
            return found, False
    return found, True


def _characters(record: Record) -> int:
    return len(record.text or "") + sum(len(message["content"]) for message in record.messages)


def _beginning(record: Record, room: int) -> Record:
    """A record whose texts have at most `room` characters in all, but that messages behind these keep a few, so that
    their roles stay where a template looks for them; the record itself where it is no longer."""
    if _characters(record) <= room:
        return record
    if record.text is not None:
        return replace(record, text=record.text[:room])
    messages, left = [], room
    for message in record.messages:
        kept = message["content"][: max(left, KEPT)]
        left -= len(kept)
        messages.append({**message, "content": kept})
    prompt, completion = record.prompt, record.completion
    if prompt is not None and completion is not None:
        prompt, completion = prompt[:room], completion[: max(room - len(prompt), KEPT)]
    return replace(record, messages=tuple(messages), prompt=prompt, completion=completion)


class _Tally:
    """Applies `max_length` and counts."""

    def __init__(self, max_length: int | None, overlong: Overlong) -> None:
        self.examples: list[Example] = []
        self.problems: list[RowProblem] = []
        self.rows = 0
        self._max_length = max_length
        self._overlong = overlong
        self._longest = (0, "", False)
        self._dropped: list[str] = []
        self._truncated: list[str] = []
        self._untrained: list[str] = []
        self._spelled: list[str] = []

    def add(self, trace: Trace, cut: bool) -> None:
        self.rows += 1
        example = trace.example
        length = len(example.tokens)
        if length > self._longest[0]:
            self._longest = (length, example.where, cut)
        if trace.spelled:
            self._spelled.append(example.where)
        limit = length if self._max_length is None else self._max_length
        if length > limit and self._overlong is Overlong.DROP:
            self._dropped.append(example.where)
            return
        if length > limit:
            # Copies, so that the rest of the row is not held.
            example = Example(example.tokens[:limit].copy(), example.loss_mask[:limit].copy(), example.where)
        if not example.loss_mask.any():
            self._untrained.append(example.where)
            return
        if length > limit:
            self._truncated.append(example.where)
        self.examples.append(example)

    def report(self, notes: tuple[str, ...]) -> EncodeReport:
        return EncodeReport(
            rows=self.rows + len(self.problems),
            examples=len(self.examples),
            tokens=sum(len(example.tokens) for example in self.examples),
            supervised=sum(example.supervised for example in self.examples),
            longest=self._longest[0],
            longest_where=self._longest[1],
            longest_is_bound=self._longest[2],
            max_length=self._max_length,
            dropped=tuple(self._dropped),
            truncated=tuple(self._truncated),
            untrained=tuple(self._untrained),
            spelled=tuple(self._spelled),
            skipped=tuple(self.problems),
            notes=notes,
        )
