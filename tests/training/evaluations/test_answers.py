"""Evaluations compared by answers: they are those of `veneer evaluate`, and no byte of the run depends on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.models.tiny import rows, run_config, tree, write_rows
from helpers.rows.preference_rows import pairs
from helpers.run_folders.run_logs import read_events
from veneer.assistant.assistant import Assistant
from veneer.assistant.load import open_assistant
from veneer.config import ComputeSection
from veneer.data.records import read_records
from veneer.enums import Dtype, Method
from veneer.errors import ConfigError, Interrupted, OutOfMemory
from veneer.evaluation.metrics.choose import named_metrics
from veneer.evaluation.rows import EXTRA_TOKENS, prepare, score_model
from veneer.events import Event, Note, ignore
from veneer.generation import engine
from veneer.generation.batch import answer_all
from veneer.generation.blocks import BlockGroup, BlockPool
from veneer.generation.scheduler import BLOCK_TOKENS
from veneer.generation.share import Blank, WholeShare, nothing
from veneer.reproduction.run import reproduce
from veneer.run_records.find import open_run
from veneer.training.evaluations import answers
from veneer.training.evaluations.answers import MeasuredAnswers, asked_rows, metric_on
from veneer.training.evaluations.best import ANSWERS, BestBy
from veneer.training.joint import prepare_joint
from veneer.training.run import train
from veneer.training.session import RunResult

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)
MEASURED = [name for name in ANSWERS if name not in ("bleu", "chrf")]


def by(metric: str) -> BestBy:
    return BestBy(metric, ANSWERS[metric], higher=True)


def numbered_rows(count: int) -> list[dict[str, Any]]:
    """Conversations that end in one of two numbers, which fit every metric but `json`."""
    turns = [row["messages"][0] for row in rows(count)]
    return [{"messages": [turn, {"role": "assistant", "content": str(place % 2)}]} for place, turn in enumerate(turns)]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> RunResult:
    """A run that learns to answer with a number, so that metrics lie between nothing and all."""
    folder = tmp_path_factory.mktemp("learned")
    data = write_rows(folder / "rows.jsonl", numbered_rows(24))
    return train(run_config(tiny_model, data, folder / "run", "train.steps=15", "train.learning_rate=0.02"))


@pytest.fixture(scope="module")
def assistant(learned: RunResult, tiny_model: Path) -> Assistant:
    return open_assistant(str(tiny_model), adapter=learned.output, compute=FLOAT32)


def answering(assistant: Assistant, file: Path, metric: str, told: Callable[[Event], None] = ignore) -> MeasuredAnswers:
    asked = asked_rows([assistant.encoder.encode(one) for one in read_records(str(file))], assistant.tokenizer)
    return MeasuredAnswers(
        model=assistant.model, rows=asked, metric=metric_on(by(metric), asked), tokenizer=assistant.tokenizer,
        stop_ids=assistant.stop_ids, room=200, emit=told,
    )  # fmt: skip


@pytest.mark.parametrize("metric", MEASURED)
def test_the_measures_are_those_of_an_evaluation(metric: str, assistant: Assistant, tmp_path: Path) -> None:
    content = rows(12) if metric == "json" else numbered_rows(12)
    file = write_rows(tmp_path / "rows.jsonl", content)
    measured = answering(assistant, file, metric).measure()
    prepared = prepare(assistant, list(read_records(str(file))))
    expected = {
        one.name: one.total
        for one in score_model(assistant, prepared, named_metrics([metric]), emit=ignore, who="model").measures
    }
    assert measured is not None
    assert ANSWERS[metric] in measured
    assert measured == {name: expected[name] for name in measured}


class Half(WholeShare):
    """Every other row; the others are what they are told to be."""

    def __init__(self, first: int, others: Sequence[Any]):
        self.start, self.others, self.found = first, others, list[Any]()

    def own(self, items: int) -> range:
        return range(self.start, items, 2)

    def all(self, found: Sequence[Any], items: int, blank: Blank = nothing) -> list[Any]:
        self.found = list(found)
        whole: list[Any] = [None] * items
        whole[self.start :: 2], whole[1 - self.start :: 2] = found, self.others
        return whole


def test_processes_that_share_the_rows_measure_what_one_does(assistant: Assistant, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", numbered_rows(9))
    whole = answering(assistant, file, "number")
    second = Half(1, [None] * 5)  # a signal has ended the other process's part
    assert replace(whole, share=second).measure() is None
    assert len(second.found) == 4
    assert replace(whole, share=Half(0, second.found)).measure() == whole.measure()


def test_rows_ask_what_an_evaluation_asks(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [
        {"role": "user", "content": "the crate?"}, {"role": "assistant", "content": "blue"},
        {"role": "user", "content": "the parcel?"}, {"role": "assistant", "content": "is late"},
    ]  # fmt: skip
    content = [{"messages": turns}, {"text": "the parcel is late"}, {"prompt": "late?", "completion": " no"}]
    records = list(read_records(str(write_rows(tmp_path / "rows.jsonl", content))))
    asked = asked_rows([assistant.encoder.encode(one) for one in records], assistant.tokenizer)
    expected = [one for one in prepare(assistant, records).questions if one is not None]
    assert [(one.prompt, one.reference.strip()) for one in asked] == [
        (one.prompt, one.reference.strip()) for one in expected
    ]
    assert len(asked) == 2
    monkeypatch.setattr("veneer.training.evaluations.answers.MOST", 1)
    assert len(asked_rows([assistant.encoder.encode(one) for one in records], assistant.tokenizer)) == 1


SETTINGS = ("data.held_out=0.3", "train.steps=20", "train.eval_every=2", "train.save_every=2", "train.keep=20",
            "train.learning_rate=0.03", "train.schedule=constant")  # fmt: skip


def evaluations(run: Path) -> list[dict[str, Any]]:
    """What the run's evaluations measured; where a resumed run made one twice, the later one."""
    kept = ("step", "loss", "best", "best_by", "metrics")
    found = [event for event in read_events(run / "events.jsonl") if event["event"] == "Evaluated"]
    return list({event["step"]: {key: event[key] for key in kept} for event in found}.values())


def test_a_run_publishes_the_weights_with_the_best_answers_and_its_bytes_are_those_of_any_run(
    tiny_model: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", numbered_rows(24))
    plain = train(run_config(tiny_model, data, tmp_path / "plain", *SETTINGS))
    seen: list[Event] = []
    asked = (*SETTINGS, "train.best_metric=exact", "train.publish=best")
    run = train(run_config(tiny_model, data, tmp_path / "run", *asked), emit=seen.append)
    found = evaluations(run.output)
    assert [one["loss"] for one in found] == [one["loss"] for one in evaluations(plain.output)]
    for step in range(2, 21, 2):
        one, other = (tree(tmp_path / name / "checkpoints" / f"step-{step:06d}") for name in ("run", "plain"))
        assert one["adapter_model.safetensors"] == other["adapter_model.safetensors"]
        assert one["optimizer.safetensors"] == other["optimizer.safetensors"]
    shares = [one["metrics"]["exact"] for one in found]
    best = found[shares.index(max(shares))]["step"]
    assert 0 < max(shares) > shares[0]
    assert run.progress.best_step == best
    assert run.progress.best_value == max(shares)
    assert (run.output / "adapter_model.safetensors").read_bytes() == (
        run.output / "checkpoints" / f"step-{best:06d}" / "adapter_model.safetensors"
    ).read_bytes()
    said = [one.message for one in seen if isinstance(one, Note)]
    assert "train.best_metric exact: every evaluation answers 7 evaluation rows" in said
    assert best < 20
    assert any(f"the weights after step {best}, by train.publish: exact" in one for one in said)
    record, _, _ = open_run(run.output)
    assert (record.best_step, record.best_by, record.best_value) == (best, "exact", max(shares))
    assert record.best_loss == next(one["loss"] for one in found if one["step"] == best)
    assert json.loads((run.output / "summary.json").read_text())["best_value"] == max(shares)
    assert reproduce(run.output).same


def test_a_run_by_answers_that_was_stopped_goes_on_as_if_it_had_not_been(tiny_model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", numbered_rows(24))
    settings = (*SETTINGS, "train.best_metric=number", "train.patience=3")
    whole = train(run_config(tiny_model, data, tmp_path / "whole", *settings))
    config = run_config(tiny_model, data, tmp_path / "run", *settings)
    steps = 0

    def after_seven() -> bool:
        nonlocal steps
        steps += 1
        return steps == 7

    with pytest.raises(Interrupted):
        train(config, stop=after_seven)
    resumed = train(config, resume=True)
    assert evaluations(resumed.output) == evaluations(whole.output)
    assert tree(resumed.output)["adapter_model.safetensors"] == tree(whole.output)["adapter_model.safetensors"]
    for name in ("step", "best_step", "best_value", "stale_evaluations"):
        assert getattr(resumed.progress, name) == getattr(whole.progress, name)


def test_a_signal_between_two_tokens_ends_the_evaluation_which_is_made_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", numbered_rows(24))
    short = (*SETTINGS, "train.best_metric=exact", "train.steps=4")
    config = run_config(tiny_model, data, tmp_path / "run", *short)
    asked = 0

    def signalled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 1

    with monkeypatch.context() as patched:
        patched.setattr(answers, "stop_signalled", signalled)
        with pytest.raises(Interrupted):
            train(config)
    assert evaluations(tmp_path / "run") == []
    train(config, resume=True)
    whole = train(run_config(tiny_model, data, tmp_path / "whole", *short))
    assert evaluations(tmp_path / "run") == evaluations(whole.output)


def test_full_memory_answers_fewer_rows_side_by_side(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", numbered_rows(4))
    expected = answering(assistant, file, "exact").measure()
    room, seen = 1, []

    def small(model: Any, requests: Sequence[Any], *, batch_rows: int, **others: Any) -> list[list[int]]:
        if batch_rows > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer_all(model, requests, batch_rows=batch_rows, **others)

    monkeypatch.setattr(answers, "answer_all", small)
    assert answering(assistant, file, "exact", seen.append).measure() == expected
    assert [one.message for one in seen if isinstance(one, Note)][-1].startswith("the memory is full: answering ")
    room = 0
    with pytest.raises(OutOfMemory, match=r"train\.best_metric loss needs no answers"):
        answering(assistant, file, "exact").measure()


def test_answers_cache_no_more_than_the_rows_side_by_side_need(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan of a run does not include a cache of rows that have ended."""
    pools = []

    class Pool(BlockPool):
        def __init__(self, groups: Sequence[BlockGroup], budget: int):
            super().__init__(groups, budget)
            pools.append(self)

    measured = answering(assistant, write_rows(tmp_path / "rows.jsonl", numbered_rows(40)), "exact")
    monkeypatch.setattr(engine, "BlockPool", Pool)
    measured.measure()
    (pool,) = pools
    longest = max(len(row.prompt) + row.tokens for row in measured.rows) + EXTRA_TOKENS
    side_by_side = measured.room // longest
    assert 1 < side_by_side < 40
    assert 0 < pool.used_bytes <= side_by_side * assistant.model.row_bytes(longest + 2 * BLOCK_TOKENS)


@pytest.mark.parametrize("most", [0.0, 5.0, 1000.0])
def test_the_time_of_answers_is_that_of_the_longest_ones(
    most: float, assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = replace(answering(assistant, write_rows(tmp_path / "rows.jsonl", numbered_rows(9)), "exact"), room=250)
    longest = max(row.tokens for row in measured.rows) + answers.EXTRA_TOKENS
    now, asked = 0.0, []

    def two_seconds_a_token(model: Any, requests: Sequence[Any], **given: Any) -> list[list[int]]:
        nonlocal now
        asked.append(len(requests))
        assert not any(request.stop_ids for request in requests)
        for _ in range(requests[0].sampling.max_new_tokens):
            for row in range(len(requests)):
                now += 2.0
                given["on_token"](row, 5)
            if given["stop"]():
                break
        return []

    monkeypatch.setattr(answers, "answer_all", two_seconds_a_token)
    monkeypatch.setattr(answers.time, "perf_counter", lambda: now)
    assert measured.longest_seconds(most) == pytest.approx(2.0 * 9 * longest)
    assert 1 < asked[0] < 9, "a part of the rows is tried, side by side"
    assert now < 2.0 * asked[0] * longest or most == 1000.0


def test_what_cannot_be_measured_is_refused_before_the_model_is_loaded(tiny_model: Path, tmp_path: Path) -> None:
    def refused(content: list[dict[str, Any]], *settings: str) -> str:
        data = write_rows(tmp_path / "rows.jsonl", content)
        with pytest.raises(ConfigError) as caught:
            train(run_config(tiny_model, data, tmp_path / "run", *settings))
        assert not (tmp_path / "run" / "config.yaml").exists()
        return str(caught.value)

    held_out = "data.held_out=0.3"
    texts = [{"text": f"the parcel {number} is late and blue"} for number in range(9)]
    assert "no evaluation row has one" in refused(texts, held_out, "train.best_metric=exact")
    words = [{"prompt": f"{number}: the parcel?", "completion": "late"} for number in range(9)]
    said = refused(words, held_out, "train.best_metric=number")
    assert "finds nothing to measure in the references of the evaluation rows" in said
    assert "'late'" in said
    assert "train.best_metric needs evaluations" in refused(words, "train.best_metric=exact")


def test_a_run_by_answers_is_trained_alone(tiny_model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", numbered_rows(12))
    keys = [
        prepare_joint(
            run_config(tiny_model, data, tmp_path / metric, "data.held_out=0.3", f"train.best_metric={metric}")
        )
        for metric in ("loss", "exact")
    ]
    assert [one.base_key is None for one in keys] == [False, True]
    assert keys[0].inputs.config.method is Method.LORA


def test_preferences_are_compared_by_what_their_objective_reports(tiny_model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", pairs(16))
    settings = ("objective=dpo", "data.held_out=0.4", "train.steps=8", "train.eval_every=1", "train.save_every=1",
                "train.keep=8", "train.best_metric=rewards/margins", "train.publish=best")  # fmt: skip
    run = train(run_config(tiny_model, data, tmp_path / "run", *settings))
    margins = {one["step"]: one["metrics"]["rewards/margins"] for one in evaluations(run.output)}
    best = max(margins, key=lambda step: margins[step])
    assert run.progress.best_step == best
    assert run.progress.best_value == margins[best]


def test_transformers_answers_as_well(tiny_model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", numbered_rows(12))
    settings = ("data.held_out=0.3", "train.steps=2", "train.eval_every=2", "train.best_metric=rouge-l")
    found = [
        evaluations(train(run_config(tiny_model, data, tmp_path / backend, f"backend={backend}", *settings)).output)[
            -1
        ]["metrics"]["rouge_l"]
        for backend in ("veneer", "hf")
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-9)
