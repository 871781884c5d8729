"""Turn a parsed row of a data file into a record.

The keys of a row determine its format; the first matching line of this table decides::

    messages                        chat: [{"role": ..., "content": ...}, ...], optional row key "tools"
    conversations                   ShareGPT: [{"from": ..., "value": ...}, ...], optional "system" and "tools"
    prompt + completion             two strings, or two lists of messages of which only the second is trained
    instruction (+ input) + output  Alpaca, optional "system"
    text                            plain text, every token is trained

Further keys are not used; they are counted for a note to the user. Other names are mapped to these by `data.columns`,
and then only the mapped columns are used.

Rules for a conversation: at least one assistant turn is trained. Consecutive turns of one role and turns after the last
assistant turn are allowed (text after the last assistant turn is read by the model but never trained). A key whose
value is null counts as absent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from veneer.data.files.json_values import BadRow, kind, parse_json
from veneer.data.forms.record import Record
from veneer.data.forms.turns import OTHER_SYSTEM, REASONING_KEYS, Turns, read_turns, refuse_written, string, system_turn
from veneer.enums import Column
from veneer.text.strict_json import to_text

ANSWER_FORMS = "messages | conversations | prompt + completion | instruction (+ input) + output | text"
MAPPING_SETTING = "data.columns (the option --columns of data, evaluate and generate)"
"""The setting that names the columns of a file, in error messages: of runs, and as an option of other commands."""
NO_TEXT = "this is not a plain text, all of which is trained; give rows with text, or use objective sft"
LABEL_COLUMNS = ("label", "labels", "category", "class", "intent", "sentiment", "target")
"""Columns that, next to `text`, make a row look like classification, which plain text would not teach."""
_FORMATS = (("messages",), ("conversations",), ("prompt", "completion"), ("instruction", "output"), ("text",))
"""The necessary keys of each format; the first format of which a row has a key decides."""
_NEEDED_KEYS = tuple(key for keys in _FORMATS for key in keys)
_PROMPT_COLUMNS = (
    "question",
    "query",
    "text",
    "input",
    "problem",
    "source",
    "context",
    "sentence",
    "mr",
    "user",
    "title",
)
_COMPLETION_COLUMNS = (
    *LABEL_COLUMNS,
    "answer",
    "response",
    "output",
    "reply",
    "summary",
    "ref",
    "solution",
    "assistant",
)

_YAML_WORDS = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")


class _MissingKey(BadRow):
    """A necessary key of the format is missing."""


@dataclass(slots=True)
class Remarks:
    """Counts over a file, about the used rows, for notes to the user."""

    unused: Counter[str] = field(default_factory=Counter)
    """For each unused key or column, the number of rows that have it."""
    empty: int = 0
    """The number of rows with an empty assistant turn."""
    marked: int = 0
    """The number of rows that mark a turn as trained which is not the assistant's."""


def to_record(
    row: Any, where: str, remarks: Remarks | None = None, columns: Mapping[Column, str] | None = None
) -> Record:
    """The record of a row, in any format.

    Args:
        row: the row as the file has it.
        where: the file and line of the row.
        remarks: counts over the file, to which those of the row are added.
        columns: maps veneer's name to the file's name, if they differ (`data.columns`).

    Raises:
        BadRow: the row has no known format, or breaks the rules of its format.
    """
    remarks = Remarks() if remarks is None else remarks
    row, whole = given_keys(row, columns), row
    try:
        record, turns, used = _read(row, where)
    except _MissingKey as error:
        raise BadRow(f"{error}{_absent(row, whole, columns or {}, _NEEDED_KEYS)}") from error
    except BadRow as error:
        raise BadRow(f"{error}{_absent(row, whole, columns or {}, ())}") from error
    remarks.unused.update([*unmapped(whole, columns), *(key for key in row if key not in used), *turns.unused])
    remarks.marked += turns.marked
    for message in record.messages:
        if not message["content"] and _says_nothing(message):
            remarks.empty += 1
            break
    return record


def to_plain_text(
    row: Any, where: str, remarks: Remarks | None = None, columns: Mapping[Column, str] | None = None
) -> Record:
    """The record of a row of plain text; see `to_record` for the arguments.

    Raises:
        BadRow: see `to_record`, or the row is not plain text.
    """
    record = to_record(row, where, remarks, columns)
    if record.text is None:
        raise BadRow(NO_TEXT)
    return record


def format_of(row: Mapping[str, Any]) -> str | None:
    """The first key of the format of a row without nulls; None if the format is not known."""
    return next((keys[0] for keys in _FORMATS if any(key in row for key in keys)), None)


def _read(row: dict[str, Any], where: str) -> tuple[Record, Turns, tuple[str, ...]]:
    """The record, its turns, and the used keys."""
    found = format_of(row)
    if found == "messages":
        turns = read_turns(row["messages"], "messages")
        return _conversation(where, turns, row), turns, ("messages", "tools")
    if found == "conversations":
        turns = _under_system(row, read_turns(row["conversations"], "conversations"))
        return _conversation(where, turns, row), turns, ("conversations", "system", "tools")
    if "completion" not in row and ("preferred_output" in row or {"chosen", "rejected"} <= row.keys()):
        raise BadRow(
            "a row of two answers of which one is preferred is for objectives like dpo; set objective: dpo, or train "
            f"only the chosen answers with {_columns(prompt='prompt', completion='chosen')}; an evaluation needs rows "
            "of one answer, {prompt, completion}, or measures how often the chosen one is the likelier with "
            "{prompt, completion: CHOSEN, choices: [CHOSEN, REJECTED]}"
        )
    if found == "prompt":
        _both(row, "prompt", "completion")
        if isinstance(row["prompt"], list) and isinstance(row["completion"], list):
            turns = read_turns(row["prompt"], "prompt").as_context() + read_turns(row["completion"], "completion")
            return _conversation(where, turns, row), turns, ("prompt", "completion", "tools")
        return _prompt_completion(row, where), Turns(), ("prompt", "completion", "tools")
    if found == "instruction":
        _both(row, "instruction", "output")
        return _alpaca(row, where), Turns(), ("instruction", "input", "output", "system")
    if found == "text":
        return _text(row, where), Turns(), ("text",)
    keys = ", ".join(repr(str(key)) for key in row) or "none"
    raise _MissingKey(f"no format is known for the keys {keys}; known: {ANSWER_FORMS}{_suggestion(row)}")


def given_keys(row: Any, columns: Mapping[Column, str] | None) -> dict[str, Any]:
    """The values of a row, under veneer's names, without nulls.

    Raises:
        BadRow: the row is not an object, or has none of the named columns.
    """
    if not isinstance(row, dict):
        raise BadRow(f"a row must be an object, not {kind(row)}")
    given = {key: value for key, value in row.items() if value is not None}
    return _mapped(given, columns) if columns else with_tools(given)


def unmapped(row: Mapping[str, Any], columns: Mapping[Column, str] | None) -> list[str]:
    """The columns of a row that are not used because others are mapped; none if no columns are mapped."""
    used = set((columns or {}).values())
    return sorted(key for key, value in row.items() if value is not None and key not in used) if used else []


def with_tools(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its `functions`, OpenAI's older name and spelling, as `tools`."""
    older = row.get("functions") if "tools" not in row else None
    if not (isinstance(older, list) and all(isinstance(one, dict) and "name" in one for one in older)):
        return row
    tools = [{"type": "function", "function": function} for function in older]
    return {key: value for key, value in row.items() if key != "functions"} | {"tools": tools}


def _mapped(row: Mapping[str, Any], columns: Mapping[Column, str]) -> dict[str, Any]:
    """The mapped columns of a row, under veneer's names.

    Raises:
        BadRow: the row has none of the named columns.
    """
    missing = [name for name in columns.values() if name not in row]
    if missing and not any(name in row for name in columns.values()):
        raise BadRow(f"the row has no {missing[0]!r}, which data.columns names; it has {', '.join(map(repr, row))}")
    return {name.value: row[theirs] for name, theirs in columns.items() if theirs in row}


def _conversation(where: str, turns: Turns, row: Mapping[str, Any]) -> Record:
    if not turns.messages:
        raise BadRow("the conversation is empty")
    answers = [index for index, message in enumerate(turns.messages) if message["role"] == "assistant"]
    if not answers or set(turns.untrained).issuperset(answers):
        marked = " that is trained" if answers else ""
        raise BadRow(f"there is no assistant turn{marked}, so there is nothing to train")
    return Record(where, turns.messages, read_tools(row.get("tools")), untrained=turns.untrained)


def _class_as_text(*values: Any) -> str:
    """The remedy if one of the values is a number, as data sets often have for a class."""
    if not any(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return ""
    return "; write a class by its name (of datasets: dataset.features[column].int2str), and a number as text"


def _prompt_completion(row: Mapping[str, Any], where: str) -> Record:
    prompt, completion = row["prompt"], row["completion"]
    if not (isinstance(prompt, str) and isinstance(completion, str)):
        raise BadRow(
            "prompt and completion must be two strings or two lists of turns, "
            f"not {kind(prompt)} and {kind(completion)}{_class_as_text(prompt, completion)}"
        )
    if not completion:
        raise BadRow("completion is empty, so there is nothing to train")
    refuse_written({"prompt": prompt, "completion": completion})
    messages = ({"role": "user", "content": prompt}, {"role": "assistant", "content": completion})
    return Record(where, messages, read_tools(row.get("tools")), prompt=prompt, completion=completion)


def _alpaca(row: Mapping[str, Any], where: str) -> Record:
    instruction, output = string(row, "instruction"), string(row, "output")
    extra = string(row, "input") if "input" in row else ""
    if not output:
        raise BadRow("output is empty, so there is nothing to train")
    system = _system(row).messages
    question = f"{instruction}\n\n{extra}" if extra else instruction
    messages = (*system, {"role": "user", "content": question}, {"role": "assistant", "content": output})
    prompt = "\n\n".join([*(turn["content"] for turn in system), question])
    return Record(where, messages, prompt=prompt, completion=f"\n\n{output}")


def _text(row: Mapping[str, Any], where: str) -> Record:
    label = next((key for key in row if isinstance(key, str) and key.lower() in LABEL_COLUMNS), None)
    if label is not None:
        raise BadRow(
            f"text with {label!r} looks like classification, and plain text would leave the {label} out; if that is "
            f"the answer, set {_columns(prompt='text', completion=label)}; to train only the text, set {{text: text}}"
        )
    if not string(row, "text"):
        raise BadRow("text is empty")
    return Record(where, text=row["text"])


def _both(row: Mapping[str, Any], first: str, second: str) -> None:
    for key, other in ((first, second), (second, first)):
        if key not in row:
            raise _MissingKey(f"there is {_a(other)} {other} but no {key}{_suggestion(row)}")


def _absent(
    row: Mapping[str, Any], whole: Mapping[str, Any], columns: Mapping[Column, str], needed: Sequence[str]
) -> str:
    """The missing or null values of a row, as the end of an error message.

    Args:
        row: its values, under veneer's names.
        whole: the row as the file has it.
        columns: maps veneer's name to the file's; those that the row does not have are named.
        needed: the keys whose nulls are named if no columns are mapped.
    """
    missing = [theirs for ours, theirs in columns.items() if ours.value not in row]
    null = [key for key in (missing if columns else needed) if key in whole and whole[key] is None]
    gone = ", ".join(repr(name) for name in missing if name not in null)
    return (f"; data.columns names {gone}, which the row does not have" if gone else "") + (
        f"; null counts as absent: {', '.join(map(repr, null))}" if null else ""
    )


def _suggestion(row: Mapping[str, Any]) -> str:
    """The `data.columns` that would make a row of an unknown shape readable, as the end of an error message."""
    texts = [key for key, value in row.items() if isinstance(key, str) and isinstance(value, str)]
    if len(texts) < 2:
        return ""
    completion = next((key for key in texts if key.lower() in ("completion", "output", *_COMPLETION_COLUMNS)), None)
    prompt = next((key for key in texts if key != completion and key.lower() in ("prompt", *_PROMPT_COLUMNS)), None)
    if len(texts) == 2:
        prompt = prompt or next(key for key in texts if key != completion)
        completion = completion or next(key for key in texts if key != prompt)
    if prompt is None or completion is None:
        return f"; other names are mapped by {MAPPING_SETTING}: {{prompt: NAME, completion: NAME}}"
    return f"; if {completion!r} is the answer to {prompt!r}, set {_columns(prompt=prompt, completion=completion)}"


def _columns(*, prompt: str, completion: str) -> str:
    return f"{MAPPING_SETTING}: {{prompt: {yaml_name(prompt)}, completion: {yaml_name(completion)}}}"


def yaml_name(name: str) -> str:
    """A column's name in a form that is valid in YAML."""
    return name if name.isidentifier() and name.lower() not in _YAML_WORDS else to_text(name)


def _under_system(row: Mapping[str, Any], turns: Turns) -> Turns:
    """The turns after the system turn of the row, if it has one, without repeating it.

    Raises:
        BadRow: the turns begin with another system turn.
    """
    system = _system(row)
    if not (system.messages and turns.messages and turns.messages[0]["role"] == "system"):
        return system + turns
    if turns.messages[0]["content"] != system.messages[0]["content"]:
        raise BadRow(OTHER_SYSTEM)
    return turns


def _system(row: Mapping[str, Any]) -> Turns:
    return system_turn(string(row, "system")) if "system" in row else Turns()


def read_tools(value: Any) -> tuple[dict[str, Any], ...] | None:
    """A row's descriptions of tools: a list of objects, or such a list as JSON text.

    Raises:
        BadRow: the value is neither.
    """
    if isinstance(value, str):  # ShareGPT files have the list as a JSON string
        try:
            value = parse_json(value) if value.strip() else None
        except BadRow as problem:
            raise BadRow(f"tools is not JSON: {problem}") from problem
    if value is None:
        return None
    if not (isinstance(value, list) and all(isinstance(tool, dict) for tool in value)):
        raise BadRow(f"tools must be a list of objects, not {kind(value)}")
    return tuple(value) or None


def _says_nothing(message: Mapping[str, Any]) -> bool:
    return message["role"] == "assistant" and not any(message.get(key) for key in ("tool_calls", *REASONING_KEYS))


def _a(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"
