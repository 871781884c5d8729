"""Records to examples: token ids, and for each token whether it is trained.

In a conversation, the assistant's turns are trained with their end-of-turn token. In a prompt/completion pair for a
model without a chat template, the completion and the end-of-text token are trained; in a plain text, everything. The
ids of a conversation are those of the rendered template, tokenised as a whole, exactly as in `transformers`; only if a
message spells a special token do those characters become ordinary text (escape.py). spans.py finds the trained
characters; a token is trained if and only if its first character is one of them.
"""

from __future__ import annotations

import reprlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from veneer.bounds import ids_given
from veneer.data.encoded.record_groups import record_groups
from veneer.data.encoded.windows import WINDOW_CHARS, Encode, in_windows
from veneer.data.files.json_values import half_character, unusable
from veneer.data.forms.record import Record
from veneer.data.forms.turns import NO_TEMPLATE, Message, check_messages, without_template
from veneer.data.templates.bounded_template import BoundedTemplate, TemplateRefused
from veneer.data.templates.escape import GuardedChat, SpecialTokens
from veneer.data.templates.turn_shape import Span
from veneer.errors import DataError
from veneer.events import Stage, Subscriber, ignore

if TYPE_CHECKING:
    from veneer.io.tokenizer import Tokenizer


GROUP_CONVERSATIONS = 64
"""The most conversations that are sent to the template's process together."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One tokenised row."""

    tokens: NDArray[np.int32]
    """Token ids, [length]."""
    loss_mask: NDArray[np.bool_]
    """Whether each token is a target, [length]. The first is always False: nothing comes before it to predict it."""
    where: str
    """The file and line of the row."""

    @property
    def supervised(self) -> int:
        """The number of targets."""
        return int(np.count_nonzero(self.loss_mask))


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """One tokenised row together with the text of its tokens."""

    example: Example
    text: str
    """The tokenised text. If the row spells a control token itself, the template's own control tokens are written as
    the tokenizer's aliases, one private-use character each."""
    offsets: Sequence[Span]
    """The range of `text` [start, end) of each token; empty for tokens without text."""
    spans: Sequence[Span]
    """The ranges of `text` that are trained, in order."""
    spelled: bool
    """Whether the row spells a control token, which then is ordinary text."""


@dataclass(frozen=True, slots=True)
class _PendingRows:
    """Records on their way through the template's process."""

    records: Sequence[Record]
    chats: Sequence[GuardedChat | DataError | None]
    """For each record the conversation that was sent, the error that prevented it, or None if there is nothing to
    render."""
    ticket: int | None
    """The ticket for the answers; None if nothing was sent."""


class Encoder:
    """Encodes with one tokenizer and one template, and keeps what it finds out about the template for all rows.

    Args:
        tokenizer: the tokenizer of the model.
        template: the chat template of the model, or None if it has none.
        emit: receives the progress of a text that takes long by itself.
    """

    def __init__(self, tokenizer: Tokenizer, template: BoundedTemplate | None, emit: Subscriber = ignore) -> None:
        self._tokenizer, self._emit = tokenizer, emit
        self._specials = SpecialTokens(tokenizer.special_tokens, tokenizer.aliases)
        self._template = template

    def encode(self, record: Record) -> Example:
        """Tokenise one record and mark the trained tokens.

        Raises:
            DataError: the row cannot be written with the template, or its turns cannot be told apart; the message
                begins with the place of the row.
        """
        return self.trace(record).example

    def trace(self, record: Record) -> Trace:
        """Tokenise one record like `encode`, and keep the text of the tokens.

        Raises:
            DataError: the row cannot be encoded, as for `encode`.
        """
        (found,) = self.traces([record])
        if isinstance(found, DataError):
            raise DataError(f"{record.where}: {found}") from found
        return found

    def traces(self, records: Iterable[Record]) -> Generator[Trace | DataError, None, None]:
        """Trace every record, in order. For one that cannot be encoded, give the error without the place of the row.

        Conversations are sent ahead to the template's process, so that it renders while others are tokenised here.

        Raises:
            TemplateRefused: the template cannot be used for any row.
        """
        ahead: deque[_PendingRows] = deque()
        try:
            for group in record_groups(records, GROUP_CONVERSATIONS):
                ahead.append(self._send(group))
                if len(ahead) > 1:
                    yield from self._receive(ahead[0])
                    ahead.popleft()
            while ahead:
                yield from self._receive(ahead[0])
                ahead.popleft()
        finally:
            if self._template is not None:
                self._template.forget(group.ticket for group in ahead if group.ticket is not None)

    def prompt_tokens(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> list[int]:
        """The ids of a conversation that ends where the assistant is to answer; see `prompt_trace`."""
        ids: list[int] = self.prompt_trace(messages, tools).example.tokens.tolist()
        return ids

    def prompt_trace(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None, where: str = "a prompt"
    ) -> Trace:
        """Tokenise a conversation that ends where the assistant is to answer. None of its tokens is trained.

        Without a chat template, the text is the contents of the turns joined by blank lines. If a template ignores
        `add_generation_prompt`, the assistant's header is appended to its text, since training takes it as given.

        Raises:
            DataError: the template refuses the conversation, or a message has no text or a lone surrogate.
        """
        _refuse_half_characters(messages)
        if self._template is None:
            text = without_template(messages)
            (ids, offsets, spelled), bos = self._plain(text), self._bos()
            return _untrained([*bos, *ids], where, text, [*((0, 0) for _ in bos), *offsets], spelled)
        check_messages(messages)
        chat = self._specials.guard(messages, tools)
        text = self._template.render(chat.messages, add_generation_prompt=True, tools=chat.tools)
        text += self._template.shape_for(chat.tools).unprompted
        found, places, _, text = self._tokenise(text, chat.changed, (), where)
        return _untrained(found, where, text, places, chat.changed)

    @property
    def beginning(self) -> list[int]:
        """The ids of the tokens at the beginning of a text without a template: the start-of-text token, or none."""
        return self._bos()

    @cached_property
    def lead(self) -> tuple[int, ...]:
        """The ids that an answer begins with before its words (gpt-oss' name of a channel); none for most templates."""
        return () if self._template is None else tuple(self._tokenizer.encode(self._template.shape.lead))

    def end_of_turn_id(self) -> int | None:
        """The id of the token that closes every assistant turn, or None if the template has no such token."""
        token = None if self._template is None else self._template.shape.end_token
        return None if token is None else self._tokenizer.backend.token_to_id(token)

    def notes(self) -> tuple[str, ...]:
        """Sentences that the user should know about the template or tokenizer."""
        notes = []
        if self._tokenizer.eos_token is None:
            notes.append("the tokenizer has no end-of-text token: plain text and completions do not teach when to stop")
        if self._template is not None and not self._template.marks_generation:
            shape = self._template.shape
            if shape.end_token is None:
                notes.append("the chat template does not close every assistant turn with one special token")
            if shape.unprompted:
                notes.append(f"the chat template has no generation prompt; {shape.unprompted!r} is used as one")
            if shape.skips_opening:
                notes.append(
                    f"the generation prompt ends in {shape.opening!r}, which the chat template leaves out before "
                    "answers without thoughts: these are trained behind another text than they are asked behind"
                )
        return tuple(notes)

    def _send(self, records: Sequence[Record]) -> _PendingRows:
        """Send the conversations of these records to the template's process for rendering."""
        chats: list[GuardedChat | DataError | None] = []
        for record in records:
            try:
                plain = record.text is not None or self._template is None
                chats.append(None if plain else self._specials.guard(record.messages, record.tools))
            except DataError as error:
                chats.append(error)
        asked = [
            (chat, one.untrained) for chat, one in zip(chats, records, strict=True) if isinstance(chat, GuardedChat)
        ]
        ticket = self._template.send(asked) if self._template is not None and asked else None
        return _PendingRows(records, chats, ticket)

    def _receive(self, sent: _PendingRows) -> Iterator[Trace | DataError]:
        found = iter(self._found(sent))
        for record, chat in zip(sent.records, sent.chats, strict=True):
            yield chat if isinstance(chat, DataError) else self._trace(record, chat, found)

    def _found(self, sent: _PendingRows) -> Sequence[tuple[str, Sequence[Span]] | DataError]:
        """The results of the template's process for each conversation that was sent."""
        if self._template is None or sent.ticket is None:
            return ()
        try:
            return self._template.receive(sent.ticket)
        except TemplateRefused:
            raise
        except DataError as error:
            return [error] * sum(isinstance(chat, GuardedChat) for chat in sent.chats)

    def _trace(
        self, record: Record, chat: GuardedChat | None, found: Iterator[tuple[str, Sequence[Span]] | DataError]
    ) -> Trace | DataError:
        try:
            if chat is not None:
                rendered = next(found)
                return rendered if isinstance(rendered, DataError) else self._trace_chat(record, chat, *rendered)
            if record.text is not None:
                return self._trace_text(record.text, record.where)
            if record.prompt is not None and record.completion is not None:
                return self._trace_pair(record.prompt, record.completion, record.where)
        except DataError as error:
            return error
        return DataError(NO_TEMPLATE)

    def _trace_chat(self, record: Record, chat: GuardedChat, text: str, spans: Sequence[Span]) -> Trace:
        ids, offsets, moved, text = self._tokenise(text, chat.changed, spans, record.where)
        return _trace(ids, _supervised(offsets, moved), record.where, text, offsets, moved, chat.changed)

    def _trace_text(self, text: str, where: str) -> Trace:
        encode, spelled = self._encoding_of(text)
        ids, offsets = self._in_windows(encode, text, where, self._bos(), self._eos())
        return _trace(ids, np.ones(len(ids), dtype=np.bool_), where, text, offsets, [(0, len(text))], spelled)

    def _in_windows(
        self, encode: Encode, text: str, where: str, before: Sequence[int] = (), behind: Sequence[int] = ()
    ) -> tuple[NDArray[np.int32], Sequence[Span]]:
        """The ids and offsets of a text, between tokens without text; the progress of a long text is emitted."""
        if len(text) <= WINDOW_CHARS:
            return in_windows(encode, text, before, behind)
        with Stage(self._emit, f"tokenising {where}", total=len(text), unit="characters") as stage:
            return in_windows(encode, text, before, behind, stage.advance)

    def _trace_pair(self, prompt: str, completion: str, where: str) -> Trace:
        before, before_offsets, spelled_before = self._plain(prompt)
        both, offsets, spelled = self._plain(prompt + completion)
        if both[: len(before)] != before:
            # A token would cross the boundary ("x: " + "1"). Generation starts from the prompt's own tokens, so
            # training must as well.
            after, after_offsets, spelled = self._plain(completion)
            both = before + after
            offsets = [*before_offsets, *((a + len(prompt), b + len(prompt)) for a, b in after_offsets)]
        bos, eos, end = self._bos(), self._eos(), len(prompt) + len(completion)
        ids = [*bos, *both, *eos]
        offsets = [*((0, 0) for _ in bos), *offsets, *((end, end) for _ in eos)]
        mask = np.arange(len(ids)) >= len(bos) + len(before)
        return _trace(ids, mask, where, prompt + completion, offsets, [(len(prompt), end)], spelled or spelled_before)

    def _tokenise(
        self, guarded: str, changed: bool, spans: Sequence[Span], where: str
    ) -> tuple[NDArray[np.int32], Sequence[Span], Sequence[Span], str]:
        """The ids and offsets of a rendered, guarded text, the spans in the offsets' coordinates, and their text."""
        if not changed:
            return *self._in_windows(self._tokenizer.encode_with_offsets, guarded, where), spans, guarded
        flat = [position for span in spans for position in span]
        text, moved = self._specials.alias(guarded, flat)
        ids, offsets = self._in_windows(self._tokenizer.encode_aliased, text, where)
        return ids, offsets, list(zip(moved[::2], moved[1::2], strict=True)), text

    def _plain(self, text: str) -> tuple[list[int], list[Span], bool]:
        """The ids and offsets of a text without a template; special tokens spelled in it are ordinary text."""
        encode, spelled = self._encoding_of(text)
        return *encode(text), spelled

    def _encoding_of(self, text: str) -> tuple[Encode, bool]:
        """The function that tokenises a text without a template, and whether the text spells a special token."""
        if not self._specials.spelled_in(text):
            return self._tokenizer.encode_with_offsets, False
        self._specials.refuse_aliases(text)
        return self._tokenizer.encode_aliased, True

    def _bos(self) -> list[int]:
        bos = self._tokenizer.bos_id
        return [bos] if self._tokenizer.add_bos and bos is not None else []

    def _eos(self) -> list[int]:
        eos = self._tokenizer.eos_id
        return [] if eos is None else [eos]


def stop_tokens(tokenizer: Tokenizer, generation_config: Mapping[str, Any], encoder: Encoder) -> frozenset[int]:
    """The tokens that end an answer: those of the generation config, end of text, and the template's end of turn."""
    ids = token_ids(generation_config.get("eos_token_id"))
    ids |= {token for token in (tokenizer.eos_id, encoder.end_of_turn_id()) if token is not None}
    return frozenset(ids)


def token_ids(value: Any) -> set[int]:
    """The token ids in a configuration value: one, a list, or none."""
    return {item for item in ids_given(value) if isinstance(item, int)}


def template_of(tokenizer: Tokenizer) -> BoundedTemplate | None:
    """The tokenizer's chat template, or None if it has none.

    Callers with equal tokenizers get the same object, and so share its process.
    """
    described = _described(tokenizer)
    return None if described is None else _template(*described)


def start_template(tokenizer: Tokenizer) -> None:
    """Start the process of the tokenizer's chat template, if it has one, so that it is ready when rows are encoded.

    Raises:
        DataError: the process cannot be started.
    """
    template = template_of(tokenizer)
    if template is not None:
        template.start()


def new_template_of(tokenizer: Tokenizer) -> BoundedTemplate | None:
    """The tokenizer's chat template in its own process, even if it was refused before.

    A template is refused for good once a conversation took too long in it. If conversations are those of different
    people, the others must still be served.
    """
    described = _described(tokenizer)
    if described is None:
        return None
    return _bounded(*described)


_Described = tuple[str, str | None, tuple[tuple[str, str], ...], tuple[str, ...], date | None]
"""The source, the source for conversations with tools, the named tokens, special tokens and date of a template."""


def _described(tokenizer: Tokenizer) -> _Described | None:
    """The description of the tokenizer's chat template, or None if it has none."""
    if tokenizer.chat_template is None:
        return None
    tokens = {
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "unk_token": tokenizer.unk_token,
    }
    given = tuple((name, token) for name, token in tokens.items() if token is not None)
    source, tools = tokenizer.chat_template, tokenizer.tool_template
    return source, tools, given, tuple(tokenizer.special_tokens), tokenizer.template_date


def _bounded(
    source: str, tools: str | None, named: tuple[tuple[str, str], ...], specials: tuple[str, ...], day: date | None
) -> BoundedTemplate:
    return BoundedTemplate(source, tokens=dict(named), specials=specials, day=day, tool_source=tools)


_template = lru_cache(maxsize=16)(_bounded)


def _refuse_half_characters(messages: Sequence[Message]) -> None:
    for number, message in enumerate(messages, start=1):
        content = message.get("content") or ""
        if not isinstance(content, str):
            raise DataError(f"message {number}: its content must be a text, got {reprlib.repr(content)}")
        at = half_character(content)
        if at is not None:
            raise DataError(f"message {number} ({message.get('role')}): {unusable(content, at, 'its content')}")


def split_for_evaluation(record: Record) -> tuple[tuple[Message, ...], str] | None:
    """Split a conversation for evaluation: the turns before its last assistant turn, and the text of that turn, which
    is the reference answer. Turns that are marked as context only are skipped.

    Returns:
        None if there is no text to compare with: a plain text, or a last turn that only calls tools. The loss of such a
        row still counts.
    """
    turns = record.trained_turns
    if not turns:
        return None
    last = record.messages[turns[-1]]
    answer = last.get("content") or ""
    if not answer and last.get("tool_calls"):
        return None
    return record.messages[: turns[-1]], answer


def _trace(
    ids: Sequence[int] | NDArray[np.int32],
    mask: NDArray[np.bool_],
    where: str,
    text: str,
    offsets: Sequence[Span],
    spans: Sequence[Span],
    spelled: bool,
) -> Trace:
    mask[:1] = False
    return Trace(Example(np.asarray(ids, dtype=np.int32), mask, where), text, offsets, spans, spelled)


def _untrained(
    ids: Sequence[int] | NDArray[np.int32], where: str, text: str, offsets: Sequence[Span], spelled: bool
) -> Trace:
    return _trace(ids, np.zeros(len(ids), dtype=np.bool_), where, text, offsets, (), spelled)


def _supervised(offsets: Sequence[Span], spans: Sequence[Span]) -> NDArray[np.bool_]:
    """Mark the tokens that start inside a span, [length]; `spans` are in order and do not overlap."""
    starts = np.fromiter((start for start, _ in offsets), dtype=np.int64, count=len(offsets))
    if not spans:
        return np.zeros(len(starts), dtype=np.bool_)
    borders = np.asarray(spans, dtype=np.int64).reshape(-1)
    # If the number of borders at or before a position is odd, it is inside a span: each has a start and an end.
    inside: NDArray[np.bool_] = np.searchsorted(borders, starts, side="right") % 2 == 1
    return inside
