"""What a teacher says is computed once, before the student is there, and is what it says live, of the likeliest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.models.tiny import rows, run_config, write_model, write_rows
from helpers.rows.preference_rows import full_logits, trainable_model
from helpers.training.training_runs import stopping_after
from veneer.data.rows import load_rows
from veneer.errors import Interrupted
from veneer.events import Event, Note, StageBegun, StageProgress, StepDone
from veneer.io.tokenizer import from_directory
from veneer.run_folder import RunFolder
from veneer.training.run import train
from veneer.training.teaching.teacher_table import DOING, KNOWN, TOKENS, VALUES

SETTINGS = (
    "objective=distillation", "train.steps=6", "train.examples_per_step=6", "data.held_out=0.2", "train.save_every=2",
    "distillation.top_k=12",
)  # fmt: skip
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows(30))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("teacher") / "model", seed=9, hidden=96)


@pytest.fixture(scope="module")
def finished(
    tiny_model: Path, file: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Event]]:
    events: list[Event] = []
    output = tmp_path_factory.mktemp("taught") / "run"
    config = run_config(tiny_model, file, output, *SETTINGS, f"distillation.teacher={teacher}")
    train(config, emit=events.append)
    return output, events


def computed(events: list[Event]) -> int:
    return sum(isinstance(event, StageBegun) and event.stage == DOING for event in events)


def test_the_file_holds_the_teachers_likeliest_tokens_and_all_others_together(
    finished: tuple[Path, list[Event]], tiny_model: Path, file: Path, teacher: Path, tmp_path: Path
) -> None:
    config = run_config(tiny_model, file, tmp_path / "unused", *SETTINGS, f"distillation.teacher={teacher}")
    found = load_rows(config.data, from_directory(tiny_model))
    model, stored = trainable_model(teacher), load_file(RunFolder(finished[0]).teacher_file)
    with torch.no_grad():
        every = torch.cat([full_logits(model, one)[0] for one in (*found.train, *found.eval)])
    tokens = stored[TOKENS].long()
    likeliest = every.gather(1, tokens)
    assert torch.allclose(stored[VALUES][:, :-1].double(), likeliest, atol=1e-5)
    assert torch.allclose(likeliest, every.topk(12, -1).values, atol=1e-5)
    assert torch.allclose(stored[VALUES].double().exp().sum(-1), torch.ones(len(tokens), dtype=torch.float64))
    assert computed(finished[1]) == 1


def test_the_bar_counts_the_rows_that_the_run_meets(
    tiny_model: Path, file: Path, teacher: Path, tmp_path: Path
) -> None:
    settings = [one for one in SETTINGS if not one.startswith(("train.steps", "train.epochs"))]
    config = run_config(
        tiny_model, file, tmp_path / "run", *settings, "train.steps=1", f"distillation.teacher={teacher}"
    )
    events: list[Event] = []
    train(config, emit=events.append)
    [begun] = [event for event in events if isinstance(event, StageBegun) and event.stage == DOING]
    progress = [event for event in events if isinstance(event, StageProgress) and event.stage == DOING]
    assert all(event.done <= (begun.total or 0) for event in progress)
    assert begun.total == load_file(RunFolder(tmp_path / "run").teacher_file)[KNOWN].sum()


def test_a_student_learns_from_it_and_an_interrupted_run_does_not_ask_again(
    finished: tuple[Path, list[Event]], tiny_model: Path, file: Path, teacher: Path, tmp_path: Path
) -> None:
    steps = [event for event in finished[1] if isinstance(event, StepDone)]
    assert steps[-1].loss < steps[0].loss
    config = run_config(tiny_model, file, tmp_path / "run", *SETTINGS, f"distillation.teacher={teacher}")
    with pytest.raises(Interrupted):
        train(config, stop=stopping_after(3))
    events: list[Event] = []
    train(config, resume=True, emit=events.append)
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (finished[0] / WEIGHTS).read_bytes()
    assert computed(events) == 0


def test_a_damaged_file_is_computed_again(
    finished: tuple[Path, list[Event]], tiny_model: Path, file: Path, teacher: Path, tmp_path: Path
) -> None:
    config = run_config(tiny_model, file, tmp_path / "run", *SETTINGS, f"distillation.teacher={teacher}")
    with pytest.raises(Interrupted):
        train(config, stop=stopping_after(3))
    RunFolder(tmp_path / "run").teacher_file.write_bytes(b"nothing")
    events: list[Event] = []
    train(config, resume=True, emit=events.append)
    assert computed(events) == 1
    assert any(isinstance(event, Note) and "is damaged" in event.message for event in events)
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (finished[0] / WEIGHTS).read_bytes()


def test_full_fine_tuning_is_taught_by_an_adapter_on_its_own_base(tiny_model: Path, file: Path, tmp_path: Path) -> None:
    """Asked before, the teacher has the base as it was."""
    train(run_config(tiny_model, file, tmp_path / "sft", "train.steps=5", "train.examples_per_step=6"))
    events: list[Event] = []
    config = run_config(
        tiny_model, file, tmp_path / "run", *SETTINGS, f"distillation.teacher_adapter={tmp_path / 'sft'}",
        "method=full", "train.learning_rate=0.001",
    )  # fmt: skip
    train(config, emit=events.append)
    steps = [event for event in events if isinstance(event, StepDone)]
    assert steps[-1].loss < steps[0].loss
