"""All records of a file to examples: limits on their length are applied, and all that is left out is named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import tee
from typing import TYPE_CHECKING

from veneer.data.encoded.chat import Encoder, Example, Trace, template_of
from veneer.data.encoded.pieces import pieces
from veneer.data.forms.record import Record
from veneer.data.problems import RowProblem, grouped
from veneer.enums import BadRows, Overlong
from veneer.errors import DataError
from veneer.events import Subscriber, ignore
from veneer.text.counting import count_of

if TYPE_CHECKING:
    from veneer.data.lint.audit import RowAudit
    from veneer.io.tokenizer import Tokenizer

HUGE_ROW_CHARS = 1 << 20
"""The length in characters from which on only the beginning of a row is tokenised, if its length is limited and the
rest is not needed."""
KEPT_CHARS = 16
"""The characters that are kept of a message after the place where its row was cut."""


class Fate(Enum):
    """What became of a row."""

    KEPT = 0
    TRUNCATED = 1
    """It was cut to its first `max_length` tokens, and still trains."""
    SPLIT = 2
    """It was cut into pieces, which are examples each."""
    DROPPED = 3
    """It was left out because it is longer than `max_length`."""
    UNTRAINED = 4
    """It was left out because no target remained."""
    REFUSED = 5
    """It cannot be encoded, or a check refuses it."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedRow:
    """The result of encoding one row."""

    record: Record
    fate: Fate
    examples: tuple[Example, ...] = ()
    """The trained examples: none if the row was left out, several if it was split."""
    length: int = 0
    """Number of tokens of the row as given, before anything was cut."""
    length_is_bound: bool = False
    """Whether the row is longer than `length` says: a huge row is tokenised only as far as needed."""
    spelled: bool = False
    """Whether the row spells a special token, which was made ordinary text."""
    reason: str = ""
    """The reason why the row is refused."""


@dataclass(frozen=True, slots=True)
class EncodeReport:
    """The complete account of `encode_all`: every row is either among the examples or named here."""

    rows: int
    """Number of rows given."""
    examples: int
    """Number of examples; those of a row with several parts count as one."""
    further: int
    """Number of examples that are further pieces of a split row, not its first."""
    tokens: int
    """Number of tokens of all examples."""
    supervised: int
    """Number of targets of all examples."""
    longest: int
    """Number of tokens of the longest example."""
    longest_where: str
    """Place of its row: file and line."""
    given: int
    """Number of tokens of the longest row as given, before anything was left out or cut."""
    given_where: str
    """Place of that row."""
    given_is_bound: bool
    """Whether that row is longer than `given` says: a huge row is tokenised only as far as needed."""
    max_length: int | None
    dropped: Sequence[str]
    """Places of the rows that were left out because they were longer than `max_length`."""
    truncated: Sequence[str]
    """Places of the rows that were cut to `max_length` and still train."""
    split: Sequence[str]
    """Places of the rows that were cut into pieces of at most `max_length` tokens."""
    untrained: Sequence[str]
    """Places of the rows that were left out because no target remained."""
    spelled: Sequence[str]
    """Places of the rows that spell a special token, which was made ordinary text."""
    skipped: Sequence[RowProblem]
    """The rows that cannot be encoded and were left out."""
    notes: tuple[str, ...]
    """Sentences that the user should know about the template or tokenizer."""

    @property
    def kept(self) -> int:
        """Number of rows that became examples."""
        return self.examples - self.further

    @property
    def pieces(self) -> int:
        """Number of examples that are pieces of a split row."""
        return self.further + len(self.split)


@dataclass(frozen=True, slots=True, eq=False)
class EncodedFile:
    """The examples of a file, with the account of their encoding."""

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
    parts: Sequence[str] = ("",),
    what: str = "training",
    emit: Subscriber = ignore,
) -> EncodedFile:
    """Encode every record with the tokenizer's own chat template.

    Args:
        records: the rows, at least one; if a row has several parts, these follow each other.
        tokenizer: the tokenizer of the model, with its chat template.
        max_length: the most tokens of an example, all counted; None sets no limit.
        overlong: whether longer rows are left out, cut to their first `max_length` tokens, or (plain texts) cut into
            pieces.
        bad_rows: whether a row that cannot be encoded, or is refused by `audit`, is an error or left out.
        audit: checks each row, except those of which only the beginning is tokenised; it keeps its findings.
        parts: the names of a row's records if it has several: chosen, rejected. A row is used with all of its parts,
            or left out with all of them.
        what: the kind of rows in errors: "training" or "evaluation".
        emit: receives the progress of a row that alone takes long.

    Returns:
        The examples in the records' order, and a report that names every row that is cut or missing.

    Raises:
        DataError: the template or `audit` refuses rows that may not be skipped (one error names all of them by cause),
            or no row is left.
    """
    encoder = encoder_of(tokenizer, emit)
    tally = _Tally(max_length, len(parts))
    each = encode_each(records, encoder, max_length=max_length, overlong=overlong, audit=audit)
    for row in zip(*[each] * len(parts), strict=True):
        tally.add(row[0] if len(row) == 1 else _joined(row, parts))
    refuse_problems(tally.problems, tally.rows, bad_rows, checked=audit is not None)
    report = tally.report(encoder.notes())
    if not tally.examples:
        raise nothing_left(what, report.rows, max_length, len(report.dropped), report.given, len(report.untrained))
    return EncodedFile(tally.examples, report)


def _joined(row: Sequence[EncodedRow], parts: Sequence[str]) -> EncodedRow:
    """The result of a row with several parts, which is left out if one of them is."""
    fate = max((one.fate for one in row), key=lambda fate: fate.value)
    reasons = [f"{part}: {one.reason}" for part, one in zip(parts, row, strict=True) if one.fate is Fate.REFUSED]
    longest = max(row, key=lambda one: one.length)
    left_out = fate in (Fate.DROPPED, Fate.UNTRAINED, Fate.REFUSED)
    return EncodedRow(
        row[0].record,
        fate,
        () if left_out else tuple(example for one in row for example in one.examples),
        longest.length,
        longest.length_is_bound,
        any(one.spelled for one in row),
        "; ".join(reasons),
    )


def encoder_of(tokenizer: Tokenizer, emit: Subscriber = ignore) -> Encoder:
    """The encoder for training rows with this tokenizer, which emits the progress of a row that takes long."""
    return Encoder(tokenizer, template_of(tokenizer), emit)


def encode_each(
    records: Iterable[Record],
    encoder: Encoder,
    *,
    max_length: int | None,
    overlong: Overlong,
    audit: RowAudit | None = None,
) -> Iterator[EncodedRow]:
    """Encode records one by one, as they are requested; yields the result of each, in order.

    Args:
        records: the rows.
        encoder: makes the tokens.
        max_length, overlong, audit: see `encode_all`.

    Raises:
        DataError: `max_length` has no room for a target, or the template cannot be used for any row.
    """
    if max_length is not None and max_length < 2:
        raise DataError(f"max_length is {max_length}; at least 2 tokens are needed, one to predict from the other")
    records, whole = tee(records)
    beginnings = (record if _is_tokenised_whole(record, max_length, overlong) else _beginning(record, HUGE_ROW_CHARS)
                  for record in records)  # fmt: skip
    for record, found in zip(whole, encoder.traces(beginnings), strict=True):
        cut = False
        if not _is_tokenised_whole(record, max_length, overlong) and max_length is not None:
            found, cut = _lengthened(encoder, record, found, max_length)
        reason = None
        if isinstance(found, DataError):
            reason = str(found)
        elif audit is not None and not cut:
            reason = audit.refusal(record, found)
        if reason is not None or isinstance(found, DataError):
            yield EncodedRow(record, Fate.REFUSED, reason=reason or "")
            continue
        fate, examples = _limited(record, found.example, max_length, overlong, encoder.beginning)
        yield EncodedRow(record, fate, examples, len(found.example.tokens), cut, found.spelled)


def _is_tokenised_whole(record: Record, max_length: int | None, overlong: Overlong) -> bool:
    """Whether the whole row is needed: there is no limit, it is short, or it is to be cut into pieces."""
    if max_length is None or (overlong is Overlong.SPLIT and record.text is not None):
        return True
    return record.characters <= HUGE_ROW_CHARS


def _limited(
    record: Record, example: Example, max_length: int | None, overlong: Overlong, beginning: Sequence[int]
) -> tuple[Fate, tuple[Example, ...]]:
    """Apply `max_length`: the fate of a row, and its examples."""
    limit = len(example.tokens) if max_length is None else max_length
    fate = Fate.KEPT
    if len(example.tokens) > limit:
        if overlong is Overlong.SPLIT and record.text is not None:
            return Fate.SPLIT, pieces(example, limit, beginning)
        if overlong is not Overlong.TRUNCATE:
            return Fate.DROPPED, ()
        # Copies, so that the memory of the rest of the row is released.
        example = Example(example.tokens[:limit].copy(), example.loss_mask[:limit].copy(), example.where)
        fate = Fate.TRUNCATED
    return (fate, (example,)) if example.loss_mask.any() else (Fate.UNTRAINED, ())


def refuse_problems(problems: Sequence[RowProblem], others: int, bad_rows: BadRows, *, checked: bool) -> None:
    """Refuse rows that cannot be encoded, all at once, unless they may be left out and other rows remain.

    Args:
        problems: the rows.
        others: the number of other rows.
        bad_rows: whether such a row is an error or left out.
        checked: whether an audit may have refused them.

    Raises:
        DataError: there are such rows, and they may not be left out.
    """
    if problems and (bad_rows is BadRows.REFUSE or not others):
        remedy = "\ndata.bad_rows: skip leaves such rows out" if others else ""
        checks = "; data.checks says which rules refuse rows" if checked else ""
        raise DataError(
            f"{len(problems)} of {count_of(len(problems) + others, 'row')} cannot be encoded:\n"
            f"{grouped(problems)}{remedy}{checks}"
        )


def nothing_left(what: str, rows: int, max_length: int | None, dropped: int, longest: int, untrained: int) -> DataError:
    """The error if none of the training or evaluation rows is left."""
    return DataError(
        f"no {what} row is left: of {count_of(rows, 'row')}, {dropped} are longer than "
        f"{max_length} tokens (the longest has {longest}) and {untrained} have nothing that "
        "is trained; raise max_length or shorten the rows"
    )


def _lengthened(
    encoder: Encoder, record: Record, found: Trace | DataError, max_length: int
) -> tuple[Trace | DataError, bool]:
    """Tokenise more of a huge record, until it shows that the record is longer than `max_length` or all is tokenised.

    The first `max_length` tokens of a beginning with twice as many are those of the whole record, since tokenizers
    merge characters locally.

    Args:
        encoder: makes the tokens.
        record: the whole record.
        found: the result of its first `HUGE_ROW_CHARS` characters.
        max_length: the most tokens of a row.

    Returns:
        The result of as much as was needed, and whether that is only the beginning.
    """
    room = HUGE_ROW_CHARS
    while isinstance(found, Trace) and len(found.example.tokens) < 2 * max_length:
        room *= 4
        (found,) = encoder.traces([_beginning(record, room)])
        if room >= record.characters:
            return found, False
    return found, True


def _beginning(record: Record, room: int) -> Record:
    """A record whose texts have at most `room` characters in all, except that later messages keep a few, so that their
    roles stay where a template looks for them; the record itself if it is not longer."""
    if record.characters <= room:
        return record
    if record.text is not None:
        return replace(record, text=record.text[:room])
    messages, left = [], room
    for message in record.messages:
        kept = message["content"][: max(left, KEPT_CHARS)]
        left -= len(kept)
        messages.append({**message, "content": kept})
    prompt, completion = record.prompt, record.completion
    if prompt is not None and completion is not None:
        prompt, completion = prompt[:room], completion[: max(room - len(prompt), KEPT_CHARS)]
    return replace(record, messages=tuple(messages), prompt=prompt, completion=completion)


class _Tally:
    """Keeps the examples, and counts."""

    def __init__(self, max_length: int | None, parts: int) -> None:
        self.examples: list[Example] = []
        self.problems: list[RowProblem] = []
        self.rows = 0
        self._further = 0
        self._max_length, self._parts = max_length, parts
        self._longest = (0, "")
        self._given = (0, "", False)
        self._places: dict[Fate, list[str]] = {fate: [] for fate in Fate}
        self._spelled: list[str] = []

    def add(self, encoded: EncodedRow) -> None:
        where = encoded.record.where
        if encoded.fate is Fate.REFUSED:
            self.problems.append(RowProblem(where, encoded.reason))
            return
        self.rows += 1
        if encoded.length > self._given[0]:
            self._given = (encoded.length, where, encoded.length_is_bound)
        longest = max((len(example.tokens) for example in encoded.examples), default=0)
        if longest > self._longest[0]:
            self._longest = (longest, where)
        if encoded.spelled:
            self._spelled.append(where)
        if encoded.fate is not Fate.KEPT:
            self._places[encoded.fate].append(where)
        if encoded.fate is Fate.SPLIT:
            self._further += len(encoded.examples) - 1
        self.examples += encoded.examples

    def report(self, notes: tuple[str, ...]) -> EncodeReport:
        return EncodeReport(
            rows=self.rows + len(self.problems),
            examples=len(self.examples) // self._parts,
            further=self._further,
            tokens=sum(len(example.tokens) for example in self.examples),
            supervised=sum(example.supervised for example in self.examples),
            longest=self._longest[0],
            longest_where=self._longest[1],
            given=self._given[0],
            given_where=self._given[1],
            given_is_bound=self._given[2],
            max_length=self._max_length,
            dropped=tuple(self._places[Fate.DROPPED]),
            truncated=tuple(self._places[Fate.TRUNCATED]),
            split=tuple(self._places[Fate.SPLIT]),
            untrained=tuple(self._places[Fate.UNTRAINED]),
            spelled=tuple(self._spelled),
            skipped=tuple(self.problems),
            notes=notes,
        )
