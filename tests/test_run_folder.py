"""What stands in the folder of a run is found by its one type."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models.tiny import run_config
from veneer.errors import ConfigError, Interrupted
from veneer.run_folder import RunFolder, run_of
from veneer.training.run import train


def test_an_empty_folder_holds_no_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "none")
    assert (folder.checkpoint_steps(), folder.events(), folder.weights, folder.config()) == ([], [], {}, None)
    assert not folder.resumable
    assert run_of(tmp_path) is None


def test_only_the_folder_of_a_checkpoint_can_be_resumed_from(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    (folder.checkpoints / "step-000010.tar").touch()
    assert not folder.resumable
    folder.checkpoint(10).mkdir()
    assert folder.resumable


def test_a_finished_run_has_every_file(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=2", "train.save_every=1"))
    folder = RunFolder(tmp_path / "run")
    named = {folder.config_file, folder.events_file, folder.curve_file, folder.summary_file, folder.lock_file}
    named.add(folder.trained_rows_file)
    found = {path for path in folder.path.iterdir() if path.name != ".lock"}
    assert found == {*named, *folder.results.values(), folder.checkpoints}
    (folder.checkpoints / "step-²").mkdir()
    assert folder.checkpoint_steps() == [1, 2]
    assert folder.resumable
    config = folder.config()
    assert config is not None
    assert config.train.steps == 2
    assert [event["event"] for event in folder.events()][-1] == "RunFinished"
    for adapter in (folder.path, folder.checkpoint(1)):
        run = run_of(adapter)
        assert run is not None
        assert run.path.samefile(folder.path)


def test_an_interrupted_run_can_be_gone_on_with(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=2"), stop=lambda: True)
    folder = RunFolder(tmp_path / "run")
    assert folder.resumable
    assert folder.weights == {}
    assert not folder.summary_file.exists()


def test_a_damaged_configuration_is_refused_by_name(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.config_file.write_text("method: lora\n")
    with pytest.raises(ConfigError, match=r"config\.yaml(.|\n)*delete the file"):
        folder.config()
    assert folder.recorded() == {"method": "lora"}
    folder.config_file.write_text("method: [")
    with pytest.raises(ConfigError, match=r"config\.yaml: not valid YAML(.|\n)*delete the file"):
        folder.recorded()


@pytest.mark.parametrize("text", ["", "model: ["])
def test_a_run_goes_on_without_its_configuration(text: str, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=2", "train.save_every=1")
    with pytest.raises(Interrupted):
        train(config, stop=lambda: True)
    folder = RunFolder(tmp_path / "run")
    folder.config_file.write_text(text)
    with pytest.raises(ConfigError, match="delete the file"):
        train(config, resume=True)
    folder.config_file.unlink()
    assert train(config, resume=True).progress.step == 2
