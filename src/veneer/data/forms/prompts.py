"""Rows that ask without an answer, for objectives that sample their own: a prompt, and columns for what judges answers.

The prompt is a text or a list of turns under `prompt`, or the turns under `messages`. Where those end with the
assistant's, that last turn is no part of the prompt: it becomes the column `completion`, which may serve as a
reference. `tools` are shown by the chat template. Every other key is a column, and reaches rewards as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from veneer.data.encoded.chat import Encoder, Example
from veneer.data.files.json_values import BadRow, kind, parse_row
from veneer.data.forms.formats import MAPPING, read_tools
from veneer.data.forms.record import Record
from veneer.data.forms.turns import Message, read_turns, refuse_written
from veneer.data.problems import RowProblem
from veneer.enums import Column
from veneer.errors import DataError
from veneer.text.counting import count_of

PROMPT, MESSAGES, TOOLS, COMPLETION = "prompt", "messages", "tools", "completion"
KEYS = f"{PROMPT} | {MESSAGES}"
ASKING = ("system", "instruction", "conversations")
"""Columns that are part of what is asked in rows of other objectives."""


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A row that asks."""

    record: Record
    """Its turns, without an answer."""
    given: str | Sequence[Message]
    """The prompt as the row has it: a text, or turns."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Everything else that the row has."""
    under: str = PROMPT
    """The key that the prompt stands under: PROMPT or MESSAGES."""


def to_prompt(row: Any, where: str, columns: Mapping[Column, str] | None = None) -> PromptRow:
    """The prompt and columns of a row.

    Args:
        row: as the file has it.
        where: file and line.
        columns: veneer's name to the file's, where they differ; the other columns stay.

    Raises:
        BadRow: it has no prompt, or turns that break a rule.
    """
    if not isinstance(row, dict):
        raise BadRow(f"a row must be an object, not {kind(row)}")
    theirs = {name: ours.value for ours, name in (columns or {}).items()}
    row = {key: value for key, value in row.items() if value is not None}
    mapped = {theirs[key] for key in row if key in theirs}
    # A column with the name that another one is mapped to is not what that name says.
    shadowed = {key: value for key, value in row.items() if key in mapped and key not in theirs}
    row = {theirs.get(key, key): value for key, value in row.items() if key not in shadowed}
    tools = read_tools(row.pop(TOOLS, None))
    key = PROMPT if PROMPT in row else MESSAGES
    if isinstance(row.get(PROMPT), str):
        refuse_written({PROMPT: row[PROMPT]})
        given: str | tuple[Message, ...] = row.pop(PROMPT)
        messages: tuple[Message, ...] = ({"role": "user", "content": given},)
    else:
        if key not in row:
            keys = ", ".join(repr(str(one)) for one in row) or "none"
            raise BadRow(f"there is no prompt under {KEYS}; the row has {keys}; other names are mapped by {MAPPING}")
        messages = read_turns(_parsed(row.pop(key)), key).messages
        if len(messages) > 1 and messages[-1]["role"] == "assistant":
            row.setdefault(COMPLETION, messages[-1]["content"])
            messages = messages[:-1]
        given = messages
    if not messages or not any(message["content"] for message in messages):
        raise BadRow("the prompt is empty")
    return PromptRow(Record(where, messages, tools), given, shadowed | row, key)


def _parsed(turns: Any) -> Any:
    """Turns that are a text of JSON, as cells of CSV are."""
    return parse_row(turns) if isinstance(turns, str) and turns.strip() else turns


def unasked_notes(prompts: Sequence[PromptRow]) -> list[str]:
    """What is to be said of columns that look as if they were asked, and only reach rewards."""
    found = Counter(name for one in prompts for name in ASKING if one.columns.get(name) and not _asks(one, name))
    return [
        f"{count_of(count, 'prompt')} beside a column {name!r}, which reaches rewards and is not asked; if it is to "
        f"be, give turns under {MESSAGES}"
        for name, count in found.items()
    ]


def _asks(one: PromptRow, name: str) -> bool:
    """Whether a prompt's turns say what a column says too."""
    return name == "system" and one.record.messages[0]["role"] == "system"


@dataclass(frozen=True, slots=True)
class EncodedPrompts:
    """What came of prompts."""

    prompts: list[PromptRow]
    """The prompts that can be asked."""
    examples: list[Example]
    """Their tokens, none of which trains: the sampled answer follows."""
    problems: list[RowProblem]
    """The prompts that the chat template refuses."""
    overlong: dict[str, int]
    """Where those stand that are longer than allowed, and their tokens."""


def encode_prompts(prompts: Sequence[PromptRow], encoder: Encoder, max_length: int) -> EncodedPrompts:
    """Tokenise prompts, up to where the assistant is to answer.

    Args:
        prompts: the rows.
        encoder: of the run's tokenizer and template.
        max_length: tokens that a prompt may have; longer ones are left out, never cut.
    """
    found = EncodedPrompts([], [], [], {})
    for one in prompts:
        try:
            tokens = encoder.prompt_tokens(one.record.messages, one.record.tools)
        except DataError as error:
            found.problems.append(RowProblem(one.record.where, str(error)))
            continue
        if len(tokens) > max_length:
            found.overlong[one.record.where] = len(tokens)
            continue
        found.prompts.append(one)
        ids = np.asarray(tokens, dtype=np.int32)
        found.examples.append(Example(ids, np.zeros(len(ids), dtype=np.bool_), one.record.where))
    return found
