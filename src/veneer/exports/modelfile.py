"""An Ollama `Modelfile` for a GGUF file: where the model is, how a conversation is written, and where to stop.

Ollama's templates are Go's. A chat template whose text is one beginning, then a fixed frame around every message, can
be expressed in them. The frame is inferred from the template's text for a few conversations, and is used only if it
gives the same text for others. A template that does more (a date, a message that changes another) is left out, and the
file says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from veneer.data.encoded.chat import template_of
from veneer.data.templates.bounded_template import BoundedTemplate
from veneer.errors import DataError
from veneer.io.files import write_text
from veneer.io.tokenizer import Tokenizer

MODELFILE = "Modelfile"
_SYSTEM, _USER, _ANSWER = "system", "user", "assistant"
_CHECKED: tuple[tuple[str, ...], ...] = (
    (_USER,),
    (_USER, _ANSWER),
    (_USER, _ANSWER, _USER),
    (_USER, _ANSWER, _USER, _ANSWER, _USER),
)
_PLAIN_TEXT = "Xtext{}X"
_CONTENTS: tuple[dict[str, str], ...] = (
    {},
    dict.fromkeys((_SYSTEM, _USER, _ANSWER), "\n Xtext{}X \n"),
    {_ANSWER: "<think>\nXthoughtX\n</think>\n\nXtext{}X"},
)
"""The contents of messages by role, other than `_PLAIN_TEXT`. Many templates trim contents (Llama 3, Gemma) or take the
thoughts out of earlier answers (Qwen3), which no frame does."""
_CHECKED_SYSTEM: tuple[tuple[str, ...], ...] = tuple((_SYSTEM, *roles) for roles in _CHECKED)


@dataclass(frozen=True, slots=True)
class Frame:
    """A chat template as pieces of text."""

    opening: str
    """Before a conversation that does not begin with a system message."""
    opening_system: str
    """Before one that does."""
    around: Mapping[str, tuple[str, str]]
    """Before and after each role's messages."""
    prompt: str
    """The start of the assistant's turn."""

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation up to the start of the assistant's turn."""
        first = self.opening_system if messages[0]["role"] == _SYSTEM else self.opening
        parts = [f"{self.around[one['role']][0]}{one['content']}{self.around[one['role']][1]}" for one in messages]
        return "".join((first, *parts, self.prompt))


def frame_of(tokenizer: Tokenizer) -> Frame | None:
    """The frame that a chat template puts around messages, or None if it does anything else."""
    if tokenizer.asks_for_time:
        return None  # today's date would be fixed for good
    try:
        template = template_of(tokenizer)
        if template is None:
            return None
        frame = _frame(template, with_system=True)
        if frame is None or not _holds(template, frame, (*_CHECKED, *_CHECKED_SYSTEM)):
            frame = _frame(template, with_system=False)
            if frame is None or not _holds(template, frame, _CHECKED):
                return None
    except DataError:
        return None
    return frame


def _conversation(roles: Sequence[str], contents: Mapping[str, str] = _CONTENTS[0]) -> list[dict[str, str]]:
    return [
        {"role": role, "content": contents.get(role, _PLAIN_TEXT).format(index)} for index, role in enumerate(roles)
    ]


def _between(template: BoundedTemplate, roles: Sequence[str], *, prompt: bool = False) -> list[str] | None:
    """The text before, between and after the messages."""
    messages = _conversation(roles)
    rest = template.render(messages, add_generation_prompt=prompt)
    found = []
    for message in messages:
        before, there, rest = rest.partition(message["content"])
        if not there:
            return None
        found.append(before)
    return [*found, rest]


def _frame(template: BoundedTemplate, *, with_system: bool) -> Frame | None:
    one = _between(template, (_USER,))
    asked = _between(template, (_USER,), prompt=True)
    three = _between(template, (_USER, _ANSWER, _USER))
    two = _between(template, (_USER, _ANSWER))
    if one is None or asked is None or two is None or three is None:
        return None
    after_user, after_answer = one[1], two[2]
    before_answer = _without_start(three[1], after_user)
    before_user = _without_start(three[2], after_answer)
    prompt = _without_start(asked[1], after_user)
    opening = None if before_user is None else _without_end(one[0], before_user)
    if before_answer is None or before_user is None or prompt is None or opening is None:
        return None
    around = {_USER: (before_user, after_user), _ANSWER: (before_answer, after_answer)}
    opening_system = opening
    if with_system:
        system = _between(template, (_SYSTEM, _USER))
        after_system = None if system is None else _without_end(system[1], before_user)
        if system is None or after_system is None:
            return None
        # A beginning that both kinds of conversation have stays outside of the message.
        opening_system = _common_start(opening, system[0])
        around[_SYSTEM] = (system[0][len(opening_system) :], after_system)
    return Frame(opening, opening_system, around, prompt)


def _holds(template: BoundedTemplate, frame: Frame, conversations: Sequence[Sequence[str]]) -> bool:
    asked = [_conversation(roles, contents) for roles in conversations for contents in _CONTENTS]
    return all(template.render(one, add_generation_prompt=True) == frame.render(one) for one in asked)


def _without_start(text: str, start: str) -> str | None:
    return text.removeprefix(start) if text.startswith(start) else None


def _without_end(text: str, end: str) -> str | None:
    return text.removesuffix(end) if text.endswith(end) else None


def _common_start(a: str, b: str) -> str:
    length = next((index for index, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return a[:length]


# ------------------------------------------------------------------------------------------------------------- writing


def write_modelfile(folder: Path, tokenizer: Tokenizer, model: str, *, adapter: str | None = None) -> None:
    """Write the Modelfile of a GGUF model, or of a GGUF adapter on its base.

    Args:
        folder: an existing folder.
        tokenizer: see `modelfile`.
        model: see `modelfile`.
        adapter: see `modelfile`.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text(folder / MODELFILE, modelfile(tokenizer, model, adapter=adapter))


def modelfile(tokenizer: Tokenizer, model: str, *, adapter: str | None = None) -> str:
    """The content of a Modelfile, whose first line names the model.

    Args:
        tokenizer: the model's tokenizer, with its chat template.
        model: the value of FROM: a file's path, beginning with a dot if it is in the folder, or a name.
        adapter: the adapter's file in the folder.
    """
    lines = [f"FROM {model}"]
    if adapter is not None:
        lines.append(f"ADAPTER {adapter}")
    frame = frame_of(tokenizer)
    if frame is not None:
        lines.append(f'TEMPLATE """{go_template(frame, _own_bos(tokenizer))}"""')
    elif tokenizer.chat_template is not None:
        lines.append("# The chat template does more than a TEMPLATE can express: use the one in the GGUF file.")
    lines += [f'PARAMETER stop "{_quoted(stop)}"' for stop in _stops(tokenizer, frame)]
    return "\n".join(lines) + "\n"


def _own_bos(tokenizer: Tokenizer) -> str:
    """The text that tokenizing adds in front, which a template must not repeat."""
    return (tokenizer.bos_token or "") if tokenizer.add_bos else ""


def go_template(frame: Frame, bos: str = "") -> str:
    """A frame as a Go template over `.Messages`.

    Args:
        frame: the frame.
        bos: the text to leave out at the beginning.
    """
    opening, opening_system = frame.opening.removeprefix(bos), frame.opening_system.removeprefix(bos)
    parts = [_plain(opening)]
    if opening != opening_system:
        parts = [
            '{{ if eq (index .Messages 0).Role "system" }}', _plain(opening_system), "{{ else }}", _plain(opening),
            "{{ end }}",
        ]  # fmt: skip
    parts.append("{{ range .Messages }}")
    for index, (role, (before, after)) in enumerate(frame.around.items()):
        parts.append(f'{{{{ {"else " if index else ""}if eq .Role "{role}" }}}}')
        parts += [_plain(before), "{{ .Content }}", _plain(after)]
    return "".join([*parts, "{{ end }}{{ end }}", _plain(frame.prompt)])


def _plain(text: str) -> str:
    """Text that a Go template prints as it is, and that does not end a Modelfile's quotes."""
    text = text.replace("{{", '{{ "{{" }}').replace('"""', '{{ "\\"\\"\\"" }}')
    # A brace would join the action after the text, and a quote the quotes at the template's end.
    for last, written in (("{", '{{ "{" }}'), ('"', '{{ "\\"" }}')):
        if text.endswith(last):
            return text.removesuffix(last) + written
    return text


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _stops(tokenizer: Tokenizer, frame: Frame | None) -> list[str]:
    """The end of text, and the control token that closes an answer."""
    found = [tokenizer.eos_token] if tokenizer.eos_token else []
    if frame is not None:
        closing = frame.around[_ANSWER][1]
        found += [token for token in tokenizer.special_tokens if closing.startswith(token)]
    return list(dict.fromkeys(found))
