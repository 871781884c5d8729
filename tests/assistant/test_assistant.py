"""Answers that are decoded together are those that come alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import run_config
from veneer.assistant import assistant as assistant_module
from veneer.assistant.load import open_assistant
from veneer.assistant.prompts import turns
from veneer.config import ComputeSection
from veneer.data.encoded.encoding import encoder_of
from veneer.enums import Dtype
from veneer.errors import DataError
from veneer.events import Note
from veneer.generation.batch import OnToken
from veneer.generation.context import cut_warning
from veneer.generation.sampling import Sampling
from veneer.training.run import train

COMPUTE = ComputeSection(device="cpu", dtype=Dtype.FLOAT32)


def test_answers_made_together_are_the_streamed_ones(tiny_model: Path) -> None:
    assistant = open_assistant(tiny_model, compute=COMPUTE)
    asked = [turns(None, text) for text in ("Where is it?", "When? " * 9, "x")]
    greedy = Sampling(max_new_tokens=6)
    pieces = list[str]()
    alone = [assistant.stream(one, greedy, pieces.append) for one in asked]
    assert assistant.answers(asked, greedy) == alone
    assert "".join(pieces) == "".join(alone)


CHANNELS = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ '<|im_start|>assistant<|endoftext|>final<|im_start|>' + m['content'] + '<|im_end|>' }}"
    "{% else %}{{ '<|im_start|>' + m['role'] + '<|im_start|>' + m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("<|endoftext|>final<|im_start|>Here.", "Here."),
        ("<|endoftext|>analysis<|im_start|>hm<|im_start|>assistant<|endoftext|>final<|im_start|>Here.", "Here."),
        ("<|endoftext|>analysis<|im_start|>hm", "analysishm"),
        ("Here.", "Here."),
    ],
)
def test_the_text_of_an_answer_is_that_behind_the_name_of_its_channel(
    said: str, text: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As gpt-oss writes its answers."""
    assistant = open_assistant(tiny_model, compute=COMPUTE)
    tokenizer = replace(assistant.tokenizer, chat_template=CHANNELS)
    assistant.tokenizer, assistant.encoder = tokenizer, encoder_of(tokenizer)
    tokens = tokenizer.encode(said)

    def answer(model: Any, prompts: Sequence[Any], *, on_token: OnToken = lambda row, token: None, **_: Any) -> Any:
        for token in tokens:
            on_token(0, token)
        return [tokens for _ in prompts]

    monkeypatch.setattr(assistant_module, "generate", answer)
    asked = turns(None, "Where?")
    assert assistant.answers([asked], Sampling()) == [text]
    pieces = list[str]()
    assert assistant.stream(asked, Sampling(), pieces.append) == "".join(pieces) == text


def test_within_the_block_the_model_is_its_base(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    settings = ("train.steps=2", "train.learning_rate=0.3", "compute.dtype=float32")
    run = train(run_config(tiny_model, tiny_data, tmp_path / "run", *settings))
    base, own = (open_assistant(tiny_model, adapter=one, compute=COMPUTE) for one in (None, run.output))
    asked, greedy = [turns(None, "Where is it?")], Sampling(max_new_tokens=8)
    with base.as_base(), own.as_base(), own.as_base():
        assert own.answers(asked, greedy) == base.answers(asked, greedy)
    assert own.answers(asked, greedy) != base.answers(asked, greedy)


def test_prompts_without_room_are_refused_and_answers_that_the_context_cuts_are_told(tiny_model: Path) -> None:
    assistant = open_assistant(tiny_model, compute=COMPUTE)
    context, notes = assistant.model.spec.max_positions, list[Note]()
    assert context is not None
    with pytest.raises(DataError, match="prompt 2"):
        assistant.answers([turns(None, "x"), turns(None, "x " * context)], Sampling(max_new_tokens=2))
    endless = Sampling(max_new_tokens=context)
    assistant.stop_ids = frozenset()
    assistant.stream(turns(None, "x"), endless, print, subscribers=[lambda one: notes.append(one)])  # type: ignore[arg-type]
    assert [one.message for one in notes if isinstance(one, Note)] == [cut_warning([], context)]
    with pytest.raises(DataError, match=r"no room .*\n  - the prompt, with all that was said: [\d,]+ tokens"):
        assistant.stream(turns(None, "x " * context), endless, print)
