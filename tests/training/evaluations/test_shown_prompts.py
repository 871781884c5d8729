"""Samples during a run: what is asked, how the 3 % are kept, and that no byte of the run depends on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.models.tiny import rows, run_config, write_rows
from veneer.assistant.assistant import Assistant
from veneer.assistant.load import open_assistant
from veneer.config import ComputeSection
from veneer.data.encoded.chat import Example
from veneer.data.records import read_records
from veneer.enums import Dtype
from veneer.errors import ConfigError
from veneer.events import Event, Note, SamplesAnswered
from veneer.generation.sampling import Sampling
from veneer.training.evaluations import shown_prompts
from veneer.training.evaluations.shown_prompts import NEW_TOKENS, SamplePrompt, ShownPrompts, named_prompts, row_prompts
from veneer.training.folder.progress import Progress
from veneer.training.run import train

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)


@pytest.fixture(scope="module")
def assistant(tiny_model: Path) -> Assistant:
    return open_assistant(str(tiny_model), compute=FLOAT32)


def test_rows_ask_what_stands_before_their_last_answer(assistant: Assistant, tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "the crate?"}, {"role": "assistant", "content": "blue"},
        {"role": "user", "content": "the parcel?"}, {"role": "assistant", "content": "late"},
    ]  # fmt: skip
    file = write_rows(tmp_path / "rows.jsonl", [{"messages": messages}, {"text": "the parcel is late " * 9}])
    examples = [assistant.encoder.encode(record) for record in read_records(str(file))]
    chat, text = row_prompts(examples, assistant.tokenizer, 4096)
    assert list(chat.tokens) == assistant.encoder.prompt_tokens(messages[:3])
    assert "the parcel?" in chat.text
    assert text.tokens == tuple(examples[1].tokens[:16].tolist())
    # Prompts and answers together have no more tokens than there is room for, but for the first.
    assert row_prompts(examples, assistant.tokenizer, len(chat.tokens) + NEW_TOKENS) == [chat]
    long = Example(np.ones(2000, dtype=np.int32), np.arange(2000) > 1000, "f:1")
    assert row_prompts([long], assistant.tokenizer, 4096) == []
    assert named_prompts(["late?"], assistant.encoder)[0].tokens == tuple(
        assistant.encoder.prompt_tokens([{"role": "user", "content": "late?"}])
    )


class Clock:
    """Time that passes only where a test says so: each answered token takes `pace` seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pace: float) -> None:
        self.now, self.pace, self.made = 0.0, pace, 0
        monkeypatch.setattr(shown_prompts, "answer_all", self.answer)

    def __call__(self) -> float:
        return self.now

    def answer(self, model: Any, requests: Sequence[Any], *, stop: Any) -> list[list[int]]:
        made = 0
        while made < NEW_TOKENS:
            self.now += self.pace
            made += 1
            if made < NEW_TOKENS and stop():
                break
        return [[5] * made for _ in requests]


def run_through(
    assistant: Assistant, clock: Clock, *, steps: int, seconds: float, every: int
) -> tuple[list[SamplesAnswered], list[str]]:
    """Steps of so many seconds, with samples between them."""
    seen: list[Event] = []
    shown = ShownPrompts(
        model=assistant.model, prompts=[SamplePrompt("p", (1, 2, 3))], tokenizer=assistant.tokenizer,
        stop_ids=frozenset(), every=every, last_step=steps, emit=seen.append, clock=clock,
    )  # fmt: skip
    for step in range(1, steps + 1):
        clock.now += seconds
        progress = Progress(step=step, tokens=1000 * step, seconds=seconds * step)
        shown.after_step(progress, clock.now)
    answered = [event for event in seen if isinstance(event, SamplesAnswered)]
    return answered, [event.message for event in seen if isinstance(event, Note)]


@pytest.mark.parametrize("pace", [0.0001, 0.002, 0.01, 0.1])
def test_samples_take_at_most_three_percent_of_the_time(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch, pace: float
) -> None:
    clock = Clock(monkeypatch, pace)
    found, _ = run_through(assistant, clock, steps=400, seconds=1.0, every=10)
    assert found
    spent = 0.0
    for event in found:
        spent += event.seconds
        # One token more than there was time for.
        assert event.share <= 0.03 + pace / 10
    assert spent / clock.now <= 0.03 + pace / clock.now
    fast = 64 * pace < 0.03 * 10
    if fast:
        assert [event.step for event in found] == list(range(10, 401, 10))
        assert not any(event.cut_short for event in found)
    else:
        assert len(found) < 40
        assert found[0].cut_short
        assert not any(event.cut_short for event in found[1:])


def test_a_run_too_short_for_samples_says_so(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 1.0)
    found, notes = run_through(assistant, clock, steps=2, seconds=1e-9, every=1)
    assert len(found) == 1  # its prompt was read, and its answer ended after a token
    assert found[0].cut_short
    assert notes == []
    monkeypatch.setattr(shown_prompts, "SHARE", 0.0)
    found, notes = run_through(assistant, clock, steps=2, seconds=1.0, every=1)
    assert found == []
    assert "more than 0% of the time" in notes[0]


def test_the_bytes_of_a_run_are_those_without_samples_also_where_it_is_resumed(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown_prompts, "SHARE", math.inf)  # every sample is made, whatever this machine is busy with
    data = write_rows(tmp_path / "rows.jsonl", rows(24))
    settings = ("train.steps=12", "lora.dropout=0.1", "data.held_out=0.2", "train.eval_every=4", "train.keep=9")
    every = (*settings, "train.samples_every=3")
    plain = train(run_config(tiny_model, data, tmp_path / "plain", *settings))
    seen: list[Event] = []
    sampled = train(run_config(tiny_model, data, tmp_path / "sampled", *every), emit=seen.append)
    found = [event for event in seen if isinstance(event, SamplesAnswered)]
    assert [event.step for event in found] == [3, 6, 9, 12]
    weights = "adapter_model.safetensors"
    expected = (plain.output / weights).read_bytes()
    assert (sampled.output / weights).read_bytes() == expected
    # The last samples are the answers of the trained model.
    assistant = open_assistant(str(tiny_model), adapter=sampled.output, compute=FLOAT32)
    sampling = Sampling(max_new_tokens=NEW_TOKENS)
    asked = [prompt.removeprefix("user\n").removesuffix("\nassistant") for prompt in found[-1].prompts]
    answers = assistant.answers([[{"role": "user", "content": text.strip()}] for text in asked], sampling)
    assert list(found[-1].answers) == answers
    stopped = run_config(tiny_model, data, tmp_path / "resumed", *every)
    count = iter(range(99))
    with pytest.raises(Exception, match="stopped after step 5"):
        train(stopped, stop=lambda: next(count) == 4)
    # Samples may be asked for, or no longer, when a run goes on.
    resumed = train(run_config(tiny_model, data, tmp_path / "resumed", *settings), resume=True)
    assert (resumed.output / weights).read_bytes() == expected


def test_prompts_of_the_configuration_are_asked_and_need_a_number_of_steps(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown_prompts, "SHARE", math.inf)
    named = ("train.steps=2", 'train.sample_prompts=["late?", "what?"]')
    seen: list[Event] = []
    run = run_config(tiny_model, tiny_data, tmp_path / "run", *named, "train.samples_every=2")
    train(run, emit=seen.append)
    (event,) = [event for event in seen if isinstance(event, SamplesAnswered)]
    assert event.prompts == ("late?", "what?")
    assert len(event.answers) == 2
    with pytest.raises(ConfigError, match=r"train\.sample_prompts are answered every train\.samples_every"):
        train(run_config(tiny_model, tiny_data, tmp_path / "other", *named))
