"""Rows of a chosen and a rejected answer to one prompt, in the usual forms of preference data.

Forms are told apart by the keys of a row; the first matching line of this table decides::

    input + preferred_output + non_preferred_output    hosted services: input holds "messages", and perhaps "tools"
    conversations + chosen + rejected                  ShareGPT: the turns before, and one turn each
    instruction (+ input, system) + chosen + rejected  Alpaca, where both answers are strings
    prompt + chosen + rejected                         an explicit prompt: strings, or lists of messages
    instruction + chosen + rejected                    distilabel: the prompt, and lists of messages
    messages + chosen + rejected                       the turns before, and the answers as strings or turns
    chosen + rejected                                  an implicit prompt: what both begin with

A list of messages may be used instead of a string, and a single message instead of a list of one. `chosen` and
`rejected` may be whole conversations if a `prompt` repeats their question or their first turns, and next to `messages`.
`system` and `tools` belong to both answers. Two texts of the form "Human: … Assistant: …" are read as conversations.

Each answer becomes a record of its own, by the rules of `veneer.data.forms.formats`, which determine what is trained
and every error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from veneer.data.files.json_values import BadRow, kind
from veneer.data.forms.formats import MAPPING_SETTING, Remarks, given_keys, to_record, unmapped, yaml_name
from veneer.data.forms.record import Record
from veneer.data.forms.turns import OTHER_SYSTEM, refuse_written
from veneer.enums import Column

PAIR_FORMS = "prompt + chosen + rejected | chosen + rejected | input + preferred_output + non_preferred_output"
_BETTER, _WORSE = re.compile(r"(?i)chosen|better|accepted|winner"), re.compile(r"(?i)reject|worse|loser")
"""Parts of the names that columns of the better or the worse answer often have."""
QUESTION_COLUMNS = ("question", "query", "input", "problem")
"""Columns of questions, by usual names."""
_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")
_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Pair:
    """One row: two answers to one prompt, the first of which is preferred."""

    where: str
    """The file and line of the row."""
    chosen: Record
    rejected: Record
    margin: float | None = None
    """How much better the chosen answer is, if the row says it."""

    @property
    def records(self) -> tuple[Record, Record]:
        """Both answers, the chosen one first."""
        return self.chosen, self.rejected


def to_pair(row: Any, where: str, remarks: Remarks | None = None, columns: Mapping[Column, str] | None = None) -> Pair:
    """The pair in a row; see `veneer.data.forms.formats.to_record` for the arguments.

    Raises:
        BadRow: the row is not a pair, breaks its form, or its two answers are equal.
    """
    remarks = Remarks() if remarks is None else remarks
    row, whole = given_keys(row, columns), row
    margin = _margin(row.pop("margin", None))
    asked, used = _asked(row)
    chosen, rejected = asked
    first, second = _record(chosen, "chosen", where, remarks), _record(rejected, "rejected", where, Remarks())
    pair = Pair(where, first, second, margin)
    if (pair.chosen.messages, pair.chosen.completion) == (pair.rejected.messages, pair.rejected.completion):
        raise BadRow("chosen and rejected are the same, so nothing is preferred")
    remarks.unused.update([*unmapped(whole, columns), *(key for key in row if key not in used)])
    return pair


def _margin(value: Any) -> float | None:
    """A row's margin; in a CSV file it is a text, which is empty if there is none."""
    if value is None or value == "":
        return None
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value)
            if math.isfinite(number):
                return number
    raise BadRow(f"margin must be a number, by how much chosen is better than rejected, not {str(value)[:40]!r}")


def is_pair(row: Any, columns: Mapping[Column, str] | None = None) -> bool:
    """Whether the keys of a row are those of a pair. Merged files have these keys in all rows, with null in rows that
    are not pairs; if only one of the two is null, an answer of a pair is missing."""
    if not isinstance(row, dict):
        return False
    chosen, rejected = ((columns or {}).get(name, name.value) for name in (Column.CHOSEN, Column.REJECTED))
    forms = ((chosen, rejected), ("preferred_output", "non_preferred_output"))
    return any(row.keys() >= {*keys} and any(row[key] is not None for key in keys) for keys in forms)


def of_alpaca(row: Mapping[str, Any]) -> bool:
    """Whether the row of a pair is in Alpaca's form, which is written in its own way if there is no chat template."""
    texts = all(isinstance(row.get(key), str) for key in ("chosen", "rejected"))
    return texts and row.get("instruction") is not None and row.get("conversations") is None


def _record(row: dict[str, Any], which: str, where: str, remarks: Remarks) -> Record:
    try:
        return to_record(row, where, remarks)
    except BadRow as problem:
        raise BadRow(f"{which}: {problem}") from problem


def _suggestion(row: Mapping[str, Any]) -> str:
    """The `data.columns` that would make a row of an unknown shape readable, as the end of an error message."""
    better, worse = ([key for key in row if name.search(str(key))] for name in (_BETTER, _WORSE))
    if len(better) != 1 or len(worse) != 1:
        return f"; other names are mapped by {MAPPING_SETTING}: {{prompt: NAME, chosen: NAME, rejected: NAME}}"
    asks = ("prompt", "instruction", *QUESTION_COLUMNS)
    prompt = next((key for key in row if str(key).lower() in asks), "NAME")
    return f"; if {better[0]!r} is the better answer, set {MAPPING_SETTING}: " + (
        f"{{prompt: {prompt}, chosen: {yaml_name(better[0])}, rejected: {yaml_name(worse[0])}}}"
    )


Asked = tuple[dict[str, Any], dict[str, Any]]
"""The rows of the chosen and of the rejected answer, in a form of `veneer.data.forms.formats`."""


def _asked(row: dict[str, Any]) -> tuple[Asked, tuple[str, ...]]:
    """The rows of both answers, and the keys that were used."""
    if "preferred_output" in row or "non_preferred_output" in row:
        return _hosted(row), ("input", "preferred_output", "non_preferred_output")
    if "chosen" not in row and "rejected" not in row:
        keys = ", ".join(repr(str(key)) for key in row) or "none"
        raise BadRow(f"no pair of answers is known for the keys {keys}; known: {PAIR_FORMS}{_suggestion(row)}")
    _all(row, "chosen", "rejected")
    answers = row["chosen"], row["rejected"]
    refuse_written({key: row[key] for key in ("chosen", "rejected")})
    more = {key: row[key] for key in ("tools",) if key in row}
    system = {key: row[key] for key in ("system",) if key in row}
    if "conversations" in row:
        return _behind(row["conversations"], answers, more | system), (
            "conversations", "chosen", "rejected", "tools", "system",
        )  # fmt: skip
    if of_alpaca(row):
        given = {key: row[key] for key in ("instruction", "input", "system") if key in row}
        chosen, rejected = (given | {"output": answer} for answer in answers)
        return (chosen, rejected), ("instruction", "input", "system", "chosen", "rejected")
    used = ("prompt", "chosen", "rejected", "tools", "system")
    if "prompt" in row:
        return _explicit(row["prompt"], answers, row, more), used
    if "instruction" in row and not row.get("input"):
        return _explicit(row["instruction"], answers, row, more), ("instruction", *used[1:])
    if "messages" in row and not all(map(_whole, answers)):
        return _behind(row["messages"], answers, more | system), ("messages", *used[1:])
    _refuse_another_prompt(row, answers)
    return _implicit(answers, more, row.get("system")), used[1:]


def _refuse_another_prompt(row: Mapping[str, Any], answers: tuple[Any, Any]) -> None:
    """Refuse two texts next to a column with a question: their common beginning is then not the prompt but chance.

    Raises:
        BadRow: there is such a column.
    """
    if not all(isinstance(answer, str) and not _spoken(answer) for answer in answers):
        return
    asking = [key for key, text in row.items() if str(key).lower() in QUESTION_COLUMNS and isinstance(text, str)]
    if asking and not all(answer.startswith(row[asking[0]]) for answer in answers):
        system = ", system: system" if "system" in row else ""
        raise BadRow(
            f"chosen and rejected are two texts, and there is no prompt; if {asking[0]!r} is it, set "
            f"{MAPPING_SETTING}: {{prompt: {asking[0]}, chosen: chosen, rejected: rejected{system}}}"
        )


def _all(row: Mapping[str, Any], *keys: str) -> None:
    missing = [key for key in keys if key not in row]
    if missing:
        given = [key for key in keys if key in row]
        raise BadRow(f"there is {', '.join(given)} but no {', '.join(missing)}")


def _hosted(row: Mapping[str, Any]) -> Asked:
    _all(row, "input", "preferred_output", "non_preferred_output")
    before, more = row["input"], {}
    if isinstance(before, dict):
        more = {"tools": before["tools"]} if before.get("tools") is not None else {}
        if "messages" not in before:
            raise BadRow("input has no messages")
        before = before["messages"]
    return _behind(before, (row["preferred_output"], row["non_preferred_output"]), more)


def _behind(before: Any, answers: tuple[Any, Any], more: Mapping[str, Any]) -> Asked:
    """The answers after the turns of a conversation."""
    more = dict(more)
    system = more.pop("system", None)
    prompt = _under(system, before) if isinstance(before, list) else before
    chosen, rejected = ({"prompt": prompt, "completion": _turns(answer), **more} for answer in answers)
    return chosen, rejected


def _explicit(prompt: Any, answers: tuple[Any, Any], row: Mapping[str, Any], more: Mapping[str, Any]) -> Asked:
    if isinstance(prompt, str) and all(isinstance(answer, str) for answer in answers) and not row.get("system"):
        chosen, rejected = ({"prompt": prompt, "completion": answer, **more} for answer in answers)
        return chosen, rejected
    if all(isinstance(answer, list) and _asks(answer) for answer in answers) and not _ends_by_answer(prompt):
        # Whole conversations, and the question once more: its text must be in them.
        if isinstance(prompt, str) and not all(_says(answer, prompt) for answer in answers):
            raise BadRow("chosen and rejected are whole conversations, and the prompt is in neither of their turns")
        if not isinstance(prompt, str) and not all(_begins_by(answer, _turns(prompt)) for answer in answers):
            raise BadRow("chosen and rejected are whole conversations, which do not begin with the turns of the prompt")
        return _implicit(answers, more, row.get("system"))
    if not isinstance(prompt, str | list | dict):
        raise BadRow(f"the prompt must be a text or a list of turns, not {kind(prompt)}")
    before = _under(row.get("system"), _turns(prompt, "user"))
    chosen, rejected = ({"prompt": before, "completion": _turns(answer), **more} for answer in answers)
    return chosen, rejected


def _implicit(answers: tuple[Any, Any], more: Mapping[str, Any], system: Any = None) -> Asked:
    """The answers after their common beginning: turns, or characters up to a white space."""
    if all(isinstance(answer, str) for answer in answers):
        spoken = [_spoken(answer) for answer in answers]
        if all(spoken):
            return _implicit((spoken[0], spoken[1]), more, system)
        if system:
            raise BadRow("two texts without a prompt have no place for a system turn; give a prompt")
        return _common_text(*answers, more)
    if not all(isinstance(answer, list) for answer in answers):
        raise BadRow(
            "chosen and rejected must be two strings or two lists of turns, not "
            f"{' and '.join(kind(answer) for answer in answers)}, if there is no prompt"
        )
    first, second = answers
    differ = (at for at, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    same = next(differ, min(len(first), len(second)))
    if first == second:
        raise BadRow("chosen and rejected are the same, so nothing is preferred")
    if not same:
        raise BadRow("chosen and rejected have no first turn in common and there is no prompt; give one")
    if same in (len(first), len(second)):
        raise BadRow("one of chosen and rejected ends where the other continues; each needs an answer of its own")
    chosen, rejected = (
        {"prompt": _under(system, answer[:same]), "completion": answer[same:], **more} for answer in answers
    )
    return chosen, rejected


def _common_text(first: str, second: str, more: Mapping[str, Any]) -> Asked:
    if first == second:
        raise BadRow("chosen and rejected are the same, so nothing is preferred")
    differ = (at for at, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    same = first[: next(differ, min(len(first), len(second)))]
    # A word belongs to one side: the prompt ends after the last white space that both have.
    end = max((at + 1 for at, character in enumerate(same) if character.isspace()), default=0)
    if not same[:end].strip() or end in (len(first), len(second)):
        raise BadRow("chosen and rejected have no beginning in common that could be the prompt; give a prompt")
    chosen, rejected = ({"prompt": text[:end], "completion": text[end:], **more} for text in (first, second))
    return chosen, rejected


def _spoken(text: str) -> list[dict[str, str]] | None:
    """The turns of a text of the form "Human: … Assistant: …"; None for another text."""
    pieces = _SPEAKER.split(text)
    if pieces[0].strip() or len(pieces) < 5 or pieces[1] != "Human" or pieces[-2] != "Assistant":
        return None
    return [
        {"role": _ROLES[speaker], "content": said.strip()}
        for speaker, said in zip(pieces[1::2], pieces[2::2], strict=True)
    ]


def _under(system: Any, turns: list[Any]) -> list[Any]:
    """The turns after the system turn of the column `system`, if there is one, without repeating it.

    Raises:
        BadRow: the turns begin with another system turn.
    """
    if not system:
        return turns
    if not (turns and _begins_by_system(turns)):
        return [{"role": "system", "content": system}, *turns]
    if _text(_said(turns[0])[1]) != system:
        raise BadRow(OTHER_SYSTEM)
    return turns


def _turns(value: Any, role: str = "assistant") -> Any:
    """A list of turns from a value that may be a text or a single turn."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return [value] if isinstance(value, dict) else value


def _whole(answer: Any) -> bool:
    """Whether an answer is a conversation that begins with the question."""
    return (isinstance(answer, list) and _asks(answer)) or (isinstance(answer, str) and _spoken(answer) is not None)


def _asks(turns: list[Any]) -> bool:
    """Whether turns begin with one that is not the assistant's."""
    first = turns[0] if turns else None
    return isinstance(first, dict) and first.get("role", first.get("from")) not in ("assistant", "gpt", "tool")


def _begins_by_system(turns: list[Any]) -> bool:
    return isinstance(turns[0], dict) and _said(turns[0])[0] in ("system", "developer")


def _ends_by_answer(prompt: Any) -> bool:
    """Whether a prompt is a list of turns whose last one is the assistant's, so that other turns may follow."""
    return isinstance(prompt, list) and bool(prompt) and not _asks(prompt[-1:])


def _begins_by(turns: list[Any], first: Any) -> bool:
    """Whether turns begin with these, by speakers and contents; a system turn may precede them."""
    if not isinstance(first, list):
        return False
    own = turns[1:] if _begins_by_system(turns) and first and not _begins_by_system(first) else turns
    return [_said(turn) for turn in own[: len(first)]] == [_said(turn) for turn in first]


def _said(turn: Any) -> Any:
    """The role and the content of a turn; a value that is not a turn is returned unchanged."""
    if not isinstance(turn, dict):
        return turn
    return turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))


def _says(turns: list[Any], text: str) -> bool:
    return any(isinstance(turn, dict) and text == _text(_said(turn)[1]) for turn in turns)


def _text(content: Any) -> Any:
    """A content that is a list of text parts as one text; any other content unchanged."""
    if not isinstance(content, list):
        return content
    return "".join(str(part.get("text")) for part in content if isinstance(part, dict))
