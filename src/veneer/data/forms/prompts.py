"""Rows with a question but no answer, for objectives that sample answers: a prompt, and columns for judging answers.

The prompt is a text or a list of turns under `prompt`, or the turns under `messages`. If those end with a turn of the
assistant, that turn is not part of the prompt: it becomes the column `completion`, which may serve as a reference.
The chat template shows `tools` (or `functions`, OpenAI's older name). Every other key is a column, and reaches rewards
unchanged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from veneer.data.encoded.chat import Encoder, Example
from veneer.data.files.json_values import BadRow, kind, parse_row
from veneer.data.forms.formats import MAPPING_SETTING, read_tools, with_tools
from veneer.data.forms.record import Record
from veneer.data.forms.turns import Message, read_turns, refuse_written
from veneer.data.problems import RowProblem
from veneer.enums import Column
from veneer.errors import DataError
from veneer.text.counting import count_of

PROMPT, MESSAGES, TOOLS, COMPLETION = "prompt", "messages", "tools", "completion"
PROMPT_KEYS = f"{PROMPT} | {MESSAGES}"
OTHER_QUESTION_COLUMNS = ("system", "instruction", "conversations")
"""Columns that are part of the question in rows of other objectives."""


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A row with a question."""

    record: Record
    """The turns of the row, without an answer."""
    given: str | Sequence[Message]
    """The prompt in the form of the row: a text, or turns."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Everything else that the row has."""
    under: str = PROMPT
    """The key of the prompt: PROMPT or MESSAGES."""


def to_prompt(row: Any, where: str, columns: Mapping[Column, str] | None = None) -> PromptRow:
    """The prompt and columns of a row.

    Args:
        row: the row as the file has it.
        where: the file and line of the row.
        columns: maps veneer's name to the file's name, if they differ; the other columns are kept.

    Raises:
        BadRow: the row has no prompt, or its turns break a rule.
    """
    if not isinstance(row, dict):
        raise BadRow(f"a row must be an object, not {kind(row)}")
    theirs = {name: ours.value for ours, name in (columns or {}).items()}
    row = {key: value for key, value in row.items() if value is not None}
    mapped = {theirs[key] for key in row if key in theirs}
    # If another column is mapped to the name of this column, this column does not have the meaning of that name.
    shadowed = {key: value for key, value in row.items() if key in mapped and key not in theirs}
    row = with_tools({theirs.get(key, key): value for key, value in row.items() if key not in shadowed})
    tools = read_tools(row.pop(TOOLS, None))
    key = PROMPT if PROMPT in row else MESSAGES
    if isinstance(row.get(PROMPT), str):
        refuse_written({PROMPT: row[PROMPT]})
        given: str | tuple[Message, ...] = row.pop(PROMPT)
        messages: tuple[Message, ...] = ({"role": "user", "content": given},)
    else:
        if key not in row:
            keys = ", ".join(repr(str(one)) for one in row) or "none"
            raise BadRow(
                f"there is no prompt under {PROMPT_KEYS}; the row has {keys}; other names are mapped by "
                f"{MAPPING_SETTING}"
            )
        messages = read_turns(_parsed(row.pop(key)), key).messages
        if len(messages) > 1 and messages[-1]["role"] == "assistant":
            row.setdefault(COMPLETION, messages[-1]["content"])
            messages = messages[:-1]
        given = messages
    if not messages or not any(message["content"] for message in messages):
        raise BadRow("the prompt is empty")
    return PromptRow(Record(where, messages, tools), given, shadowed | row, key)


def _parsed(turns: Any) -> Any:
    """Turns from a JSON text, as in cells of CSV."""
    return parse_row(turns) if isinstance(turns, str) and turns.strip() else turns


def unasked_notes(prompts: Sequence[PromptRow]) -> list[str]:
    """Notes about columns that look like a part of the question, but only reach rewards."""
    found = Counter(
        name for one in prompts for name in OTHER_QUESTION_COLUMNS if one.columns.get(name) and not _asks(one, name)
    )
    return [
        f"{count_of(count, 'prompt')} with a column {name!r}, which reaches rewards but is not asked; if it is to be "
        f"asked, give turns under {MESSAGES}"
        for name, count in found.items()
    ]


def _asks(one: PromptRow, name: str) -> bool:
    """Whether a prompt's turns contain the text of a column."""
    return name == "system" and one.record.messages[0]["role"] == "system"


@dataclass(frozen=True, slots=True)
class EncodedPrompts:
    """The result of encoding prompts."""

    prompts: list[PromptRow]
    """The prompts that can be asked."""
    examples: list[Example]
    """The tokens of these prompts, none of which is trained: the sampled answer follows."""
    problems: list[RowProblem]
    """The prompts that the chat template refuses."""
    overlong: dict[str, int]
    """The places of the prompts that are longer than allowed, with their numbers of tokens."""


def encode_prompts(prompts: Sequence[PromptRow], encoder: Encoder, max_length: int) -> EncodedPrompts:
    """Tokenise prompts, up to where the assistant is to answer.

    Args:
        prompts: the rows.
        encoder: the encoder with the run's tokenizer and template.
        max_length: the most tokens of a prompt; longer ones are left out, never cut.
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
