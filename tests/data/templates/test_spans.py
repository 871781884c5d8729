"""Turns are found in this process as in the template's own, and long chats are rendered as often as shorter ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from helpers.texts import chat_templates as ct
from veneer.data.encoded.chat import template_of
from veneer.data.templates.bounded_template import BoundedTemplate
from veneer.data.templates.escape import GuardedChat, SpecialTokens
from veneer.data.templates.spans import TurnFinder
from veneer.data.templates.template import ChatTemplate, Rendering
from veneer.errors import DataError
from veneer.io.tokenizer import Tokenizer


def finder(tokenizer: Tokenizer) -> TurnFinder:
    template = ChatTemplate(tokenizer.chat_template or "", bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token)
    return TurnFinder(template, SpecialTokens(tokenizer.special_tokens, tokenizer.aliases))


def conversation(count: int) -> GuardedChat:
    turns = [(role, f"turn {n}") for n in range(count) for role in ("user", "assistant")]
    return GuardedChat(tuple({"role": role, "content": text} for role, text in turns), None, changed=False)


def test_a_long_chat_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendering it once for each turn would take time that grows with the square of its length."""
    found, rendered = finder(ct.tokenizer("chatml")), []
    assert found.shape.headers
    render = ChatTemplate.render_spans

    def counted(template: ChatTemplate, messages: Sequence[dict[str, Any]], **more: Any) -> Rendering:
        rendered.append(len(messages))
        return render(template, messages, **more)

    monkeypatch.setattr(ChatTemplate, "render_spans", counted)
    _, spans = found.find(conversation(100))
    assert len(spans) == 100
    assert rendered == [200]


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
