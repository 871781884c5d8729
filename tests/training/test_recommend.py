"""What is chosen where a setting is left open, and that the run says and records it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.models.tiny import examples, rows, run_config, write_rows
from veneer.adapters.spec import LoraSpec
from veneer.config import LoraSection, TrainSection, parse
from veneer.config.values import read_yaml
from veneer.enums import Method, OptimizerName
from veneer.errors import ConfigError
from veneer.events import Event, Note, ignore
from veneer.io.checkpoint import open_checkpoint
from veneer.model.families.choose import spec_from_hf
from veneer.model.shape import DecoderSpec
from veneer.planning.plan import Plan
from veneer.planning.setup import decoder_linears
from veneer.planning.trained import LinearShape
from veneer.training.plan import plan_run
from veneer.training.recommend import (
    Recommendation,
    recommended_examples,
    recommended_rank,
    recommended_rate,
    rows_in_step,
    settle,
    short_of_capacity,
    steps_of,
    weights_per_rank,
)
from veneer.training.run import train
from veneer.training.supposed_steps import SupposedRows

LONG = 10**12


def rate(method: Method, hidden: int, optimizer: OptimizerName = OptimizerName.ADAMW) -> float:
    """Of a long run with the default number of rows a step."""
    return float(recommended_rate(method, hidden, optimizer, steps=LONG, examples=8).value)


def test_the_rate_is_the_published_fit() -> None:
    assert rate(Method.LORA, 2000) == pytest.approx(5e-4)
    assert rate(Method.LORA, 576) == pytest.approx(5e-5 * 10 * (2000 / 576) ** 0.78)
    assert rate(Method.QLORA, 576) == rate(Method.LORA, 576)
    assert rate(Method.FULL, 576) == pytest.approx(rate(Method.LORA, 576) / 10)
    assert rate(Method.LORA, 4096) < rate(Method.LORA, 576)


def test_short_runs_have_a_higher_rate_and_small_steps_a_lower_one() -> None:
    def found(method: Method = Method.LORA, *, steps: int = LONG, examples: int = 8) -> float:
        return float(recommended_rate(method, 576, steps=steps, examples=examples).value)

    fit = rate(Method.LORA, 576)
    assert found(steps=100) == found(steps=20) == pytest.approx(2 * fit)
    assert found(steps=200) == pytest.approx(1.5 * fit)
    assert fit < found(steps=100_000) < 1.002 * fit
    assert found(examples=2) == pytest.approx(fit / 2)
    assert found(examples=8) == found(examples=64) == fit
    assert found(steps=100, examples=4) == pytest.approx(2 * fit / 2**0.5)
    assert found(Method.FULL, steps=100, examples=2) == pytest.approx(fit / 10)
    said = recommended_rate(Method.LORA, 576, steps=100, examples=4).reason
    assert said.endswith(", times 2 for a run of 100 steps, times 0.71 for 4 rows a step")


def test_the_rate_suits_the_optimizer() -> None:
    adamw = rate(Method.LORA, 576)
    for name in OptimizerName:
        if name not in (OptimizerName.LION, OptimizerName.SGD):
            assert rate(Method.LORA, 576, name) == adamw
    assert rate(Method.LORA, 576, OptimizerName.LION) == pytest.approx(adamw / 5)
    assert rate(Method.FULL, 576, OptimizerName.LION) == pytest.approx(adamw / 50)


def test_sgd_is_told_to_give_a_number() -> None:
    values = {"model": "m", "output": "o", "data": {"file": "x"}, "train": {"optimizer": "sgd"}}
    with pytest.raises(ConfigError, match=r"knows no rate for train\.optimizer sgd"):
        parse(values, where="x")
    parse(values | {"train": {"optimizer": "sgd", "learning_rate": 0.1}}, where="x")


def test_lora_plus_needs_an_adapter() -> None:
    values = {"model": "m", "output": "o", "data": {"file": "x"}, "train": {"lora_plus_ratio": 16}}
    assert parse(values, where="x").train.lora_plus_ratio == 16.0
    with pytest.raises(ConfigError, match="method full has none"):
        parse(values | {"method": "full"}, where="x")
    with pytest.raises(ConfigError, match="greater than or equal to 1"):
        parse(values | {"train": {"lora_plus_ratio": 0.5}}, where="x")


# ---------------------------------------------------------------------------------------------------------------- rank


PER_RANK = 305_280
"""Of SmolLM2-135M."""
LAYERS = [
    {name: LinearShape(f"layers.0.{name}", PER_RANK // 2 - 10, 10, bias=False, rank=1) for name in ("q_proj", "v_proj")}
]
"""Two layers with as many weights for each unit of rank."""


@pytest.mark.parametrize(
    ("tokens", "rank"),
    [
        (0, 16),
        (10_000, 16),
        (2 * 16 * PER_RANK, 16),
        (2 * 16 * PER_RANK + 1, 32),
        (2 * 100 * PER_RANK, 128),
        (2 * 256 * PER_RANK, 256),
        (10**12, 256),
    ],
)
def test_the_rank_is_the_smallest_that_holds_what_the_rows_teach(tokens: int, rank: int) -> None:
    found = recommended_rank(tokens, PER_RANK, largest=576)
    assert found.value == rank
    assert ("the largest possible" in found.reason) is (tokens == 10**12)
    assert (short_of_capacity(LoraSection(rank=rank), LAYERS, tokens) is None) is (tokens < 10**12)


def test_the_ranks_of_a_pattern_count_for_what_an_adapter_holds() -> None:
    taught = 2 * 40 * PER_RANK
    small, mixed = LoraSection(rank=16), LoraSection(rank=16, rank_pattern={"v_proj": 64})
    assert short_of_capacity(mixed, LAYERS, taught) is None
    said = short_of_capacity(mixed, LAYERS, taught + 1)
    assert said is not None
    assert said.startswith("lora.rank 16 with lora.rank_pattern holds about 24.4 Mbit")
    said = short_of_capacity(small, LAYERS, taught)
    assert said is not None
    assert said.startswith("lora.rank 16 holds about 9.8 Mbit")
    assert short_of_capacity(small, [], taught) is None


def test_the_rank_stays_within_the_layers() -> None:
    assert recommended_rank(10**12, PER_RANK, largest=192).value == 128
    assert recommended_rank(10, PER_RANK, largest=7).value == 7


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_a_run_without_an_update_of_linear_layers_has_the_default_rank(
    target: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    values = {
        "model": str(tiny_model), "output": str(tmp_path / "run"), "data": {"file": str(tiny_data)},
        "lora": {"rank": "auto", "target_modules": [target]},
    }  # fmt: skip
    seen: list[Event] = []
    found = plan_run(parse(values, where="test"), seen.append, device="cpu")
    assert isinstance(found, Plan)
    assert found.setup.lora is not None
    assert found.setup.lora.rank == 16
    assert any(event.message.startswith("lora.rank 16: the default") for event in seen if isinstance(event, Note))


def test_weights_per_rank_are_those_of_an_adapter(tiny_model: Path) -> None:
    spec = spec_from_hf(open_checkpoint(tiny_model).config)
    assert isinstance(spec, DecoderSpec)
    # q and o 64 + 64, k and v 64 + 32, gate, up and down 64 + 128; two layers
    assert weights_per_rank(decoder_linears(spec, LoraSpec(rank=1, alpha=1.0))) == (
        2 * (2 * 128 + 2 * 96 + 3 * 192),
        32,
    )
    assert weights_per_rank(decoder_linears(spec, LoraSpec(rank=4, alpha=1.0, target_modules=("up_proj",)))) == (
        2 * 192,
        64,
    )
    assert weights_per_rank(decoder_linears(spec, None)) == (0, 0)


# --------------------------------------------------------------------------------------------------------------- batch


@pytest.mark.parametrize(
    ("count", "section", "examples"),
    [
        (100_000, TrainSection(), 8),
        (800, TrainSection(), 8),
        (799, TrainSection(), 4),
        (399, TrainSection(), 2),
        (3, TrainSection(), 2),
        (300, TrainSection(epochs=3), 8),
        (10, TrainSection(steps=5), 8),
    ],
)
def test_few_rows_make_smaller_steps(count: int, section: TrainSection, examples: int) -> None:
    assert recommended_examples(count, section).value == examples


@pytest.mark.parametrize(
    ("count", "epochs", "steps"),
    [(9, 200.0, 400), (75, 2.0, 20), (75, 2.5, 25), (64, 3.0, 24), (64, 0.5, 4), (3, None, 1)],
)
def test_the_short_last_step_of_every_epoch_counts(count: int, epochs: float | None, steps: int) -> None:
    assert steps_of(count, TrainSection(epochs=epochs), examples=8) == steps
    assert steps_of(count, TrainSection(steps=7), examples=8) == 7


# --------------------------------------------------------------------------------------------------------------- a run


def test_a_run_says_and_records_what_it_chose(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    settings = ("train.learning_rate=auto", "train.examples_per_step=auto", "train.epochs=1")
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *settings)
    train(config, emit=seen.append)
    said = [event.message for event in seen if isinstance(event, Note)]
    expected = recommended_rate(Method.LORA, 64, steps=10, examples=2)
    assert expected.note() in said
    assert any(line.startswith("train.examples_per_step 2: so that the 20 rows of an epoch") for line in said)
    recorded = read_yaml(tmp_path / "run" / "config.yaml")["train"]
    assert recorded["learning_rate"] == expected.value
    assert (recorded["examples_per_step"], recorded["steps"]) == (2, 10)


def test_the_rate_counts_the_rows_that_a_number_of_tokens_makes(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Two rows a step get another rate than the eight that a step has by default."""
    mean = np.mean([len(row.tokens) for row in examples(tiny_model, tiny_data)])
    seen: list[Event] = []
    settings = ("train.learning_rate=auto", "train.epochs=1", f"train.tokens_per_step={int(2 * mean) + 1}")
    train(run_config(tiny_model, tiny_data, tmp_path / "run", *settings), emit=seen.append)
    expected = recommended_rate(Method.LORA, 64, steps=10, examples=2)
    assert expected.note() in [event.message for event in seen if isinstance(event, Note)]


@pytest.mark.parametrize(("weight", "rows", "examples"), [(20.0, 400, 4), (0.5, 10, 2)])
def test_rows_of_a_weighted_source_count_as_often_as_an_epoch_has_them(
    weight: float, rows: int, examples: int, tiny_model: Path, tiny_data: Path
) -> None:
    values = {
        "model": str(tiny_model), "output": "out", "method": "lora",
        "train": {"epochs": 1, "examples_per_step": "auto"},
        "data": {"sources": [{"file": str(tiny_data), "weight": weight}]},
    }  # fmt: skip
    seen: list[Event] = []
    found = plan_run(parse(values, where="test"), seen.append, device="cpu")
    assert isinstance(found, Plan)
    assert found.steps == rows // examples
    expected = recommended_rate(Method.LORA, 64, steps=found.steps, examples=examples)
    assert expected.note() in [event.message for event in seen if isinstance(event, Note)]


def test_answers_that_serve_several_steps_make_a_longer_run() -> None:
    config = parse(
        {
            "model": "m", "output": "o", "objective": "grpo", "data": {"file": "f"}, "grpo": {"num_iterations": 3},
            "rewards": [{"metric": "exact"}], "train": {"examples_per_step": 4, "epochs": 1},
        },
        where="test",
    )  # fmt: skip
    settled, _ = settle(config, 64, (), rows=40, completion=1, row_tokens=10.0)
    expected = recommended_rate(config.method, 64, steps=30, examples=4, objective=config.objective)
    assert settled.train.learning_rate == expected.value


def test_a_step_of_tokens_has_at_least_one_row_and_at_most_all() -> None:
    assert rows_in_step(TrainSection(tokens_per_step=5), 20, 40.0) == 1
    assert rows_in_step(TrainSection(tokens_per_step=399), 20, 40.0) == 9
    assert rows_in_step(TrainSection(tokens_per_step=10**6), 20, 40.0) == 20
    assert rows_in_step(TrainSection(examples_per_step=3), 20, 40.0) == 3
    assert rows_in_step(TrainSection(), 20, 40.0) == 8


def test_what_is_given_is_not_spoken_of(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=1"), emit=seen.append)
    said = [event.message for event in seen if isinstance(event, Note)]
    assert not any(line.startswith(("train.learning_rate", "train.examples", "lora.rank")) for line in said)


def test_a_rank_that_is_too_small_for_the_rows_is_reported(tiny_model: Path, tmp_path: Path) -> None:
    long = [
        {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": json.dumps(row)}]}
        for row in rows(100)
    ]
    data = write_rows(tmp_path / "long.jsonl", long)
    seen: list[Event] = []
    settings = ("train.steps=1", "lora.rank=1", "lora.target_modules=[q_proj]")
    train(run_config(tiny_model, data, tmp_path / "run", *settings), emit=seen.append)
    assert any(isinstance(e, Note) and e.message.startswith("lora.rank 1 holds about ") for e in seen)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
def test_a_plan_settles_it_too(optimizer: str, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    settings = ("train.learning_rate=auto", "train.examples_per_step=auto", f"train.optimizer={optimizer}")
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *settings)
    found = plan_run(config, ignore, device="cpu")
    assert isinstance(found, Plan)
    assert found.steps == 10
    supposed = run_config(tiny_model, Path("-"), tmp_path / "run", *settings)
    found = plan_run(supposed, ignore, device="cpu", rows=SupposedRows(rows=400))
    assert isinstance(found, Plan)
    assert found.steps == 100


def test_a_choice_reads_as_a_sentence() -> None:
    assert Recommendation("lora.rank", 16, "enough").note() == "lora.rank 16: enough"
    assert Recommendation("train.learning_rate", 0.00131843, "fit").note() == "train.learning_rate 0.00132: fit"
