"""Find the characters of a rendered conversation that are trained: each assistant turn with its end-of-turn token.

A template that marks them (`{% generation %}`) decides. For all others:

- A turn starts where the prompt for it ends: `render(messages before it, add_generation_prompt=True)`, if that is a
  prefix of the whole text. It is not if a template rewrites earlier turns (Qwen3 removes their thoughts). The turns
  are then found by their header, the text between a user's words and the assistant's in a probe conversation. The
  header contains a special token, which no message can spell once it is guarded (escape.py). So if there are as many
  headers as assistant turns, the headers are those of the turns. The turn's last line must also be found in the
  located text. Otherwise turns are found one by one, each of which must end with the same words as it does where it is
  the last one. If even that fails, the template is refused: nothing is masked by guesswork.
- A turn ends after the first special token that follows it, if the probe shows that the template closes turns in this
  way (gpt-oss closes the last turn with another token than those before it). Otherwise it ends where
  `render(messages up to it)` ends. That is also looked at if the turn calls tools, or goes on after that token: gpt-oss
  writes thoughts as a message of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from veneer.data.templates.escape import GuardedChat, SpecialTokens
from veneer.data.templates.template import ChatTemplate
from veneer.data.templates.turn_shape import Shape, Span
from veneer.errors import DataError

# With more turns than this, headers are tried first: rendering once per turn takes time that grows with the square.
MANY_TURNS = 8

_USER, _ANSWER = ("veneerquestion1", "veneerquestion2"), ("veneeranswer1", "veneeranswer2")
_UNMASKABLE = "the assistant's turns cannot be told apart in the output of this chat template, so there is no loss mask"


class TurnFinder:
    """Renders conversations with one template and finds the characters that are trained.

    Args:
        template: the template.
        specials: the special tokens, by which turns are told apart.
        tools: the tools of the probe; a template for conversations with tools only needs at least an empty list.
    """

    def __init__(
        self, template: ChatTemplate, specials: SpecialTokens, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        self._template = template
        self._specials = specials
        self._tools = tools
        self._shape: Shape | None = None

    @property
    def shape(self) -> Shape:
        """The frame around turns, found once by rendering a probe."""
        if self._shape is None:
            try:
                self._shape = _probe(self._template, self._specials, self._tools)
            except DataError:
                # It refuses a plain conversation of two questions and answers: only prefixes can be relied on.
                self._shape = Shape(None, (), (), "", "")
        return self._shape

    def find(self, chat: GuardedChat, untrained: Sequence[int] = ()) -> tuple[str, list[Span]]:
        """Render a guarded conversation.

        Args:
            chat: the conversation.
            untrained: the indices of the assistant turns that are not trained.

        Returns:
            The guarded text and the character ranges [start, end) that are trained, in order.

        Raises:
            DataError: the template refuses the conversation, or its turns cannot be told apart.
        """
        rendered = self._template.render_spans(chat.messages, tools=chat.tools)
        text = rendered.text
        turns = [i for i, message in enumerate(chat.messages) if message["role"] == "assistant"]
        if self._template.marks_generation:
            return text, self._trained_blocks(text, chat, turns, untrained, rendered.spans)
        starts = self._starts(text, chat, turns)
        spans = self._one_by_one(text, chat, turns) if starts is None else self._up_to_ends(text, chat, turns, starts)
        return text, [
            span for turn, span in zip(turns, spans, strict=True) if turn not in untrained and span[0] < span[1]
        ]

    def _up_to_ends(self, text: str, chat: GuardedChat, turns: Sequence[int], starts: Sequence[int]) -> list[Span]:
        """The spans of turns whose starts are known."""
        spans = []
        for turn, start, following in zip(turns, starts, [*starts[1:], len(text)], strict=True):
            end = self._end(text, chat, turn, start, following)
            if not (start < end or (start == end and not chat.messages[turn].get("content"))) or end > following:
                raise DataError(_UNMASKABLE)
            spans.append((start, end))
        return spans

    def _trained_blocks(
        self, text: str, chat: GuardedChat, turns: Sequence[int], untrained: Sequence[int], blocks: Sequence[Span]
    ) -> list[Span]:
        """The template's generation blocks of the turns that are trained."""
        if not untrained:
            return list(blocks)
        if len(blocks) == len(turns) and _each_holds(text, blocks, chat, turns):
            return [block for turn, block in zip(turns, blocks, strict=True) if turn not in untrained]
        context = self._context(text, chat, turns, untrained)
        return [block for block in blocks if not any(start < block[1] <= end for start, end in context)]

    def _context(self, text: str, chat: GuardedChat, turns: Sequence[int], untrained: Sequence[int]) -> list[Span]:
        """The ranges without training: from the first of consecutive untrained turns to the next trained one."""
        borders: list[int | None] = []
        for previous, turn in zip((None, *turns), turns, strict=False):
            was_trained, trains = previous is None or previous not in untrained, turn not in untrained
            if was_trained != trains:
                # Nothing is trained before the first turn, so its start need not be known.
                borders.append(0 if previous is None else self._prefix(text, chat, turn))
        found = [border for border in borders if border is not None]
        if len(found) < len(borders):
            raise DataError(f"{_UNMASKABLE} (the turns before a context turn are written differently without it)")
        ends = [*found, len(text)]
        return list(zip(ends[::2], ends[1::2], strict=False))

    def _starts(self, text: str, chat: GuardedChat, turns: Sequence[int]) -> list[int] | None:
        """The starts of turns by their prompts or their headers, or None if these do not tell all of them."""
        located = self._by_header(text, chat, turns) if len(turns) > MANY_TURNS else None
        if located is not None:
            return located
        starts = [self._prefix(text, chat, turn) for turn in turns]
        if None in starts:
            located = self._by_header(text, chat, turns)
            if located is None:
                return None
            starts = [by_header if start is None else start for start, by_header in zip(starts, located, strict=True)]
        header = self.shape.unprompted
        return [
            start + len(header) if header and text.startswith(header, start) else start
            for start in starts
            if start is not None
        ]

    def _prefix(self, text: str, chat: GuardedChat, turn: int) -> int | None:
        """The position at which the prompt for a turn ends, or None if the prompt is not a prefix of the text."""
        try:
            prompt = self._template.render(chat.messages[:turn], add_generation_prompt=True, tools=chat.tools)
        except DataError:
            # The whole conversation was rendered, so the template only refuses this beginning.
            return None
        return len(prompt) if text.startswith(prompt) else None

    def _by_header(self, text: str, chat: GuardedChat, turns: Sequence[int]) -> list[int] | None:
        for header in self.shape.headers:
            if text.count(header) != len(turns):
                continue
            starts = [self._after_opening(text, start) for start in _positions_after(text, header)]
            if _each_holds(text, list(zip(starts, [*starts[1:], len(text)], strict=True)), chat, turns):
                return starts
        return None

    def _after_opening(self, text: str, start: int) -> int:
        """The start of a turn whose header ends at `start`."""
        opening = self.shape.opening
        return start + len(opening) if text.startswith(opening, start) else start

    def _end(self, text: str, chat: GuardedChat, turn: int, start: int, following: int) -> int:
        """The end of a turn, whose text is somewhere between `start` and the start of the next one."""
        closed = self._closed(text, start, following)
        # A turn that calls tools may be closed by another token (Llama 3's <|eom_id|>), so it is checked separately.
        if closed and not chat.messages[turn].get("tool_calls") and not self._goes_on(text, closed[0], following):
            return closed[0]
        alone = self._as_last(chat, turn)
        if not alone or not text.startswith(alone):
            end = self._common_end(text, start, alone)
            end = closed[0] if end is None and closed else end
            return self._before_question(text, chat, turn, start) if end is None else end
        whole = [end for end in closed if end <= len(alone) and self._specials.blank(text[end : len(alone)])]
        if whole:
            return whole[0]
        last = self._specials.last_within(text, start, len(alone))
        # White space after the closing token belongs to the layout, not to the turn.
        return last if last is not None and not text[last : len(alone)].strip() else len(alone)

    def _closed(self, text: str, start: int, stop: int) -> list[int]:
        """The positions after the tokens in [start, stop) that may close a turn."""
        return sorted(place for token in self.shape.closings for place in _positions_after(text, token, start, stop))

    def _goes_on(self, text: str, end: int, following: int) -> bool:
        """Whether a turn has a further message (gpt-oss closes thoughts too): there is a header between an end of it
        and the start of the next turn, besides that turn's own."""
        headers = self.shape.headers
        return bool(headers) and text.count(headers[-1], end, following) > (following < len(text))

    def _one_by_one(self, text: str, chat: GuardedChat, turns: Sequence[int]) -> list[Span]:
        """The spans of turns some of which are several messages, and some of these left out before a later turn
        (gpt-oss): each begins behind the first header after the previous one."""
        spans: list[Span] = []
        header, place = (self.shape.headers or ("",))[-1], 0
        for turn in turns:
            found = text.find(header, place) if header else -1
            start = self._after_opening(text, found + len(header))
            end = None if found < 0 else self._common_end(text, start, self._as_last(chat, turn))
            if end is None:
                raise DataError(_UNMASKABLE)
            spans.append((start, end))
            place = end
        if header in text[place:]:
            raise DataError(_UNMASKABLE)
        return spans

    def _as_last(self, chat: GuardedChat, turn: int) -> str:
        """The conversation up to a turn, which may be written differently as the last one; empty if it is refused."""
        try:
            return self._template.render(chat.messages[: turn + 1], tools=chat.tools)
        except DataError:
            # The whole conversation was rendered; that this part of it is refused says nothing about the row.
            return ""

    def _common_end(self, text: str, start: int, alone: str) -> int | None:
        """The end of a turn that ends as it does where it is the last one, but for a closing token that may be another;
        None if there is no such end."""
        alone = alone.rstrip()
        words = alone[: (self._specials.starts(alone) or [0])[-1]]
        token, end = "", start
        while end == start or not alone.endswith(text[start:end]):
            if token in self.shape.closings and words.endswith(text[start : end - len(token)]):
                break
            following = self._specials.first_after(text, end)
            if following is None:
                return None
            token, end = following
        return end

    def _before_question(self, text: str, chat: GuardedChat, turn: int, start: int) -> int:
        """The start of the next question. It is the end of a turn that no token closes, and that is written differently
        when it is the last one (with its thoughts)."""
        asked = self.shape.question and [message["role"] for message in chat.messages[turn + 1 : turn + 2]] == ["user"]
        found = text.find(self.shape.question, start) if asked else -1
        if found < 0:
            raise DataError(_UNMASKABLE)
        return found


def _probe(template: ChatTemplate, specials: SpecialTokens, tools: Sequence[Mapping[str, Any]] | None) -> Shape:
    first = {"role": "user", "content": _USER[0]}
    chat = [first, {"role": "assistant", "content": _ANSWER[0]}]
    chat += [{"role": "user", "content": _USER[1]}, {"role": "assistant", "content": _ANSWER[1]}]
    text = template.render(chat, tools=tools)
    prompt = template.render([first], add_generation_prompt=True, tools=tools)
    unprompted = template.render([first], tools=tools) == prompt
    marks = [text.find(mark) for mark in (_USER[0], _ANSWER[0], _USER[1], _ANSWER[1])]
    if min(marks) < 0 or marks != sorted(marks) or _USER[0] not in prompt:
        # It prints contents in another form (escaped, in capitals): only prefixes can be relied on.
        return Shape(None, (), (), "", "")
    question1, answer1, question2, answer2 = marks
    offered = prompt[prompt.index(_USER[0]) + len(_USER[0]) :]
    between = (text[question1 + len(_USER[0]) : answer1], text[question2 + len(_USER[1]) : answer2])
    common = _common(_common(*between), offered)
    following = text[answer1 + len(_ANSWER[0]) : question2]
    end_token, closings = _closings(specials, text, (question1, answer1 + len(_ANSWER[0]), question2), offered)
    # If a special token after the common part is not in the generation prompt, it is the rest of the header, which is
    # not trained. Text alone is part of the answer (a blank, empty thoughts).
    missing = between[0][len(common) :]
    question = following if not closings and specials.spelled_in(following) else ""
    # The rest is only what the two turns share: the second may begin with more.
    rest = _common(missing, between[1][len(common) :])
    if unprompted and specials.spelled_in(missing):
        headers = _suffixes(specials, common + rest)
        return Shape(end_token, closings, headers, "", rest, question)
    headers, opening = _suffixes(specials, common), offered[len(common) :]
    skips = bool(headers and opening.strip()) and not between[1].startswith(opening, len(common))
    return Shape(end_token, closings, headers, opening, "", question, skips, _lead(specials, rest))


def _closings(
    specials: SpecialTokens, text: str, places: tuple[int, int, int], offered: str
) -> tuple[str | None, tuple[str, ...]]:
    """The fields `end_token` and `closings` of a shape.

    Args:
        specials: the special tokens.
        text: the rendered probe.
        places: the positions of its first question, after its first answer, and of its second question.
        offered: the generation prompt from behind the first question.
    """
    question, answered, next_question = places
    following, behind = text[answered:next_question], text[text.index(_ANSWER[1]) + len(_ANSWER[1]) :]
    middle, last = specials.first_after(text, answered), specials.first_after(behind, 0)
    if last is None or middle is None:
        return None, ()
    if middle[0] == last[0]:
        # Some templates close a turn by two tokens (Command R7B). The text after the last turn is not a next header.
        return last[0], (specials.first_run(_common(following, behind)),)
    # The end of a turn is not part of the next question's header, which the first question has as well.
    header = _common(following[::-1], text[:question][::-1])
    own = specials.first_after(following[: len(following) - len(header)], 0)
    own = own or _of_every_turn(specials, following, offered, text)
    return None, () if own is None else (own[0], last[0])


def _lead(specials: SpecialTokens, rest: str) -> str:
    """The field `lead` of a shape: the rest of a header, if it begins and ends with special tokens and has text."""
    enclosed = specials.starts(rest)[:1] == [0] and specials.last_within(rest, 0, len(rest)) == len(rest)
    return rest if enclosed and not specials.blank(rest) else ""


def _of_every_turn(specials: SpecialTokens, following: str, offered: str, text: str) -> tuple[str, int] | None:
    """The token that closes every turn, if the template's own text before the first question is closed by it too
    (gpt-oss). It follows both answers and questions, and no conversation begins with it."""
    own, first = specials.first_after(_common(following, offered), 0), specials.first_after(text, 0)
    return None if own is None or first is None or own[0] == first[0] else own


def _suffixes(specials: SpecialTokens, header: str) -> tuple[str, ...]:
    return tuple(header[start:] for start in specials.starts(header))


def _common(left: str, right: str) -> str:
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return left[:length]


def _positions_after(text: str, header: str, start: int = 0, stop: int | None = None) -> list[int]:
    positions = []
    found = text.find(header, start, stop)
    while found >= 0:
        positions.append(found + len(header))
        found = text.find(header, found + len(header), stop)
    return positions


def _each_holds(text: str, spans: Sequence[Span], chat: GuardedChat, turns: Sequence[int]) -> bool:
    """Check that the last line of each turn is in the text located for it. The text before it may be thoughts, which a
    template removes, even if they end within that line."""
    contents = [chat.messages[turn].get("content") or "" for turn in turns]
    lines = [content.rpartition("</think>")[2].strip().splitlines()[-1:] for content in contents]
    return all(not last or last[0].strip() in text[a:b] for (a, b), last in zip(spans, lines, strict=True))
