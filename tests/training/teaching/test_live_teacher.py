"""A run that is taught: by a model of its own or an adapter on its own base, and everything else goes along."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.models.tiny import examples, rows, run_config, write_model, write_rows
from helpers.rows.preference_rows import full_logits
from helpers.training.training_runs import stopping_after
from veneer.adapters.load import load_adapter
from veneer.data.micro_batches.packing import pack
from veneer.errors import ConfigError, Interrupted
from veneer.events import Evaluated, Event, StepDone
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.reproduction.run import reproduce
from veneer.sweeps.run import sweep
from veneer.training.run import train
from veneer.training.teaching.live_teacher import live_teacher
from veneer.training.trainable import AdapterTraining

SETTINGS = (
    "objective=distillation", "train.steps=6", "train.examples_per_step=6", "data.held_out=0.2", "train.save_every=2",
)  # fmt: skip
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows(30))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("teacher") / "model", seed=9, hidden=96)


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher on the student's base, fine-tuned on the rows."""
    output = tmp_path_factory.mktemp("sft") / "run"
    train(run_config(tiny_model, file, output, "train.steps=8", "train.examples_per_step=6", "lora.rank=8"))
    return output


def trained(model: Path, file: Path, output: Path, *settings: str) -> tuple[Path, list[Event]]:
    events: list[Event] = []
    train(run_config(model, file, output, *SETTINGS, *settings), emit=events.append)
    return output, events


def test_a_student_comes_nearer_to_its_teacher(tiny_model: Path, file: Path, teacher: Path, tmp_path: Path) -> None:
    _, events = trained(tiny_model, file, tmp_path / "run", f"distillation.teacher={teacher}", "train.eval_every=1")
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    assert evaluated[-1].loss < 0.8 * evaluated[0].loss
    assert evaluated[-1].metrics["divergence"] == pytest.approx(evaluated[-1].loss)


def test_an_adapter_on_the_same_base_says_what_it_says_alone_and_the_student_stays_itself(
    tiny_model: Path, file: Path, adapter: Path, tmp_path: Path
) -> None:
    config = run_config(tiny_model, file, tmp_path / "unused", *SETTINGS, f"distillation.teacher_adapter={adapter}")
    own = load_model(open_checkpoint(tiny_model), Loading(dtype=torch.float32))
    student = load_adapter(own, adapter)
    for tensor in student.tensors().values():
        tensor.mul_(-0.5)
    documents = examples(tiny_model, file)[:5]
    with torch.no_grad():
        before = [full_logits(own, one)[0] for one in documents]
    teacher = live_teacher(config, own, AdapterTraining(student, "base"), lambda event: None)
    alone = load_model(open_checkpoint(tiny_model), Loading(dtype=torch.float32))
    load_adapter(alone, adapter)
    with torch.no_grad():
        for document in documents:
            (batch,) = pack([document], 1000)
            said = teacher.of(batch)(slice(None)).log_probabilities
            assert torch.allclose(said.double(), full_logits(alone, document)[0], atol=1e-5)
        assert all(torch.equal(one, full_logits(own, two)[0]) for one, two in zip(before, documents, strict=True))


@pytest.mark.parametrize("settings", [("method=qlora",), ("backend=hf",), ("lora.variant=dora",)])
def test_an_adapter_teaches_every_kind_of_run(
    settings: tuple[str, ...], tiny_model: Path, file: Path, adapter: Path, tmp_path: Path
) -> None:
    taught = (f"distillation.teacher_adapter={adapter}", "train.save_every=6")
    _, events = trained(tiny_model, file, tmp_path / "run", *taught, *settings)
    steps = [event for event in events if isinstance(event, StepDone)]
    assert steps[-1].loss < steps[0].loss


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    tiny_model: Path, file: Path, adapter: Path, tmp_path: Path
) -> None:
    """With masks of dropout and recomputed layers, which must be the student's."""
    taught = (f"distillation.teacher_adapter={adapter}", "lora.dropout=0.1", "compute.recompute=layers")
    whole, _ = trained(tiny_model, file, tmp_path / "whole", *taught)
    config = run_config(tiny_model, file, tmp_path / "run", *SETTINGS, *taught)
    with pytest.raises(Interrupted):
        train(config, stop=stopping_after(3))
    train(config, resume=True)
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_a_model_teaches_full_fine_tuning_and_a_limit_of_time_is_kept(
    tiny_model: Path, file: Path, teacher: Path, tmp_path: Path
) -> None:
    _, events = trained(
        tiny_model, file, tmp_path / "run", f"distillation.teacher={teacher}", "method=full",
        "train.learning_rate=0.001", "train.time_limit=60",
    )  # fmt: skip
    steps = [event for event in events if isinstance(event, StepDone)]
    assert steps[-1].loss < steps[0].loss


def test_a_run_is_reproduced_to_the_byte_and_not_with_another_teacher(
    tiny_model: Path, file: Path, tmp_path: Path
) -> None:
    teacher = write_model(tmp_path / "teacher", seed=4)
    output, _ = trained(tiny_model, file, tmp_path / "run", f"distillation.teacher={teacher}", "train.save_every=6")
    assert reproduce(output).same
    write_model(teacher, seed=5)
    with pytest.raises(Exception, match="distillation teacher: has changed"):
        reproduce(output)


def test_a_sweep_gives_each_run_its_teacher(tiny_model: Path, file: Path, teacher: Path, tmp_path: Path) -> None:
    config = run_config(
        tiny_model, file, tmp_path / "unused", *SETTINGS, f"distillation.teacher={teacher}", "train.steps=2"
    )
    values = config.model_dump(mode="json", exclude_unset=True)
    del values["output"]
    outcomes = sweep(values, {"distillation.temperature": [1.0, 2.0]}, tmp_path / "sweep")
    assert all(outcome.done for outcome in outcomes)
    assert len({outcome.best_loss for outcome in outcomes}) == 2


def test_what_cannot_be_taught_is_refused_with_the_reason(tiny_model: Path, file: Path, tmp_path: Path) -> None:
    wrong = {
        (): "needs a teacher",
        ("distillation.teacher=x", "distillation.beta=0.3"): "beta is for distillation.divergence generalised",
        ("distillation.teacher_adapter=x", "method=full"): "method full changes that",
        ("distillation.teacher=x", "lora.new_tokens=[<new>]"): "unknown to the teacher",
    }
    for settings, message in wrong.items():
        with pytest.raises(ConfigError, match=message):
            run_config(tiny_model, file, tmp_path, "objective=distillation", *settings)
