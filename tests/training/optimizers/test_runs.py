"""Whole runs with every optimiser: killed and resumed to the same bytes, and a state of the size that was planned."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.models.tiny import CommandLine, run_config
from helpers.tensors import assert_same_tensors
from veneer.adapters.spec import LoraSpec
from veneer.config import to_yaml
from veneer.enums import OptimizerName
from veneer.errors import CheckpointError, Interrupted
from veneer.events import Event, Note, StepDone
from veneer.io.checkpoint import open_checkpoint
from veneer.model.families.choose import spec_from_hf
from veneer.planning.batch_shape import BatchShape
from veneer.planning.memory import memory
from veneer.planning.optimizer import state_bytes
from veneer.planning.setup import Setup
from veneer.planning.time import disk
from veneer.training.run import train
from veneer.training.session import RunResult

RATES = {OptimizerName.SGD: 0.05, OptimizerName.LION: 0.001}
METHODS = {
    # Rank 32 makes matrices that are large enough for 8-bit states.
    "lora": ("method=lora", "lora.rank=32", "lora.dropout=0.1", "train.lora_plus_ratio=4"),
    "full": ("method=full",),
}
FILES = {"lora": "adapter_model.safetensors", "full": "model.safetensors"}
CASES = [(method, name) for method in METHODS for name in OptimizerName]


def settings(method: str, name: OptimizerName) -> tuple[str, ...]:
    rate = RATES.get(name, 0.003) / (10 if method == "full" else 1)
    return (
        *METHODS[method], f"train.optimizer={name.value}", f"train.learning_rate={rate}", "train.weight_decay=0.1",
        "train.steps=16", "train.save_every=4", "train.keep=99",
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path
) -> dict[tuple[str, OptimizerName], tuple[RunResult, list[Event]]]:
    """An uninterrupted run of every method and optimiser, and its events."""
    root = tmp_path_factory.mktemp("optimizers")
    found = {}
    for method, name in CASES:
        events: list[Event] = []
        config = run_config(tiny_model, tiny_data, root / f"{method}-{name.value}", *settings(method, name))
        found[method, name] = train(config, emit=events.append), events
    return found


ADAMWS = (OptimizerName.ADAMW, OptimizerName.ADAMW_8BIT)
Finished = dict[tuple[str, OptimizerName], tuple[RunResult, list[Event]]]


# A paged optimiser on a CPU makes the bytes of the plain one, as a test below shows, by the same code. The fast suite
# has one of each way to keep a state: in float32, in 8 bits, and factored.
KILLED = [
    *(
        pytest.param("lora", name, marks=() if name in ADAMWS else pytest.mark.slow)
        for name in OptimizerName
    ),
    ("full", OptimizerName.ADAMW_8BIT), ("full", OptimizerName.ADAFACTOR),
]  # fmt: skip


@pytest.mark.parametrize(("method", "name"), KILLED)
def test_a_run_killed_and_resumed_ends_in_the_same_bytes(
    method: str, name: OptimizerName, finished: Finished, command_line: CommandLine, tiny_model: Path, tiny_data: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    expected, output = finished[method, name][0].output, tmp_path / "run"
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(run_config(tiny_model, tiny_data, output, *settings(method, name))))
    ended = command_line.run("train", "--config", str(file), when=output / "checkpoints" / "step-000004" / "state.json")
    assert ended.code == -signal.SIGKILL, ended.err
    assert not (output / FILES[method]).exists()
    ended = command_line.run("train", "--config", str(file), "--resume")
    assert ended.code == 0, ended.err
    assert (output / FILES[method]).read_bytes() == (expected / FILES[method]).read_bytes()
    theirs, ours = (
        load_file(folder / "checkpoints" / "step-000016" / "optimizer.safetensors") for folder in (expected, output)
    )
    assert_same_tensors(theirs, ours)
    eight = name in (OptimizerName.ADAMW_8BIT, OptimizerName.PAGED_ADAMW_8BIT)
    assert any(tensor.dtype == torch.uint8 for tensor in ours.values()) is eight


@pytest.mark.parametrize(("method", "name"), CASES)
def test_every_optimizer_lowers_the_loss(method: str, name: OptimizerName, finished: Finished) -> None:
    losses = [event.loss for event in finished[method, name][1] if isinstance(event, StepDone)]
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])


def test_paging_on_a_cpu_is_said_and_gives_the_same_bytes(finished: Finished) -> None:
    for name in (OptimizerName.ADAMW, OptimizerName.ADAMW_8BIT):
        paged = OptimizerName(f"paged_{name.value}")
        for method in METHODS:
            (plain, quiet), (other, events) = finished[method, name], finished[method, paged]
            assert (plain.output / FILES[method]).read_bytes() == (other.output / FILES[method]).read_bytes()
            said = [event.message for event in events if isinstance(event, Note) and "pages by itself" in event.message]
            assert said == [f"train.optimizer {paged.value} on a CPU is {name.value}: main memory pages by itself"]
            assert not any("pages" in event.message for event in quiet if isinstance(event, Note))


@pytest.mark.parametrize(("method", "name"), CASES)
def test_the_planned_state_is_the_state(method: str, name: OptimizerName, finished: Finished, tiny_model: Path) -> None:
    result = finished[method, name][0]
    config = run_config(tiny_model, Path("x"), Path("y"), *settings(method, name))
    spec = spec_from_hf(open_checkpoint(tiny_model).config)
    setup = Setup(
        spec=spec,
        method=config.method,
        dtype=torch.float32,
        lora=LoraSpec.of(config.lora, tied=spec.tied_head),
        optimizer=config.train.optimizer,
    )
    state = load_file(result.output / "checkpoints" / "step-000016" / "optimizer.safetensors")
    assert state_bytes(setup) == sum(tensor.nbytes for tensor in state.values())
    assert memory(setup, BatchShape.of_rows(64, 64, 1), recompute=False, start=0).optimizer == state_bytes(setup)
    assert disk(setup).checkpoint == disk(setup).result + state_bytes(setup)
    shapes = sorted(tuple(shape) for _, shape in setup.trained)
    assert shapes == sorted(tuple(p.shape) for p in result.trainable.named().values())


def test_resuming_with_another_optimizer_is_refused(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    first = run_config(tiny_model, tiny_data, tmp_path / "run", *settings("lora", OptimizerName.ADAMW))
    with pytest.raises(Interrupted):
        train(first, stop=lambda: True)
    other = run_config(tiny_model, tiny_data, tmp_path / "run", *settings("lora", OptimizerName.LION))
    with pytest.raises(CheckpointError) as caught:
        train(other, resume=True)
    assert "train.optimizer: 'adamw' then, 'lion' now" in str(caught.value)
    assert "train.beta2: 0.999 then, 0.99 now" in str(caught.value)
