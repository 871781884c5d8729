"""Many questions under many adapters: the answer of each alone, in order, and once however often a job is stopped."""

from __future__ import annotations

import json
from array import array
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.adapters.peft_folders import write_adapter
from veneer.adapters.adapter import remove
from veneer.adapters.beside import load_beside
from veneer.answering import file_job as batch
from veneer.answering.file_job import answer_file
from veneer.assistant.assistant import Assistant
from veneer.assistant.prompts import turns
from veneer.assistant.questions import FileQuestion
from veneer.config import QuantSection
from veneer.errors import AdapterError, ConfigError, DataError
from veneer.events import Event, Level, Note, StageBegun, ignore
from veneer.generation.batch import generate
from veneer.generation.request import GenerationResult
from veneer.generation.sampling import Sampling
from veneer.loading.base_form import BaseForm
from veneer.model.decoder import CausalLM

GREEDY = Sampling(max_new_tokens=6)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, assistant: Assistant) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    model = assistant.model
    assert isinstance(model, CausalLM)
    for name, rank in (("red", 2), ("green", 5)):
        (folder / name).mkdir()
        remove(model, write_adapter(folder / name, model, rank=rank))
    model.requires_grad_(False).eval()
    return folder


def questions(count: int) -> list[FileQuestion]:
    names = [None, "red", "green"]
    texts = [f"{number}: where is parcel {number % 7}?" for number in range(count)]
    return [FileQuestion(text, turns(None, text), names[number % 3]) for number, text in enumerate(texts)]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answered(
    assistant: Assistant,
    asked: Sequence[FileQuestion],
    output: Path,
    adapters: Path | None,
    sampling: Sampling = GREEDY,
) -> list[dict[str, object]]:
    answer_file(assistant, asked, output, sampling, adapters=adapters, job={"input": "x"}, emit=ignore)
    return lines(output)


def test_every_row_gets_its_own_adapters_answer_in_order(assistant: Assistant, adapters: Path, tmp_path: Path) -> None:
    asked = questions(12)
    found = answered(assistant, asked, tmp_path / "out.jsonl", adapters)
    assert [line["row"] for line in found] == list(range(12))
    assert [line.get("adapter") for line in found] == [one.adapter for one in asked]
    for name in (None, "red", "green"):
        model = assistant.model if name is None else load_beside(assistant.model, adapters / name)[0]
        own = [one for one in asked if one.adapter == name]
        prompts = [assistant.encoder.prompt_tokens(one.messages) for one in own]
        tokens = generate(model, prompts, sampling=GREEDY, stop_ids=assistant.stop_ids)
        texts = [assistant.tokenizer.decode(answer) for answer in tokens]
        assert [line["answer"] for line in found if line.get("adapter") == name] == texts
    assert len({str(line["answer"]) for line in found}) > 3


def test_a_job_that_was_stopped_writes_what_it_would_have_written(
    assistant: Assistant, adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "MOST_ROWS_AHEAD", 4)
    sampling = Sampling(max_new_tokens=5, temperature=1.2, seed=3)
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    answered(assistant, questions(10), whole, adapters, sampling)
    answered(assistant, questions(10), part, adapters, sampling)
    for stop in (0, 1, 120, whole.stat().st_size - 3):
        part.write_bytes(whole.read_bytes()[:stop])
        said: list[Event] = []
        result = answer_file(
            assistant, questions(10), part, sampling, adapters=adapters, job={"input": "x"}, emit=said.append
        )
        assert part.read_bytes() == whole.read_bytes()
        assert (result.rows, result.before) == (10, whole.read_bytes()[:stop].count(b"\n"))
        assert any(isinstance(event, Note) and "going on after" in event.message for event in said) == bool(
            result.before
        )


def test_an_adapter_that_is_larger_than_the_usual_room_answers_too(
    assistant: Assistant, adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answered(assistant, questions(6), tmp_path / "expected.jsonl", adapters)
    monkeypatch.setattr(batch, "DEFAULT_MEMORY_BYTES", 1)  # no option of `veneer generate` could give more
    assert answered(assistant, questions(6), tmp_path / "out.jsonl", adapters) == expected


def test_prompts_take_four_bytes_a_token_and_making_them_is_told(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(
        assistant: Assistant, asked: object, prompts: dict[int, array[int]], *rest: object
    ) -> Generator[tuple[int, GenerationResult], None, None]:
        kept.append(prompts)
        yield from ()

    kept: list[dict[int, array[int]]] = []
    monkeypatch.setattr(batch, "_answers", answers)
    said: list[Event] = []
    asked = [replace(one, adapter=None) for one in questions(4)]
    answer_file(assistant, asked, tmp_path / "out.jsonl", GREEDY, job={}, emit=said.append)
    assert [prompt.itemsize for prompt in kept[0].values()] == [4] * 4
    assert [list(prompt) for prompt in kept[0].values()] == [
        assistant.encoder.prompt_tokens(one.messages) for one in asked
    ]
    begun = [(event.stage, event.total) for event in said if isinstance(event, StageBegun)]
    assert begun == [("tokenising rows", 4), ("answering", 4)]


def test_a_job_over_the_base_in_other_codes_is_another_one(assistant: Assistant, tmp_path: Path) -> None:
    quantised = replace(assistant, form=BaseForm(QuantSection(), torch.bfloat16))
    output, note = tmp_path / "out.jsonl", tmp_path / "out.jsonl.job"
    answered(quantised, questions(1), output, None)
    with pytest.raises(ConfigError, match=r"held: 'nf4, .*', now 'not quantised"):
        answered(assistant, questions(1), output, None)
    older = {name: fact for name, fact in json.loads(note.read_text()).items() if name != "held"}
    note.write_text(json.dumps(older))
    assert len(answered(assistant, questions(1), output, None)) == 1, "the note of an older job does not say it"


def test_adapters_that_are_not_there_are_refused_before_anything_is_answered(
    assistant: Assistant, adapters: Path, tmp_path: Path
) -> None:
    asked = [FileQuestion("?", turns(None, "?"), name) for name in ("gren", "blue", None)]
    with pytest.raises(AdapterError, match=r"'blue'\n.*'gren' .did you mean 'green'"):
        answered(assistant, asked, tmp_path / "out.jsonl", adapters)
    with pytest.raises(ConfigError, match="--adapters"):
        answered(assistant, asked, tmp_path / "out.jsonl", None)
    assert not (tmp_path / "out.jsonl").exists()


def test_an_adapter_whose_files_are_damaged_ends_the_job_and_keeps_what_was_answered(
    assistant: Assistant, adapters: Path, tmp_path: Path
) -> None:
    own = tmp_path / "adapters"
    for name in ("red", "green"):
        (own / name).mkdir(parents=True)
        for file in (adapters / name).iterdir():
            (own / name / file.name).write_bytes(file.read_bytes())
    damaged = own / "green" / "adapter_model.safetensors"
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-8])
    with pytest.raises(AdapterError, match=r"(?s)row 2: .*green.*\nThe answers before it are kept"):
        answered(assistant, questions(6), tmp_path / "out.jsonl", own)
    assert [line["row"] for line in lines(tmp_path / "out.jsonl")] == [0, 1]


def filling(assistant: Assistant, room: int) -> FileQuestion:
    """A question that leaves room for so many tokens in the model's context."""
    context, text = assistant.model.spec.max_positions, ""
    while (size := len(assistant.encoder.prompt_tokens(turns(None, text)))) < context - room:
        text += "?" * max(1, (context - room - size) // 2)
    assert size == context - room
    return FileQuestion(text, turns(None, text), None)


def test_questions_that_leave_no_room_for_an_answer_are_refused_before_the_first_answer(
    assistant: Assistant, tmp_path: Path
) -> None:
    context, output = assistant.model.spec.max_positions, tmp_path / "out.jsonl"
    asked = [*questions(1), filling(assistant, 0), *questions(1), filling(assistant, -5)]
    with pytest.raises(DataError, match=rf"context has {context} .*\n.*row 1: {context} .*\n.*row 3: {context + 5} "):
        answered(assistant, asked, output, None)
    assert list(tmp_path.iterdir()) == []  # the same output takes the answers once the questions are shorter
    with pytest.raises(ConfigError, match=f"max_new_tokens: {context + 1}"):
        answered(assistant, questions(1), output, None, Sampling(max_new_tokens=context + 1))


def test_answers_end_where_the_context_does_with_a_warning_of_their_rows(assistant: Assistant, tmp_path: Path) -> None:
    asked = [*questions(1), filling(assistant, 2)]
    endless = Sampling(max_new_tokens=6, logit_bias=dict.fromkeys(assistant.stop_ids, -100.0))
    said: list[Event] = []
    answer_file(assistant, asked, tmp_path / "out.jsonl", endless, job={}, emit=said.append)
    (tokens,) = generate(
        assistant.model,
        [assistant.encoder.prompt_tokens(asked[1].messages)],
        sampling=replace(endless, max_new_tokens=2),
        stop_ids=assistant.stop_ids,
        streams=[1],
    )
    found = lines(tmp_path / "out.jsonl")[1]
    assert (found["answer"], found["finish"]) == (assistant.tokenizer.decode(tokens), "length")
    assert len(tokens) == 2
    (warning,) = [one.message for one in said if isinstance(one, Note) and one.level is Level.WARNING]
    assert "answers end where the model's context" in warning
    assert "row 1" in warning
    assert "row 0" not in warning


def test_answers_of_before_stay_where_a_later_question_is_too_long(assistant: Assistant, tmp_path: Path) -> None:
    output, asked = tmp_path / "out.jsonl", [filling(assistant, 0), *questions(1)]
    answered(assistant, questions(2)[:1] * 2, output, None)
    first = output.read_bytes().split(b"\n")[0] + b"\n"
    output.write_bytes(first)  # as an earlier version has answered the first question
    assert [line["row"] for line in answered(assistant, asked, output, None)] == [0, 1]
    output.write_bytes(first)
    with pytest.raises(DataError, match="row 1: "):
        answered(assistant, [*questions(1), filling(assistant, 0)], output, None)
    assert output.read_bytes() == first


def test_lines_beyond_the_questions_are_refused(assistant: Assistant, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    answered(assistant, questions(2)[:1], output, None)
    with output.open("a") as file:
        file.write('{"row": 1}\n')
    with pytest.raises(DataError, match=r"line 2: is the answer to none of 1 row; give another file"):
        answered(assistant, questions(1), output, None)
