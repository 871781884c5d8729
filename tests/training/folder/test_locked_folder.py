"""The folder of a run: what is complete in it, or the base model's, is never overwritten."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from helpers.models.tiny import run_config, tree
from helpers.training.training_runs import LONG, SETTINGS
from veneer.errors import DataError, Interrupted, OutputError
from veneer.events import Note, ignore
from veneer.run_folder import RunFolder
from veneer.training.folder.locked_folder import locked_folder
from veneer.training.run import train
from veneer.training.session import RunResult


def test_an_existing_run_is_not_overwritten(
    finished: dict[str, RunResult], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    output = finished["lora"].output
    before = tree(output)
    with pytest.raises(OutputError, match="already holds a run; resume it with --resume"):
        train(run_config(tiny_model, tiny_data, output, *SETTINGS["lora"], *LONG))
    assert tree(output) == before


def test_a_run_that_was_killed_still_says_so_after_one_that_would_have_begun_anew(
    finished: dict[str, RunResult], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(finished["lora"].output, output)
    (output / ".lock").write_text("{}\n")
    config = run_config(tiny_model, tiny_data, output, *SETTINGS["lora"], *LONG)
    with pytest.raises(OutputError, match="resume it with --resume"), locked_folder(config, False, ignore):
        pass
    with locked_folder(config, True, ignore) as folder:
        assert folder.killed is not None


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_result_whose_checkpoints_were_deleted_is_not_overwritten(
    resume: bool, method: str, finished: dict[str, RunResult], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(finished[method].output, output, ignore=shutil.ignore_patterns("checkpoints"))
    before = tree(output)
    name = {"lora": "adapter_model.safetensors", "full": "model.safetensors"}[method]
    with pytest.raises(OutputError, match=f"holds {name} and no checkpoint: there is nothing to resume"):
        train(run_config(tiny_model, tiny_data, output, *SETTINGS[method], *LONG), resume=resume)
    assert tree(output) == before


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "# my notes\nmodel: base\noutput: out\ndata: {file: rows.jsonl}\n"),
        ("config.yaml", "defaults: [1, 2]\n"),
        ("config.yaml", "model: ["),
        ("events.jsonl", '{"clicked": "a button"}\n'),
    ],
)
def test_files_that_no_run_has_written_are_not_replaced(
    name: str, content: str, resume: bool, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    output.mkdir()
    (output / name).write_text(content)
    with pytest.raises(OutputError, match=f"holds {name}, which no run has written"):
        train(run_config(tiny_model, tiny_data, output, *LONG), resume=resume)
    assert (output / name).read_text() == content


def test_the_settings_of_a_run_without_a_checkpoint_may_be_replaced(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Its log may be gone: a later run that began anew has ended while it loaded its model."""
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *LONG)
    with pytest.raises(Interrupted):
        train(config, stop=lambda: True)
    folder = RunFolder(tmp_path / "run")
    shutil.rmtree(folder.checkpoints, ignore_errors=True)
    assert folder.config_file.is_file()
    with locked_folder(config, False, ignore):
        pass
    assert not folder.events()
    with locked_folder(config, False, ignore):
        pass


@pytest.mark.parametrize("name", ["events.jsonl", "skipped-rows.jsonl"])
@pytest.mark.parametrize("key", ["data.file", "data.eval_file", "pattern"])
def test_rows_that_stand_where_a_run_writes_are_kept(
    key: str, name: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    output.mkdir()
    shutil.copy(tiny_data, output / name)
    before = tree(output)
    if key == "pattern":
        config = run_config(tiny_model, output / f"{name[:4]}*.jsonl", output)
    else:
        config = run_config(tiny_model, tiny_data, output, f"{key}={output}/../run/{name}")
    with pytest.raises(OutputError, match=rf"(?s)files that it writes itself.*: {name}"):
        train(config)
    assert tree(output) == before
    beside = run_config(tiny_model, tiny_data, output / "other", f"data.eval_file={output / name}")
    with locked_folder(beside, False, ignore):
        pass


@pytest.mark.scenario(number=27)
@pytest.mark.parametrize("method", SETTINGS)
def test_the_folder_of_the_base_model_is_never_the_output(
    method: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (tmp_path / "link").symlink_to(model)
    before = tree(model)
    for output in (model, tmp_path / "link", model / ".." / "model"):
        with pytest.raises(OutputError, match="is the folder of the base model"):
            train(run_config(model, tiny_data, output, *SETTINGS[method]))
    assert tree(model) == before


def test_a_run_in_a_working_folder_that_was_deleted_says_so(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(OutputError, match="the working folder was deleted"):
        train(run_config(tiny_model, tiny_data, Path("run")))
    assert train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=1")).output == tmp_path / "run"


def test_a_run_that_is_refused_leaves_no_folder_that_was_not_there(tiny_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "runs" / "new"
    config = run_config(tiny_model, tmp_path / "none.jsonl", output)
    with pytest.raises(DataError, match="does not exist"):
        train(config)
    assert list(tmp_path.iterdir()) == []
    output.mkdir(parents=True)
    with pytest.raises(DataError, match="does not exist"):
        train(config)
    assert output.is_dir()


def test_what_was_told_or_put_into_a_new_folder_stays(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    told, used = (run_config(tiny_model, tiny_data, tmp_path / name) for name in ("told", "used"))
    with locked_folder(told, False, ignore) as folder:
        folder.log.emit(Note(message="a note"))
    assert "a note" in (tmp_path / "told" / "events.jsonl").read_text()
    with locked_folder(used, False, ignore):
        (tmp_path / "used" / "data.jsonl").touch()
    assert {path.name for path in (tmp_path / "used").iterdir()} == {".lock", "data.jsonl", "events.jsonl"}
