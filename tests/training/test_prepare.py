"""A run is planned as it is trained, and refused before a weight is read."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from helpers.models.tiny import run_config, tree, write_model
from helpers.rows.preference_rows import text
from veneer.config import RunConfig, TrainSection
from veneer.config.values import override, read_yaml
from veneer.data.micro_batches.mixture import WeightedRows
from veneer.data.rows import Rows, load_rows
from veneer.errors import CheckpointError, ConfigError, Interrupted, VeneerError
from veneer.events import Note, ignore
from veneer.io.checkpoint import open_checkpoint
from veneer.io.tokenizer import from_directory
from veneer.reproduction.run import reproduce
from veneer.training import open_choices
from veneer.training.prepare import TrainingData
from veneer.training.run import train
from veneer.training.run_inputs import prepare_run
from veneer.training.steps import PackedSteps, Packing


def test_the_cut_is_that_of_the_run(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    for tokens in (64, 128, 100_000):
        settings = ("train.examples_per_step=5", f"compute.micro_batch_tokens={tokens}")
        config = run_config(tiny_model, tiny_data, tmp_path / "run", *settings)
        rows = load_rows(config.data, open_checkpoint(tiny_model).tokenizer())
        source = PackedSteps(rows, config.train, Packing(share=True, evaluation_share=True, pad_to_multiple_of=16))
        source.cut_at(tokens)
        cut = source.batch_shape(tokens)
        batches = [batch for step in range(1, source.total + 1) for batch in source.micro_batches(step)]
        assert cut.tokens == max(len(batch.tokens) for batch in batches) == len(source.largest().tokens)
        assert cut.supervised == max(batch.supervised for batch in batches)
        assert cut.micro_batches == len(batches) / source.total
        assert cut.step_tokens == pytest.approx(sum(batch.document_tokens for batch in batches) / source.total)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.3, 2.0), (0.5, 0.4)])
def test_the_rows_that_a_run_meets_are_those_of_all_its_steps(weights: tuple[float, float], tiny_model: Path) -> None:
    examples = [text(3, 4, 5 + number, prompt=2) for number in range(22)]
    rows = Rows(examples[:20], examples[20:], sources=tuple(WeightedRows(10, weight) for weight in weights))
    packing = Packing(share=True, evaluation_share=True, pad_to_multiple_of=1)
    for length in ({"epochs": 1}, {"epochs": 6}, {"steps": 3}):
        steps = PackedSteps(rows, TrainSection.model_validate({"examples_per_step": 4, **length}), packing)
        data = TrainingData(rows=rows, steps=steps, tokenizer=from_directory(tiny_model))
        trained = {number for step in range(1, steps.total + 1) for number in steps.numbers(step)}
        assert sorted(data.met()) == [*sorted(trained), 20, 21]


def test_a_run_says_and_records_what_was_chosen(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    result = train(
        run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=1"),
        emit=lambda event: notes.append(event.message) if isinstance(event, Note) else None,
    )
    recorded = read_yaml(tmp_path / "run" / "config.yaml")["compute"]
    assert recorded["micro_batch_tokens"] == result.plan.choice.micro_batch_tokens
    assert recorded["recompute"] == "never"
    assert any(note.startswith("plan: ") and "MB at the peak" in note for note in notes)


def test_a_run_saves_ten_times_however_often_it_is_evaluated(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    settings = ("train.steps=20", "train.eval_every=5", "data.held_out=0.2")
    train(run_config(tiny_model, tiny_data, tmp_path / "run", *settings))
    recorded = read_yaml(tmp_path / "run" / "config.yaml")["train"]
    assert (recorded["eval_every"], recorded["save_every"]) == (5, 2)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (("method=qlora", "quant.skip_modules=[qproj]"), "qproj"),
        (("lora.target_modules=[qproj]",), "qproj"),
        (("lora.init=loftq",), "loftq"),
        (("lora.init=pissa", "lora.rank=100"), "q_proj: rank 100, at most 64"),
        (("lora.modules_to_save=[nrom]",), r"'nrom': no such module \(did you mean 'norm'"),
        (("lora.trainable_tokens=[9000]",), "token 9000 is not below"),
        (("objective=distillation", "distillation.teacher=no-teacher"), "no-teacher"),
        (("objective=distillation", "distillation.teacher_adapter=no-teacher"), "no-teacher"),
        (("objective=grpo", "rewards=[{adapter: no-reward}]"), "no-reward"),
        (("objective=grpo", "rewards=[{python: 'no-reward.py:score'}]"), r"no-reward\.py"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_before_the_rows_are_read(
    settings: tuple[str, ...], named: str, tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(VeneerError, match=named):
        train(run_config(tiny_model, tmp_path / "no-rows.jsonl", tmp_path / "run", *settings))


def test_a_run_that_cannot_fit_is_refused_before_a_weight_is_read(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "veneer.training.build.load_language_model", lambda *args, **rest: pytest.fail("the model was read")
    )
    with pytest.raises(ConfigError, match=r"may use 100 MB \(compute.memory_limit_mb=100\)"):
        train(run_config(tiny_model, tiny_data, tmp_path / "run", "compute.memory_limit_mb=100"))


def test_a_resumed_run_takes_what_was_chosen_before(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=3", "compute.recompute=layers",
                       "compute.micro_batch_tokens=96")  # fmt: skip
    with pytest.raises(Interrupted):
        train(first, stop=lambda: True)
    later = run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=3", "compute.memory_limit_mb=5000")
    plan = train(later, resume=True).plan
    assert (plan.choice.micro_batch_tokens, plan.choice.recompute) == (96, True)
    train(first.model_copy(update={"output": str(tmp_path / "whole")}))
    name = "adapter_model.safetensors"
    assert tree(tmp_path / "run")[name] == tree(tmp_path / "whole")[name]


class Clock(date):
    """A date whose today is set."""

    day = (2024, 7, 26)

    @classmethod
    def today(cls) -> date:
        return date(*cls.day)


@pytest.fixture
def dated_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose chat template writes the date, and a clock for the runs on it."""
    monkeypatch.setattr(open_choices, "date", Clock)
    monkeypatch.setattr(Clock, "day", (2024, 7, 26))
    model = write_model(tmp_path / "dated")
    settings = model / "tokenizer_config.json"
    values = json.loads(settings.read_text())
    values["chat_template"] = "{{ strftime_now('%d %b %Y') }} " + values["chat_template"]
    settings.write_text(json.dumps(values))
    return model


def first_row(config: RunConfig) -> str:
    inputs = prepare_run(config, ignore, resume=True)
    return inputs.data.tokenizer.decode(inputs.data.rows.train[0].tokens.tolist())


def test_a_template_that_writes_the_date_is_told_the_day_on_which_the_run_began(
    dated_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(dated_model, tiny_data, tmp_path / "run", "train.steps=2")
    with pytest.raises(Interrupted):
        train(config, stop=lambda: True)
    monkeypatch.setattr(Clock, "day", (2024, 7, 27))
    assert first_row(config).startswith("26 Jul 2024")
    train(config, resume=True)
    assert read_yaml(tmp_path / "run" / "config.yaml")["data"]["template_date"] == "2024-07-26"
    whole = config.model_copy(update={"output": str(tmp_path / "whole")})
    assert first_row(whole).startswith("27 Jul 2024")
    fixed = override({}, ["data.template_date=2024-07-26"])["data"]
    train(whole.changed("data", fixed))
    name = "adapter_model.safetensors"
    assert tree(tmp_path / "run")[name] == tree(tmp_path / "whole")[name]
    assert reproduce(tmp_path / "run").same


def test_another_date_is_refused_by_its_name_where_a_run_is_gone_on_with(
    dated_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = run_config(dated_model, tiny_data, tmp_path / "run", "train.steps=2")
    with pytest.raises(Interrupted):
        train(config, stop=lambda: True)
    other = run_config(dated_model, tiny_data, tmp_path / "run", "train.steps=2", "data.template_date=2025-01-01")
    with pytest.raises(CheckpointError, match=r"data\.template_date: '2024-07-26' then, '2025-01-01' now"):
        train(other, resume=True)


def test_a_template_that_asks_for_no_time_leaves_the_date_open(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=1"))
    assert read_yaml(tmp_path / "run" / "config.yaml")["data"]["template_date"] == "auto"
