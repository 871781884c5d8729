"""Records to examples: token ids, and for each token whether it trains.

What trains in a conversation is the assistant's turns with their end-of-turn token; in a prompt/completion pair for a
model without a chat template the completion and the end-of-text token; in a plain text everything. The ids of a
conversation are those of the rendered template, tokenised whole, exactly as `transformers` makes them; only where a
message spells a special token, those characters become ordinary text (escape.py). How the trained characters are
found is spans.py's subject; a token trains if and only if its first character is one of them.
"""

from __future__ import annotations

import reprlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from veneer.bounds import ids_given
from veneer.data.encoded.record_groups import record_groups
from veneer.data.encoded.windows import WINDOW, Encode, in_windows
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


GROUP_ROWS = 64
"""Conversations that are sent to the template's process together, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One tokenised row."""

    tokens: NDArray[np.int32]
    """Token ids, [length]."""
    loss_mask: NDArray[np.bool_]
    """[length]; True where the token is a target. The first is always False: nothing comes before it to predict it."""
    where: str
    """File and line of the row."""

    @property
    def supervised(self) -> int:
        """Number of targets."""
        return int(np.count_nonzero(self.loss_mask))


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """One tokenised row together with the text that its tokens were made of."""

    example: Example
    text: str
    """The text that was tokenised. Where the row spells a control token itself, the template's own control tokens are
    written as the tokenizer's aliases, one private-use character each."""
    offsets: Sequence[Span]
    """The range of `text` [start, end) that each token came from; empty for tokens that no text says."""
    spans: Sequence[Span]
    """The ranges of `text` that train, in order."""
    spelled: bool
    """Whether the row spells a control token, which is ordinary text then."""


@dataclass(frozen=True, slots=True)
class _PendingRows:
    """Records on their way through the template's process."""

    records: Sequence[Record]
    chats: Sequence[GuardedChat | DataError | None]
    """For each record the conversation that was sent, the error why it could not be, or None where there is nothing to
    render."""
    ticket: int | None
    """The number of the answers; None where nothing was sent."""


class Encoder:
    """Encodes with one tokenizer and one template; what it learns about the template is kept for all rows.

    Args:
        tokenizer: the tokenizer of the model.
        template: the chat template of the model, or None where it has none.
        emit: told how far a text is that takes long by itself.
    """

    def __init__(self, tokenizer: Tokenizer, template: BoundedTemplate | None, emit: Subscriber = ignore) -> None:
        self._tokenizer, self._emit = tokenizer, emit
        self._specials = SpecialTokens(tokenizer.special_tokens, tokenizer.aliases)
        self._template = template

    def encode(self, record: Record) -> Example:
        """Tokenise one record and mark what trains.

        Raises:
            DataError: the row cannot be written with the template, or its turns cannot be told apart; the message
                begins with where the row is.
        """
        return self.trace(record).example

    def trace(self, record: Record) -> Trace:
        """Tokenise one record as `encode` does, and keep the text behind the tokens.

        Raises:
            DataError: the row cannot be encoded, as for `encode`.
        """
        (found,) = self.traces([record])
        if isinstance(found, DataError):
            raise DataError(f"{record.where}: {found}") from found
        return found

    def traces(self, records: Iterable[Record]) -> Generator[Trace | DataError, None, None]:
        """Trace every record, in order. One that cannot be encoded gives the error that says why, without its place.

        Conversations are sent to the template's process some ahead, so that it renders while others are tokenised here.

        Raises:
            TemplateRefused: the template cannot be used for any row.
        """
        ahead: deque[_PendingRows] = deque()
        try:
            for group in record_groups(records, GROUP_ROWS):
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
        """Ids of a conversation that ends where the assistant is to go on; see `prompt_trace`."""
        ids: list[int] = self.prompt_trace(messages, tools).example.tokens.tolist()
        return ids

    def prompt_trace(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None, where: str = "a prompt"
    ) -> Trace:
        """Tokenise a conversation that ends where the assistant is to go on. None of its tokens trains.

        Without a chat template, the contents of the turns joined by blank lines. Where a template ignores
        `add_generation_prompt`, the assistant's header is put behind what it made, since training takes it as given.

        Raises:
            DataError: the template refuses the conversation, or a message has no text or half a character.
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
        """Ids of the tokens that a text begins with that no template wrote: the start-of-text token, or none."""
        return self._bos()

    def end_of_turn_id(self) -> int | None:
        """Id of the token that closes every assistant turn, or None where the template has no such token."""
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
        return tuple(notes)

    def _send(self, records: Sequence[Record]) -> _PendingRows:
        """Send to the template's process what it is to render of these records."""
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
        """What the template's process found in each conversation that was sent."""
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
        """Ids and offsets of a text between tokens without one; how far a long one is is said."""
        if len(text) <= WINDOW:
            return in_windows(encode, text, before, behind)
        with Stage(self._emit, f"tokenising {where}", total=len(text), unit="characters") as stage:
            return in_windows(encode, text, before, behind, stage.advance)

    def _trace_pair(self, prompt: str, completion: str, where: str) -> Trace:
        before, before_offsets, spelled_before = self._plain(prompt)
        both, offsets, spelled = self._plain(prompt + completion)
        if both[: len(before)] != before:
            # A token would reach across the border ("x: " + "1"). Generation starts from the prompt's own tokens, so
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
        """Ids and offsets of a rendered, guarded text, the spans in the offsets' own coordinates, and their text."""
        if not changed:
            return *self._in_windows(self._tokenizer.encode_with_offsets, guarded, where), spans, guarded
        flat = [position for span in spans for position in span]
        text, moved = self._specials.alias(guarded, flat)
        ids, offsets = self._in_windows(self._tokenizer.encode_aliased, text, where)
        return ids, offsets, list(zip(moved[::2], moved[1::2], strict=True)), text

    def _plain(self, text: str) -> tuple[list[int], list[Span], bool]:
        """Ids and offsets of a text that no template made; special tokens spelled in it are ordinary text."""
        encode, spelled = self._encoding_of(text)
        return *encode(text), spelled

    def _encoding_of(self, text: str) -> tuple[Encode, bool]:
        """How a text is tokenised that no template made, and whether it spells a special token."""
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
    """Tokens that end an answer: those of the generation config, end of text, and the template's end of turn."""
    ids = token_ids(generation_config.get("eos_token_id"))
    ids |= {token for token in (tokenizer.eos_id, encoder.end_of_turn_id()) if token is not None}
    return frozenset(ids)


def token_ids(value: Any) -> set[int]:
    """The token ids that a configuration gives: one, a list, or none."""
    return {item for item in ids_given(value) if isinstance(item, int)}


def template_of(tokenizer: Tokenizer) -> BoundedTemplate | None:
    """The tokenizer's chat template, or None where it has none.

    Callers with equal tokenizers get the same object, and so share its process.
    """
    described = _described(tokenizer)
    return None if described is None else _template(*described)


def start_template(tokenizer: Tokenizer) -> None:
    """Start the process of the tokenizer's chat template, if it has one, so that it is ready when rows are encoded.

    Raises:
        DataError: it cannot be started.
    """
    template = template_of(tokenizer)
    if template is not None:
        template.start()


def new_template_of(tokenizer: Tokenizer) -> BoundedTemplate | None:
    """The tokenizer's chat template in a process of its own, also where one was refused before.

    A template is refused for good once a conversation took too long in it. Where conversations are those of different
    people, the others still want theirs.
    """
    described = _described(tokenizer)
    if described is None:
        return None
    return _bounded(*described)


_Described = tuple[str, str | None, tuple[tuple[str, str], ...], tuple[str, ...], date | None]
"""Source, source for conversations with tools, named tokens, special tokens and date of a chat template."""


def _described(tokenizer: Tokenizer) -> _Described | None:
    """What the tokenizer's chat template is, or None where it has none."""
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
    is the reference answer. Turns that are marked as context only are passed over.

    Returns:
        None where there is no text to compare with: a plain text, or a last turn that only calls tools. The loss of
        such a row still counts.
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
    # An odd number of borders at or before a position means that it is inside a span: each has a start and an end.
    inside: NDArray[np.bool_] = np.searchsorted(borders, starts, side="right") % 2 == 1
    return inside
