"""The reference of a run is the model that it starts from, computed once, and never again where nothing has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import load_file

from helpers.models.tiny import run_config, write_rows
from helpers.rows.preference_rows import answer_logps, pairs, trainable_model
from helpers.training.training_runs import stopping_after
from veneer.config import RunConfig, parse
from veneer.config.values import override
from veneer.data.rows import load_rows
from veneer.enums import RowKind
from veneer.errors import ConfigError, Interrupted
from veneer.events import Evaluated, Event, Note, StageBegun, StepDone
from veneer.io.tokenizer import from_directory
from veneer.reproduction.run import reproduce
from veneer.run_folder import RunFolder
from veneer.sweeps.run import sweep
from veneer.training.references.reference import DOING, NO_PARTNERS, VALUES
from veneer.training.run import train

SETTINGS = ("objective=dpo", "train.steps=5", "train.examples_per_step=6", "data.held_out=0.2", "train.save_every=2")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", pairs(20))


@pytest.fixture(scope="module")
def finished(tiny_model: Path, file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """An uninterrupted run, and its events."""
    events: list[Event] = []
    output = tmp_path_factory.mktemp("dpo") / "run"
    train(run_config(tiny_model, file, output, *SETTINGS), emit=events.append)
    return output, events


def computed(events: list[Event]) -> int:
    return sum(isinstance(event, StageBegun) and event.stage == DOING for event in events)


def test_a_fresh_adapter_starts_at_log_two_and_learns_what_is_preferred(
    finished: tuple[Path, list[Event]],
) -> None:
    steps = [event for event in finished[1] if isinstance(event, StepDone)]
    assert steps[0].loss == pytest.approx(np.log(2), abs=1e-6)
    assert steps[0].metrics["rewards/margins"] == pytest.approx(0, abs=1e-5)
    evaluated = [event for event in finished[1] if isinstance(event, Evaluated)]
    assert evaluated[-1].metrics["rewards/accuracies"] == 1.0
    assert evaluated[-1].metrics["rewards/margins"] > 0.5
    assert evaluated[-1].loss < 0.5


def test_the_file_holds_the_log_probabilities_of_the_base(
    finished: tuple[Path, list[Event]], tiny_model: Path, file: Path, tmp_path: Path
) -> None:
    config = run_config(tiny_model, file, tmp_path / "unused", *SETTINGS)
    rows = load_rows(config.data, from_directory(tiny_model), kind=RowKind.PAIRS)
    model = trainable_model(tiny_model)
    expected = [float(answer_logps(model, one).sum().detach()) for one in (*rows.train, *rows.eval)]
    found = load_file(RunFolder(finished[0]).reference_file)[VALUES].numpy()
    assert np.allclose(found, expected, rtol=1e-6)
    assert computed(finished[1]) == 1


def test_an_interrupted_run_goes_on_to_the_same_bytes_without_computing_the_reference_again(
    finished: tuple[Path, list[Event]], tiny_model: Path, file: Path, tmp_path: Path
) -> None:
    config = run_config(tiny_model, file, tmp_path / "run", *SETTINGS)
    with pytest.raises(Interrupted):
        train(config, stop=stopping_after(3))
    events: list[Event] = []
    train(config, resume=True, emit=events.append)
    name = "adapter_model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (finished[0] / name).read_bytes()
    assert computed(events) == 0


def test_a_damaged_or_other_file_is_computed_again_from_the_start_of_the_run(
    finished: tuple[Path, list[Event]], tiny_model: Path, file: Path, tmp_path: Path
) -> None:
    config = run_config(tiny_model, file, tmp_path / "run", *SETTINGS)
    with pytest.raises(Interrupted):
        train(config, stop=stopping_after(3))
    RunFolder(tmp_path / "run").reference_file.write_bytes(b"nothing")
    events: list[Event] = []
    train(config, resume=True, emit=events.append)
    assert computed(events) == 1
    assert any(isinstance(event, Note) and "is damaged" in event.message for event in events)
    name = "adapter_model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (finished[0] / name).read_bytes()


def test_after_another_run_the_reference_is_its_adapter_or_the_base_if_asked_for(
    finished: tuple[Path, list[Event]], tiny_model: Path, file: Path, tmp_path: Path
) -> None:
    found = {}
    for reference in ("start", "base"):
        events: list[Event] = []
        config = run_config(
            tiny_model, file, tmp_path / reference, *SETTINGS, f"train.from_adapter={finished[0]}",
            f"dpo.reference={reference}", "lora={}",
        )  # fmt: skip
        train(config, emit=events.append)
        found[reference] = next(event for event in events if isinstance(event, StepDone))
    assert found["start"].loss == pytest.approx(np.log(2), abs=1e-6)
    assert found["base"].metrics["rewards/margins"] > 0.5
    base = load_file(RunFolder(finished[0]).reference_file)[VALUES]
    assert np.allclose(load_file(RunFolder(tmp_path / "base").reference_file)[VALUES], base, rtol=1e-6)


def test_a_run_is_reproduced_to_the_byte(finished: tuple[Path, list[Event]]) -> None:
    assert reproduce(finished[0]).same


@pytest.mark.parametrize("settings", [("method=qlora",), ("method=full", "train.learning_rate=0.001"), ("backend=hf",)])
def test_other_methods_start_at_log_two_as_well(
    settings: tuple[str, ...], tiny_model: Path, file: Path, tmp_path: Path
) -> None:
    events: list[Event] = []
    config = run_config(tiny_model, file, tmp_path / "run", *SETTINGS, *settings, "train.time_limit=60")
    train(config, emit=events.append)
    steps = [event for event in events if isinstance(event, StepDone)]
    assert steps[0].loss == pytest.approx(np.log(2), abs=1e-6)
    assert steps[-1].loss < 0.6


def test_a_sweep_trains_each_point_with_its_own_reference(tiny_model: Path, file: Path, tmp_path: Path) -> None:
    config = run_config(tiny_model, file, tmp_path / "unused", *SETTINGS, "train.save_every=5")
    values = config.model_dump(mode="json", exclude_unset=True)
    del values["output"]
    outcomes = sweep(values, {"dpo.beta": [0.1, 0.5]}, tmp_path / "sweep")
    assert all(outcome.done for outcome in outcomes)
    assert len({outcome.best_loss for outcome in outcomes}) == 2


def labelled(count: int, first: int) -> list[dict[str, Any]]:
    return [{"prompt": f"{n}?", "completion": f"answer {n}", "label": n % 2 == 0} for n in range(first, first + count)]


def of_sources(model: Path, folder: Path, objective: str, steps: int) -> RunConfig:
    """A run whose first source has two fifths of its rows in an epoch, other ones in each."""
    both = [pairs(10), pairs(10, seed=1)] if objective == "dpo" else [labelled(10, 0), labelled(10, 10)]
    files = [write_rows(folder / f"{objective}-{number}.jsonl", rows) for number, rows in enumerate(both)]
    sources = f"data.sources=[{{file: {files[0]}, weight: 0.4}}, {{file: {files[1]}, weight: 1.5}}]"
    values = {
        "model": str(model),
        "output": str(folder / f"{objective}-{steps}"),
        "method": "lora",
        "lora": {"rank": 4, "alpha": 8.0},
        "train": {"learning_rate": 0.01, "steps": steps, "examples_per_step": 4, "schedule": "constant"},
        "compute": {"device": "cpu", "dtype": "float32", "threads": 1},
    }
    return parse(override(values, [f"objective={objective}", sources]), where="the test")


def values_of(config: RunConfig) -> NDArray[np.float64]:
    found: NDArray[np.float64] = load_file(RunFolder(Path(config.output)).reference_file)[VALUES].numpy()
    return found


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_rows_that_come_in_a_later_epoch_have_a_reference_too(objective: str, tiny_model: Path, tmp_path: Path) -> None:
    config = of_sources(tiny_model, tmp_path, objective, 15)
    events: list[Event] = []
    train(config, emit=events.append)
    assert all(np.isfinite(event.loss) for event in events if isinstance(event, StepDone))
    rows = load_rows(config.data, from_directory(tiny_model), kind=config.objective.rows)
    model = trainable_model(tiny_model)
    expected = [float(answer_logps(model, one).sum().detach()) for one in rows.train]
    assert np.allclose(values_of(config), expected, rtol=1e-5)


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_a_run_that_is_made_longer_keeps_the_reference_that_it_was_trained_with(
    objective: str, tiny_model: Path, tmp_path: Path
) -> None:
    straight = of_sources(tiny_model, tmp_path, objective, 12)
    train(straight)
    short = of_sources(tiny_model, tmp_path, objective, 6)
    train(short)
    before = values_of(short)
    assert np.isnan(before).any(), "the short run does not meet all rows"
    longer = short.model_copy(update={"train": straight.train})
    train(longer, resume=True)
    after = values_of(longer)
    known = ~np.isnan(before)
    assert np.array_equal(after[known], before[known])
    assert np.array_equal(after, values_of(straight), equal_nan=True)
    name = "adapter_model.safetensors"
    assert (Path(longer.output) / name).read_bytes() == (Path(straight.output) / name).read_bytes()


@pytest.mark.parametrize("prompts", [1, 2])
def test_a_reference_point_that_is_0_throughout_is_told(prompts: int, tiny_model: Path, tmp_path: Path) -> None:
    """Answers to one prompt have no partners: nothing would say that KTO misses its reference point."""
    rows = [{"prompt": f"{n % prompts}?", "completion": f"answer {n}", "label": n < 2} for n in range(4)]
    events: list[Event] = []
    config = run_config(
        tiny_model, write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "run", "objective=kto", "train.steps=1"
    )
    train(config, emit=events.append)
    told = [event.message for event in events if isinstance(event, Note)]
    assert (NO_PARTNERS in told) == (prompts == 1)


def test_settings_of_another_objective_are_refused_with_the_reason(
    tiny_model: Path, file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"dpo.beta is a setting of objective dpo, and objective is sft"):
        run_config(tiny_model, file, tmp_path, "dpo.beta=0.2")
    wrong = {
        ("dpo.loss=ipo", "dpo.label_smoothing=0.1"): "label_smoothing is for dpo.loss sigmoid and robust",
        ("dpo.loss=robust",): "robust needs dpo.label_smoothing",
        ("data.overlong=truncate",): "cuts answers",
        ("dpo.reference=base", "method=full"): "method full has none",
        ("lora.init=eva",): "lora.init eva",
    }
    for settings, message in wrong.items():
        with pytest.raises(ConfigError, match=message):
            run_config(tiny_model, file, tmp_path, "objective=dpo", *settings)
