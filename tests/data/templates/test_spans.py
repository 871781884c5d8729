"""Turns are found in this process as in the template's own, and in time that grows with their number."""

from __future__ import annotations

import time

import pytest

from helpers.texts import chat_templates as ct
from veneer.data.encoded.chat import template_of
from veneer.data.templates.bounded_template import BoundedTemplate
from veneer.data.templates.escape import GuardedChat, SpecialTokens
from veneer.data.templates.spans import TurnFinder
from veneer.data.templates.template import ChatTemplate
from veneer.errors import DataError
from veneer.io.tokenizer import Tokenizer


def finder(tokenizer: Tokenizer) -> TurnFinder:
    template = ChatTemplate(tokenizer.chat_template or "", bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token)
    return TurnFinder(template, SpecialTokens(tokenizer.special_tokens, tokenizer.aliases))


def conversation(count: int) -> GuardedChat:
    turns = [(role, f"turn {n}") for n in range(count) for role in ("user", "assistant")]
    return GuardedChat(tuple({"role": role, "content": text} for role, text in turns), None, changed=False)


def test_a_long_chat_is_not_quadratic() -> None:
    """Four times as many turns take less than ten times as long (quadratic: sixteen), in processor time."""
    found = finder(ct.tokenizer("chatml"))

    def seconds(count: int) -> float:
        chat = conversation(count)
        start = time.process_time()
        _, spans = found.find(chat)
        spent = time.process_time() - start
        assert len(spans) == count
        return spent

    assert min(seconds(400) for _ in range(3)) < 10 * min(seconds(100) for _ in range(3))


@pytest.mark.parametrize("name", list(ct.TEMPLATES))
@pytest.mark.parametrize("untrained", [(), (1,), (3,)])
def test_the_process_finds_what_this_one_does(name: str, untrained: tuple[int, ...]) -> None:
    """The oracle is the finder without a process, its clocks and its JSON."""
    tokenizer = ct.tokenizer(name)
    template, here = template_of(tokenizer), finder(tokenizer)
    assert template is not None
    assert template.shape == here.shape
    for count in (1, 2, 12):
        chat = conversation(count)
        chosen = tuple(index for index in untrained if index < 2 * count - 1)
        assert outcome(template, chat, chosen) == outcome(here, chat, chosen)


def outcome(finder: TurnFinder | BoundedTemplate, chat: GuardedChat, untrained: tuple[int, ...]) -> object:
    try:
        return finder.find(chat, untrained)
    except DataError as error:
        return str(error)
