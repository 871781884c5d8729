"""What a resumption meets that has changed is named and refused; a run changes nothing that is not its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from helpers.models.tiny import rows, run_config, tree, write_model, write_rows
from helpers.tensors import assert_same_tensors
from helpers.training.training_runs import LONG, SETTINGS, WEIGHTS, weights
from veneer.errors import CheckpointError, Interrupted, OutputError
from veneer.events import Event, StepDone
from veneer.io import digests
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.training.run import train
from veneer.training.session import RunResult


@pytest.mark.scenario(number=14)
def test_two_runs_into_one_folder_are_refused(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=3")
    refusals = []

    def second(event: Event) -> None:
        if isinstance(event, StepDone):
            with pytest.raises(OutputError, match="another run is writing there") as caught:
                train(config)
            refusals.append(caught.value)

    train(config, emit=second)
    assert len(refusals) == 3
    train(run_config(tiny_model, tiny_data, tmp_path / "whole", "train.steps=3"))
    assert weights(tmp_path / "run", "lora") == weights(tmp_path / "whole", "lora")


@pytest.mark.scenario(number=16)
@pytest.mark.scenario(number=15)
def test_every_changed_setting_and_changed_data_is_listed(
    finished: dict[str, RunResult], tiny_model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(finished["lora"].output, output)
    edited = write_rows(tmp_path / "edited.jsonl", [*rows(19), rows(20, seed=5)[-1]])
    before = tree(output / "checkpoints")
    changes = ("lora.rank=8", "train.learning_rate=0.5", "train.seed=4", "lora.dropout=0.2")
    with pytest.raises(CheckpointError) as caught:
        train(run_config(tiny_model, edited, output, *LONG, *changes), resume=True)
    message = str(caught.value)
    for line in (
        "lora.rank: 4 then, 8 now", "train.learning_rate: 0.01 then, 0.5 now", "train.seed: 0 then, 4 now",
        "lora.dropout: 0.1 then, 0.2 now", "data digest: ",
    ):  # fmt: skip
        assert line in message
    assert message.count("\n  - ") == 5
    assert tree(output / "checkpoints") == before


@pytest.mark.scenario(number=15)
@pytest.mark.parametrize("change", ["train.epochs=2", "method=qlora", "compute.dtype=bfloat16", "data.max_length=40"])
def test_no_changed_setting_is_let_through(
    change: str, finished: dict[str, RunResult], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(finished["lora"].output, output)
    with pytest.raises(CheckpointError, match="belongs to a run with other settings"):
        train(run_config(tiny_model, tiny_data, output, *SETTINGS["lora"], *LONG, change), resume=True)


@pytest.mark.scenario(number=16)
@pytest.mark.scenario(number=15)
def test_a_base_model_that_changed_is_found_and_one_that_moved_is_not_minded(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "model"
    shutil.copytree(tiny_model, moved)
    config = run_config(moved, tiny_data, tmp_path / "run", "train.steps=3")
    with pytest.raises(Interrupted):
        train(config, stop=lambda: True)
    write_model(tmp_path / "other", seed=9)
    shutil.copy(tmp_path / "other" / "model.safetensors", moved / "model.safetensors")
    with pytest.raises(CheckpointError, match="model digest"):
        train(config, resume=True)
    resumed = train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=3"), resume=True)
    train(run_config(tiny_model, tiny_data, tmp_path / "whole", "train.steps=3"))
    assert weights(resumed.output, "lora") == weights(tmp_path / "whole", "lora")


@pytest.mark.scenario(number=16)
@pytest.mark.scenario(number=15)
def test_a_change_in_the_middle_of_a_base_is_refused_before_a_checkpoint_is_written(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digests of the ends alone, by which a resumption starts at once, do not see it; the whole one does."""
    monkeypatch.setattr(digests, "SAMPLE_BYTES", 1000)
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    config = run_config(model, tiny_data, tmp_path / "run", "train.steps=4")
    with pytest.raises(Interrupted):
        train(config, stop=lambda: True)
    content = bytearray((model / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 0x10
    (model / "model.safetensors").write_bytes(content)
    before = tree(tmp_path / "run" / "checkpoints")
    with pytest.raises(CheckpointError, match=r"(?s)another base model.*- model\.safetensors\n"):
        train(config, resume=True)
    assert tree(tmp_path / "run" / "checkpoints") == before
    assert not (tmp_path / "run" / WEIGHTS["lora"]).exists()


@pytest.mark.scenario(number=23)
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_the_base_is_not_changed_by_training(method: str, finished: dict[str, RunResult], tiny_model: Path) -> None:
    form = WeightForm.QUANTIZED if method == "qlora" else WeightForm.FROZEN
    fresh = load_model(open_checkpoint(tiny_model), Loading(form=form, dtype=torch.float32))
    trained = {
        name.replace(".base.", "."): tensor
        for name, tensor in finished[method].model.state_dict().items()
        if "lora_" not in name
    }
    assert_same_tensors(trained, fresh.state_dict())


@pytest.mark.scenario(number=23)
def test_the_base_files_are_not_changed_by_training(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    before = tree(tiny_model)
    for method, settings in SETTINGS.items():
        train(run_config(tiny_model, tiny_data, tmp_path / method, *settings, "train.steps=1"))
    assert tree(tiny_model) == before
