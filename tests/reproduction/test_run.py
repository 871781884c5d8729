"""A run made again: the same bytes on the same machine, and everything that differs named."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from helpers.models.tiny import run_config, tree
from helpers.processes.ctrl_c import pressed_after
from helpers.processes.other_user import as_another_user, as_root, open_folder
from veneer.cli import main
from veneer.errors import CheckpointError, Interrupted, ModelError, OutputError
from veneer.events import Event, Level, Note, Result, StepDone
from veneer.reproduction.run import reproduce
from veneer.training.folder.checkpoint import CheckpointStore
from veneer.training.folder.lock import LOCK_FILE
from veneer.training.run import train

WEIGHTS = "adapter_model.safetensors"


def lock_of(folder: Path) -> dict:  # type: ignore[type-arg]
    return json.loads((folder / LOCK_FILE).read_text())


def rewrite(folder: Path, change: dict) -> None:  # type: ignore[type-arg]
    (folder / LOCK_FILE).write_text(json.dumps({**lock_of(folder), **change}))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    output = tmp_path_factory.mktemp("reproduce") / "run"
    return train(run_config(tiny_model, tiny_data, output, "train.steps=6", "data.held_out=0.2")).output


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "settings",
    [
        ("method=lora", "lora.dropout=0.1", "data.held_out=0.2"),
        ("method=qlora", "compute.dtype=bfloat16"),
        ("method=qlora", "lora.new_tokens=['<parcel>']", "train.optimizer=adamw8bit"),
        ("method=full", "train.steps=3", "train.learning_rate=0.001"),
    ],
    ids=["lora", "qlora", "new tokens", "full"],
)
def test_the_same_bytes_come_out(settings: tuple[str, ...], tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    first = train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=5", *settings)).output
    before = tree(first)
    found = reproduce(first)
    assert (found.same, found.environment, found.different, found.notes) == (True, [], [], [])
    assert found.tensors > 0
    assert tree(first) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_a_run_that_was_resumed_is_made_again_in_one_piece(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = run_config(tiny_model, tiny_data, tmp_path / "run", "method=qlora", "train.steps=8", "train.save_every=2")
    done = []
    with pytest.raises(Interrupted):
        train(
            config,
            emit=lambda e: done.append(e) if isinstance(e, StepDone) else None,
            stop=lambda: len(done) > 3,
        )
    assert not (tmp_path / "run" / LOCK_FILE).exists()
    with pytest.raises(CheckpointError, match=r"run\.lock is missing(.|\n)*--resume"):
        reproduce(tmp_path / "run")
    train(config, resume=True)
    assert lock_of(tmp_path / "run")["resumed_at"] == [4]
    found = reproduce(tmp_path / "run", output=tmp_path / "again")
    assert found.same
    assert found.output == str(tmp_path / "again")
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / "run" / WEIGHTS).read_bytes()
    assert lock_of(tmp_path / "again")["resumed_at"] == []


def test_a_signal_after_the_last_step_ends_it_before_anything_is_compared(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base's files are not hashed then, and no result is written."""
    with monkeypatch.context() as patched:
        patched.setattr(CheckpointStore, "check_base", lambda store: None)
        with pytest.raises(Interrupted, match="was stopped; the same command continues"):
            reproduce(run, output=tmp_path / "again")
    assert reproduce(run, output=tmp_path / "again").same


@pytest.mark.parametrize("after", [0, 1, 3, 4])
def test_one_that_was_stopped_goes_on(after: int, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    """In either of two schedules, and between them; of a run that was made longer."""
    for steps in (3, 5):
        config = run_config(tiny_model, tiny_data, tmp_path / "run", f"train.steps={steps}")
        train(config, resume=steps == 5)
    done: list[Event] = []

    def note(event: Event) -> None:
        if isinstance(event, StepDone):
            done.append(event)

    with pytest.raises(Interrupted, match=r"run\.reproduced was stopped; the same command continues it"):
        reproduce(tmp_path / "run", subscribers=[note], stop=lambda: len(done) >= after)
    assert reproduce(tmp_path / "run", subscribers=[note]).same
    assert [event.step for event in done if isinstance(event, StepDone)] == [1, 2, 3, 4, 5]
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_one_that_ctrl_c_has_stopped_in_a_script_or_notebook_goes_on(copy: Path) -> None:
    said = r"run\.reproduced was stopped; the same command continues it"
    with pytest.raises(KeyboardInterrupt, match=said), pressed_after(3) as press:
        reproduce(copy, subscribers=[press])
    done: list[Event] = []
    assert reproduce(copy, subscribers=[done.append]).same
    assert [event.step for event in done if isinstance(event, StepDone)] == [4, 5, 6]


def test_what_is_left_of_a_killed_one_does_not_keep_from_making_it_again(copy: Path) -> None:
    left = copy.with_name("run.reproduced")
    left.mkdir()
    with pytest.raises(OutputError, match="exists already"):
        reproduce(copy)
    (left / "events.jsonl").touch()
    (left / ".lock").touch()
    assert reproduce(copy).same


def test_the_lock_holds_what_the_bytes_follow_from(run: Path, tiny_model: Path, tiny_data: Path) -> None:
    lock = lock_of(run)
    assert lock["versions"]["torch"] == version("torch")
    assert {"veneer", "python", "safetensors", "tokenizers"} <= lock["versions"].keys()
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= lock["base"]["files"].keys()
    assert lock["data"]["files"].keys() == {"data.file"}
    assert (lock["data"]["rows"], lock["data"]["evaluation_rows"]) == (16, 4)
    assert lock["hardware"]["threads"] == 1
    assert lock["config"]["train"]["steps"] == 6
    assert lock["result"].keys() == {WEIGHTS, "adapter_config.json", "base_model.json"}


def test_other_inputs_are_refused_with_their_names_before_anything_is_trained(
    copy: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    base, rows = tmp_path / "base", tmp_path / "rows.jsonl"
    shutil.copytree(tiny_model, base)
    shutil.copy(tiny_data, rows)
    assert reproduce(copy, model=str(base), data=rows).same
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"][0] += 1e-3
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with rows.open("a") as file:
        file.write("\n")
    (base / "generation_config.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        reproduce(copy, model=str(base), data=rows)
    for named in (
        "base model.safetensors: has changed",
        "base generation_config.json: is not there",
        "data data.file: has",
    ):
        assert named in str(caught.value)
    assert not copy.with_name("run.reproduced").exists()


def test_a_base_of_the_hub_at_a_revision_may_be_a_folder_now(copy: Path, tiny_model: Path) -> None:
    rewrite(copy, {"config": {**lock_of(copy)["config"], "revision": "v1"}})
    assert reproduce(copy, model=tiny_model).same


def test_another_environment_is_named_before_training_and_does_not_stop_it(copy: Path) -> None:
    lock = lock_of(copy)
    rewrite(
        copy, {"versions": {**lock["versions"], "torch": "2.0.0"}, "hardware": {**lock["hardware"], "kernels": "x"}}
    )
    told: list[Event] = []
    found = reproduce(copy, subscribers=[told.append])
    assert found.same
    first, last = told[0], told[-1]
    assert isinstance(first, Note)
    assert first.level is Level.WARNING
    assert all(line in first.message for line in found.environment)
    assert last == Result(verb="reproduce", values=found.to_json())
    assert found.environment[0] == f"torch: 2.0.0 then, {version('torch')} now"
    assert found.environment[1].startswith("kernels: x then")


def test_other_bytes_are_counted_and_the_first_step_is_named(copy: Path, tmp_path: Path) -> None:
    lock = lock_of(copy)
    config = lock["config"]
    rewrite(copy, {"config": {**config, "train": {**config["train"], "seed": 1}}})
    found = reproduce(copy)
    assert not found.same
    assert len(found.different) == found.tensors == 28
    assert found.first_step == 1
    assert found.output == str(tmp_path / "run.reproduced")
    text = "\n".join(found.lines())
    assert "28 of 28 tensors differ, first seen in the loss of step 1" in text
    shutil.rmtree(found.output)
    rewrite(copy, {"config": config})
    damaged = load_file(copy / WEIGHTS)
    name = sorted(damaged)[3]
    damaged[name][0, 0] += 0.5
    save_file(damaged, copy / WEIGHTS)
    found = reproduce(copy)
    assert [(one.name, one.numbers) for one in found.different] == [(name, 1)]
    assert found.different[0].largest == pytest.approx(0.5, abs=1e-6)
    assert found.first_step is None
    assert "has changed since the run wrote it" in found.notes[0]
    assert found.notes[1] == "the new result equals what the run wrote originally"


def test_files_of_the_run_that_have_changed_are_named_before_it_is_made_again(copy: Path, tmp_path: Path) -> None:
    (copy / "adapter_config.json").write_text('{"lora_alpha": 9999}')
    told: list[Event] = []
    found = reproduce(copy, subscribers=[told.append])
    assert isinstance(told[0], Note)
    assert f"since the run wrote it:\n  - {copy}/adapter_config.json" in told[0].message
    assert not found.same
    assert found.lines() == [
        f"{copy}/adapter_config.json has changed since the run wrote it", "the weights have the same bytes"
    ]  # fmt: skip
    assert found.output == str(tmp_path / "run.reproduced")
    (copy / WEIGHTS).write_bytes((copy / WEIGHTS).read_bytes()[:3000])
    (copy / "adapter_config.json").unlink()
    notes = reproduce(copy).notes
    assert notes[0] == f"{copy}/adapter_config.json has changed since the run wrote it"
    assert "cannot be compared: Error while deserializing header" in notes[1]
    assert notes[2].startswith(f"{copy / WEIGHTS} has changed since the run wrote it")
    assert notes[3:] == ["the new result equals what the run wrote originally"]


def test_weights_that_are_gone_are_missed_before_anything_is_trained(copy: Path) -> None:
    (copy / WEIGHTS).unlink()
    told: list[Event] = []
    with pytest.raises(CheckpointError, match="no file of weights any more"):
        reproduce(copy, subscribers=[told.append])
    assert told == []
    assert not copy.with_name("run.reproduced").exists()


def test_a_base_that_was_moved_is_asked_for_with_the_record_that_names_it(
    copy: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = copy / "run.lock"
    lock.write_text(lock.read_text().replace(f'"model": "{tiny_model}"', '"model": "m"'))
    monkeypatch.chdir(copy.parent)
    with pytest.raises(
        ModelError, match=f"^m does not exist in {copy.parent}: {lock} names .* so; give --model, where"
    ):
        reproduce(copy)
    with pytest.raises(ModelError, match=f"^other does not exist in {copy.parent}: name a model's directory"):
        reproduce(copy, model="other")


@as_root
def test_weights_that_may_not_be_read_are_missed_before_anything_is_trained(copy: Path) -> None:
    told: list[Event] = []
    with open_folder() as place:
        moved = Path(shutil.move(copy, place / "run"))
        (moved / WEIGHTS).chmod(0)
        with (
            as_another_user(),
            pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: cannot be read: Permission denied"),
        ):
            reproduce(moved, subscribers=[told.append])
        assert told == []
        assert not (place / "run.reproduced").exists()


def test_one_that_was_killed_before_it_was_compared_is_compared(
    copy: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    again, told = tmp_path / "again", list[Event]()
    assert reproduce(copy, output=again).same
    before = tree(again)
    assert reproduce(copy, output=again, subscribers=[told.append]).same
    assert tree(again) == before
    assert [type(event) for event in told] == [Result]
    other = train(run_config(tiny_model, tiny_data, tmp_path / "other", "train.steps=6", "train.seed=3")).output
    with pytest.raises(OutputError, match="again exists already"):
        reproduce(other, output=again)


def test_neither_the_run_itself_nor_a_copy_of_it_is_its_reproduction(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have the settings that the reproduction would have, and its bytes."""
    monkeypatch.chdir(tmp_path)
    train(run_config(tiny_model, tiny_data, Path("run"), "train.steps=1"))
    Path("link").symlink_to("run")
    for output in ("run", "link"):
        with pytest.raises(OutputError, match="is the run itself; give another --output, or leave it out"):
            reproduce("run", output=output)
    shutil.copytree("run", "copy/run")
    monkeypatch.chdir("copy")
    with pytest.raises(OutputError, match="run exists already"):
        reproduce("../run", output="run")
    shutil.rmtree("run/checkpoints")
    Path("run/run.lock").unlink()
    with pytest.raises(OutputError, match="run exists already"):
        reproduce("../run", output="run")


def test_the_folder_in_which_one_is_has_a_name(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "below").mkdir()
    for place, name in ((copy, "."), (copy / "below", "..")):
        monkeypatch.chdir(place)
        assert reproduce(name).same
    copy.with_name("run.reproduced").mkdir()
    with pytest.raises(OutputError, match=r"run\.reproduced exists already"):
        reproduce("..")


def test_the_command_says_it_with_its_exit_code(copy: Path) -> None:
    result = CliRunner().invoke(main, ["reproduce", str(copy)])
    assert result.exit_code == 0, result.output
    assert "the same bytes: 28 tensors" in result.stdout
    lock = lock_of(copy)
    rewrite(copy, {"config": {**lock["config"], "train": {**lock["config"]["train"], "seed": 1}}})
    result = CliRunner().invoke(main, ["reproduce", str(copy), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["same"] is False
    (copy / LOCK_FILE).write_text("{}")
    assert CliRunner().invoke(main, ["reproduce", str(copy)]).exit_code == 2
