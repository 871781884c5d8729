"""Render a chat template like `transformers`, byte for byte, but with counted work and known trained spans.

The environment is the one that chat templates are written for: `trim_blocks` and `lstrip_blocks`, `break` and
`continue`, `raise_exception`, `strftime_now`, a `tojson` that keeps non-ASCII and HTML characters, and
`{% generation %}` blocks. sandbox.py bounds the resources of a template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from veneer.data.files.json_values import half_character
from veneer.data.forms.turns import REASONING_KEYS
from veneer.data.templates.sandbox import Meter, MeteredEnvironment, metered
from veneer.errors import DataError

# Marks around the text of a generation block while a template renders. They are from the last block of private-use
# characters, which `SpecialTokens.guard` refuses in data, so that a message cannot forge a trained span.
SPAN_OPEN = "\U0010f0fe"
SPAN_CLOSE = "\U0010f0ff"

_ADDRESS = re.compile(r" at (0x[0-9a-f]{6,})>", re.IGNORECASE)
"""The text that Python prints for an object without its own text: a function, a method, or a filter's generator."""

# The exceptions of Python for a wrong expression in a template ({{ 1 + "a" }}, a missing key, endless recursion).
_EXPRESSION_ERRORS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError, MemoryError)


@dataclass(frozen=True, slots=True)
class Rendering:
    """A rendered conversation."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """Character ranges [start, end) of the template's generation blocks, in order; empty if it has none."""


class _GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}`: renders its content between SPAN_OPEN and SPAN_CLOSE."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it as a class attribute)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Read the block's body; called by jinja2 at the tag."""
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        opening = nodes.Output([nodes.TemplateData(SPAN_OPEN)], lineno=lineno)
        closing = nodes.Output([nodes.TemplateData(SPAN_CLOSE)], lineno=lineno)
        # A scope of its own: variables set in the block are not visible after it, as in transformers.
        return [nodes.Scope([opening, *body, closing], lineno=lineno)]


class ChatTemplate:
    """One chat template, compiled once.

    Args:
        source: the Jinja source.
        bos_token, eos_token, pad_token, unk_token: the variables that the template sees; None leaves one undefined,
            which a template prints as nothing.
        now: the time for `strftime_now`; None uses the clock. A fixed time makes runs reproducible.

    Raises:
        DataError: `source` is not a Jinja template.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        pad_token: str | None = None,
        unk_token: str | None = None,
        now: datetime | None = None,
    ) -> None:
        self.source = source
        tokens = {"bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token, "unk_token": unk_token}
        self._tokens = {name: token for name, token in tokens.items() if token is not None}
        self._now = now
        environment = MeteredEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = self._strftime_now
        environment.seal()
        try:
            # Compiling evaluates constant expressions, so it is metered like a rendering.
            with metered(Meter(source)):
                tree = environment.parse_metered(source)
                self._template = environment.from_string(tree)
        except jinja2.TemplateSyntaxError as error:
            raise DataError(f"the chat template is not valid Jinja: {error.message} (line {error.lineno})") from error
        except (jinja2.TemplateError, SyntaxError, *_EXPRESSION_ERRORS) as error:
            raise DataError(f"the chat template cannot be compiled: {error}") from error
        self.marks_generation = SPAN_OPEN in source or _has_generation(environment, source)
        """Whether the template itself marks the trained text, with generation blocks."""

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The conversation as text.

        Args:
            messages: the turns; keys whose value is None are left out, as in `transformers`.
            add_generation_prompt: whether the text ends with the header of an assistant turn, for generation.
            tools: descriptions of the tools that may be called.

        Raises:
            DataError: the template refused the conversation, failed on it, or exceeded its limits.
        """
        return self.render_spans(messages, add_generation_prompt=add_generation_prompt, tools=tools).text

    def render_spans(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Rendering:
        """Render as `render` does, and give the character ranges of the template's generation blocks."""
        variables: dict[str, Any] = {
            **self._tokens,
            "messages": [_normalised(message) for message in messages],
            "tools": None if tools is None else list(tools),
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        meter = Meter((messages, tools))
        pieces: list[str] = []
        size = 0
        try:
            with metered(meter):
                for piece in self._template.generate(variables):
                    size += len(piece)
                    meter.charge_size(size if size > 1_000_000 else 0)
                    pieces.append(piece)
        except jinja2.exceptions.SecurityError as error:
            raise DataError(f"the chat template was stopped: {error}") from error
        except jinja2.TemplateError as error:
            raise DataError(f"the chat template refused the conversation: {error}") from error
        except _EXPRESSION_ERRORS as error:
            reason = str(error) or "out of memory"
            raise DataError(f"the chat template failed: {type(error).__name__}: {reason}") from error
        text = "".join(pieces)
        self._refuse_addresses(text, (messages, tools))
        if half_character(text) is not None:
            raise DataError("the chat template writes a lone surrogate (half a character), which no tokenizer accepts")
        return _without_marks(text) if self.marks_generation else Rendering(text, ())

    def _refuse_addresses(self, text: str, given: object) -> None:
        """Refuse a text with the address of an object, which differs between processes.

        Raises:
            DataError: there is an address that is neither in the conversation nor in the template.
        """
        written = list(_ADDRESS.finditer(text)) if "0x" in text.lower() else []
        known = f"{self.source}{given!r}".lower() if written else ""
        found = next((one for one in written if one[1].lower() not in known), None)
        if found is not None:
            raise DataError(
                f"the chat template prints an object, {text[max(0, found.start() - 60) : found.end()]!r}, whose "
                "address differs between processes, so no run could be reproduced; call the function instead of naming "
                "it, and write `| list` after a filter that gives items"
            )

    def _strftime_now(self, form: str) -> str:
        return (self._now or datetime.now()).strftime(form)


def _without_marks(text: str) -> Rendering:
    """Remove the span marks from a rendered text; nested blocks count as the outermost one."""
    pieces: list[str] = []
    spans: list[tuple[int, int]] = []
    length = depth = start = 0
    for index, piece in enumerate(text.replace(SPAN_CLOSE, SPAN_OPEN + SPAN_CLOSE).split(SPAN_OPEN)):
        if index > 0:
            if piece.startswith(SPAN_CLOSE):
                piece = piece.removeprefix(SPAN_CLOSE)
                depth -= 1
                if depth == 0 and length > start:
                    spans.append((start, length))
            else:
                start = length if depth == 0 else start
                depth += 1
        pieces.append(piece)
        length += len(piece)
    return Rendering("".join(pieces), tuple(spans))


def _has_generation(environment: MeteredEnvironment, source: str) -> bool:
    return any(data.data == SPAN_OPEN for data in environment.parse(source).find_all(nodes.TemplateData))


def _normalised(message: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in message.items() if value is not None}
    for key in REASONING_KEYS:
        if key in plain:
            return {"thinking": plain[key], **plain, "reasoning_content": plain[key]}
    return plain


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
