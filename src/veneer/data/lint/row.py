"""One row as the checks see it: as it is in the file, as a record, and as tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

from veneer.data.encoded.chat import Encoder, Trace, template_of
from veneer.data.files.json_values import BadRow
from veneer.data.forms.prompts import COMPLETION, PromptRow, to_prompt
from veneer.data.forms.record import Record
from veneer.data.kind_rows import ROW_PARTS, to_kind
from veneer.data.lint.fields import Placed, place
from veneer.enums import Column, ObjectiveName, RowKind
from veneer.errors import DataError
from veneer.io.tokenizer import Tokenizer

CHUNK_ROWS = 256
"""The number of rows that are read together."""
T = TypeVar("T")


@dataclass(frozen=True)
class LintSetting:
    """The settings that all checks of a run share."""

    tokenizer: Tokenizer | None = None
    """The model's tokenizer; None if no model is named, and then tokens are not checked."""
    max_length: int | None = None
    """The most tokens that a row may have in training."""
    columns: Mapping[Column, str] = field(default_factory=dict)
    """Maps veneer's name of a column or key to the file's name, if they differ."""
    objective: ObjectiveName | None = None
    """The objective of the run; rows are read as that run reads them. None derives the kind of each row, a pair or an
    answer, from its keys."""

    @property
    def rows(self) -> RowKind | None:
        """The kind of rows that the objective needs; None without an objective."""
        return None if self.objective is None else self.objective.rows

    @cached_property
    def encoder(self) -> Encoder | None:
        """The encoder that training uses."""
        return None if self.tokenizer is None else Encoder(self.tokenizer, template_of(self.tokenizer))

    @cached_property
    def bos_id(self) -> int | None:
        """The id of the start-of-text token, if there is one."""
        return None if self.tokenizer is None else self.tokenizer.bos_id

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of the control tokens."""
        if self.tokenizer is None:
            return frozenset()
        ids = (self.tokenizer.backend.token_to_id(token) for token in self.tokenizer.special_tokens)
        return frozenset(index for index in ids if index is not None)


@dataclass(frozen=True)
class Row:
    """One row of a data file."""

    where: str
    """The file and line of the row."""
    raw: Any
    """The row as the file has it; a BadRow if it could not be parsed."""
    record: Record | None = None
    """The row as a record; None if it cannot be used."""
    problem: str | None = None
    """Why the row cannot be used, or cannot be encoded."""
    trace: Trace | None = None
    """The row's tokens; None without a model, or if the row cannot be used."""
    renamed: dict[str, Any] | None = None
    """The row with veneer's names of columns, if these differ from the file's."""
    rejected: Record | None = None
    """The rejected answer of a pair, whose chosen one is `record`; None for other rows."""
    rejected_trace: Trace | None = None
    """The tokens of the rejected answer and its prompt."""
    part: str = ""
    """The name of the answer in `record` within its pair, chosen or rejected; empty for other rows."""
    asked: PromptRow | None = None
    """The prompt, if rows are prompts; `record` then has only its turns, and nothing is trained."""
    desirable: bool | None = None
    """Whether the answer is desirable, if rows are labelled answers."""
    unanswered: bool = False
    """Whether the row cannot be used but is a prompt, which another objective accepts."""

    @cached_property
    def texts(self) -> list[tuple[str, str]]:
        """Every string of the row with its path, in the order of the file."""
        return [] if isinstance(self.raw, BadRow) else list(strings(self.raw))

    @cached_property
    def whole(self) -> str:
        """All strings of the row, one after the other."""
        return "\n".join(text for _, text in self.texts)

    @cached_property
    def fields(self) -> list[Placed]:
        """The fields of the row, with their places in the tokenised text."""
        if self.trace is None or self.record is None:
            return []
        if self.part:
            return _of_pair(self.raw if self.renamed is None else self.renamed, self.record, self.trace, self.part)
        if self.asked is not None:
            given = self.asked.given
            return place({self.asked.under: given if isinstance(given, str) else [*given]}, self.record, self.trace)
        return place(self.raw if self.renamed is None else self.renamed, self.record, self.trace)

    @cached_property
    def prompt(self) -> str:
        """The text before the last assistant turn; empty for a plain text. For a prompt it is the whole text."""
        if self.record is None or not self.record.messages:
            return ""
        turns = self.record.messages
        if self.asked is None:
            turns = turns[: max(i for i, message in enumerate(turns) if message["role"] == "assistant")]
        pieces = [f"{turn['role']}: {turn.get('content') or ''}{_calls(turn)}" for turn in turns]
        # Writers of Parquet and JSON order the keys of an object as they like; its meaning is the same in any order.
        tools = [] if self.record.tools is None else [json.dumps(self.record.tools, sort_keys=True)]
        return "\n".join([*tools, *pieces])

    @cached_property
    def answer(self) -> str:
        """The last assistant turn, or the whole of a plain text; of a pair the chosen one; for a prompt empty."""
        return "" if self.record is None or self.asked is not None else _answer(self.record)

    @cached_property
    def rejected_answer(self) -> str:
        """The last turn of a pair's rejected answer; empty for other rows."""
        return "" if self.rejected is None else _answer(self.rejected)

    @property
    def label(self) -> str:
        """The label of the answer, desirable or undesirable; empty for rows without labels."""
        if self.desirable is None:
            return ""
        return "desirable" if self.desirable else "undesirable"

    @property
    def other(self) -> Row | None:
        """The rejected answer of a pair and its prompt, as a row; None for other rows."""
        if self.rejected is None:
            return None
        other = ROW_PARTS[RowKind.PAIRS][1]
        return replace(
            self, record=self.rejected, trace=self.rejected_trace, rejected=None, rejected_trace=None, part=other
        )


def _answer(record: Record) -> str:
    if record.text is not None:
        return record.text
    last = [message for message in record.messages if message["role"] == "assistant"][-1]
    return f"{last.get('content') or ''}{_calls(last)}"


def _of_pair(raw: Any, record: Record, trace: Trace, part: str) -> list[Placed]:
    """The fields of one answer of a pair with its prompt, whatever form the file has."""
    start = record.trained_turns[0] if record.trained_turns else len(record.messages)
    turns = {"prompt": list(record.messages[:start]), "completion": list(record.messages[start:])}
    given = raw if isinstance(raw, dict) else {}
    # A text is the last turn of the prompt, or the only one of the answer.
    places = {"prompt": f"prompt[{start - 1}].content", part: f"{part}[0].content"}
    texts = {path: name for name, path in places.items() if isinstance(given.get(name), str)}

    def named(one: Placed) -> Placed:
        path = one.source.path.replace("completion", part, 1)
        return replace(one, source=replace(one.source, path=texts.get(path, path)))

    return [named(one) for one in place(turns, record, trace)]


def _calls(turn: dict[str, Any]) -> str:
    calls = turn.get("tool_calls")
    return json.dumps(calls, sort_keys=True) if calls else ""


def read_rows(rows: Sequence[tuple[str, Any]], setting: LintSetting) -> list[Row]:
    """Rows with everything that can be derived from them. They are encoded together: their template renders ahead of
    the tokenizer.

    Raises:
        DataError: the chat template cannot be used for any row.
    """
    made = [_record_of(where, raw, setting) for where, raw in rows]
    if setting.encoder is None:
        return made
    if setting.rows is RowKind.PROMPTS:
        return [_with_prompt(row, setting.encoder) for row in made]
    records = [record for row in made for record in (row.record, row.rejected) if record is not None]
    traces = setting.encoder.traces(records)
    return [row if row.record is None else _with_traces(row, traces) for row in made]


def in_chunks(rows: Iterable[T]) -> Iterator[list[T]]:
    """Rows in lists of CHUNK_ROWS, in their order."""
    rest = iter(rows)
    while chunk := list(islice(rest, CHUNK_ROWS)):
        yield chunk


def _record_of(where: str, raw: Any, setting: LintSetting) -> Row:
    if isinstance(raw, BadRow):
        return Row(where, raw, problem=str(raw))
    try:
        made = to_kind(raw, where, setting.rows, columns=setting.columns)
    except BadRow as problem:
        unanswered = setting.rows is None and _asks(raw, where, setting)
        return Row(where, raw, problem=str(problem), unanswered=unanswered)
    renamed = {name.value: raw[theirs] for name, theirs in setting.columns.items() if theirs in raw} or None
    record, *others = made.records
    return Row(
        where,
        raw,
        record,
        renamed=renamed,
        rejected=others[0] if others else None,
        part=ROW_PARTS[RowKind.PAIRS][0] if others else "",
        asked=made.prompt,
        desirable=made.desirable if setting.rows is RowKind.LABELLED else None,
    )


def _asks(raw: Any, where: str, setting: LintSetting) -> bool:
    """Whether a row is a prompt without an answer; an answer that cannot be used, such as a number, counts as one."""
    with suppress(BadRow):
        return to_prompt(raw, where, setting.columns).columns.get(COMPLETION) in (None, "")
    return False


def _with_prompt(row: Row, encoder: Encoder) -> Row:
    """The row of a prompt, with its trace."""
    if row.record is None:
        return row
    try:
        return replace(row, trace=encoder.prompt_trace(row.record.messages, row.record.tools, row.where))
    except DataError as error:
        return replace(row, problem=str(error))


def _with_traces(row: Row, traces: Iterator[Trace | DataError]) -> Row:
    """The row with the next trace, and for a pair also the one after it."""
    found = next(traces)
    other = None if row.rejected is None else next(traces)
    if isinstance(found, DataError):
        return replace(row, problem=str(found))
    if isinstance(other, DataError):
        return replace(row, problem=f"rejected: {other}")
    return replace(row, trace=found, rejected_trace=other)


def raw_turns(raw: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The turns of a row as the file has it, each with the key of the list that contains it. A key whose value is null
    counts as absent."""
    if isinstance(raw, dict):
        for key in ("messages", "conversations", "prompt", "completion"):
            turns = raw.get(key)
            if isinstance(turns, list):
                for turn in turns:
                    if isinstance(turn, dict):
                        yield key, {name: value for name, value in turn.items() if value is not None}


def strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string below a value with its path, such as `messages[1].content`."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from strings(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from strings(item, f"{path}[{index}]")
