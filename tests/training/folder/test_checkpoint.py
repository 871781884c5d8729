"""A checkpoint is whole or it is not used, and there is always one that is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from helpers.models.tiny import tree
from helpers.run_folders.checkpoints import FILES, IDENTITY, Saved, adapter, optimizer_of, same
from veneer.adapters.files.integrity import MANIFEST_FILE
from veneer.adapters.files.origin import BASE_FILE
from veneer.errors import AdapterError, CheckpointError, OutputError
from veneer.io import digests
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.run_folder import RunFolder
from veneer.training.folder import checkpoint, optimizer_file
from veneer.training.folder.checkpoint import CheckpointStore, verify
from veneer.training.folder.progress import Progress
from veneer.training.trainable import FullTraining, Trainable


def test_a_checkpoint_holds_these_files_and_their_digests(saved: Saved) -> None:
    folder = saved.store.folder.checkpoint(3)
    assert folder.name == "step-000003"
    assert sorted(file.name for file in folder.iterdir()) == FILES
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    assert manifest == {name: digests.sha256(folder / name) for name in FILES if name != MANIFEST_FILE}
    assert verify(folder) is None


def test_the_newest_comes_back_bit_by_bit(saved: Saved) -> None:
    progress, state, warnings = saved.restored()
    assert progress == Progress(step=3, tokens=30, seconds=0.5)
    assert same(state, saved.states[3])
    assert warnings == []


def test_the_whole_model_comes_back_bit_by_bit(tmp_path: Path, tiny_model: Path) -> None:
    def whole(path: Path) -> Trainable:
        origin = open_checkpoint(path)
        return FullTraining(load_model(origin, Loading(form=WeightForm.TRAINABLE, dtype=torch.float32)), origin)

    saved = Saved(tmp_path, tiny_model, keep=2, make=whole)
    progress, state, _ = saved.restored()
    assert progress.step == 3
    assert same(state, saved.states[3])


# -------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "null", '{"state.json": "x"}', '{"state.json": 5, "optimizer.safetensors": null}', "\ud800", "["],
)
def test_a_manifest_of_another_kind_is_damage(saved: Saved, text: str) -> None:
    (saved.store.folder.checkpoint(3) / MANIFEST_FILE).write_bytes(text.encode("utf-8", errors="surrogatepass"))
    assert verify(saved.store.folder.checkpoint(3)) is not None
    assert saved.restored()[0].step == 2


def test_a_checkpoint_that_the_system_does_not_let_be_read_is_no_damage(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    before = tree(saved.store.folder.checkpoints)
    monkeypatch.setattr(checkpoint, "sha256", refused)
    with pytest.raises(CheckpointError, match=r"cannot be read: Permission denied"):
        saved.restored()
    assert tree(saved.store.folder.checkpoints) == before


def test_a_state_of_another_version_is_refused(saved: Saved) -> None:
    folder = saved.store.folder.checkpoint(3)
    state = json.loads((folder / "state.json").read_text())
    state["progress"]["moon"] = "full"
    (folder / "state.json").write_text(json.dumps(state))
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest | {"state.json": digests.sha256(folder / "state.json")}))
    with pytest.raises(CheckpointError, match="another version"):
        saved.restored()


def test_partial_folders_are_removed_and_never_taken(saved: Saved) -> None:
    shutil.copytree(saved.store.folder.checkpoint(3), saved.store.folder.checkpoints / ".partial-99-step-000009")
    (saved.store.folder.checkpoints / "step-abc").mkdir()
    (saved.store.folder.checkpoints / "step-000007").write_text("a file")
    assert saved.store.folder.checkpoint_steps() == [1, 2, 3]
    assert saved.restored()[0].step == 3
    assert not (saved.store.folder.checkpoints / ".partial-99-step-000009").exists()


def test_without_any_there_is_nothing_to_resume(tmp_path: Path, tiny_model: Path) -> None:
    trainable = adapter(tiny_model)
    store = CheckpointStore(RunFolder(tmp_path), keep=1, identity={})
    assert store.folder.checkpoint_steps() == []
    with pytest.raises(CheckpointError, match="there is no checkpoint to resume from"):
        store.restore(trainable, optimizer_of(trainable), pytest.fail)


# ------------------------------------------------------------------------------------------------------------ identity


def test_a_setting_that_is_newer_than_the_checkpoint_had_its_default_then(saved: Saved) -> None:
    trainable = saved.make(saved.model)
    defaults = {"new": "usual", "lora.rank": 64}
    for value in ("usual", "other"):
        identity = {**IDENTITY, "new": value}
        store = CheckpointStore(saved.store.folder, keep=3, identity=identity, defaults=defaults)
        if value == "usual":
            assert store.restore(trainable, optimizer_of(trainable), pytest.fail).step == 3
        else:
            with pytest.raises(CheckpointError, match=r"settings or data:\n  - new: 'usual' then, 'other' now\n"):
                store.restore(trainable, optimizer_of(trainable), pytest.fail)


@pytest.mark.parametrize(
    ("key", "then", "now"),
    [
        ("compute.device", "cuda:0", "cuda:1"),
        ("compute.recompute", "never", "layers"),
        ("tracking.project", "veneer", "mine"),
        ("tracking.mode", "offline", "online"),
        ("lora.target_modules", ["q_proj", "v_proj"], ["v_proj", "q_proj"]),
        ("lora.layers_to_transform", [1, 0], [0, 1]),
    ],
)
def test_what_changes_no_bit_may_be_another_one(key: str, then: object, now: object, saved: Saved) -> None:
    trainable = saved.make(saved.model)
    store = CheckpointStore(saved.store.folder, keep=3, identity={**IDENTITY, key: now}, defaults={key: then})
    assert store.restore(trainable, optimizer_of(trainable), pytest.fail).step == 3


def test_other_modules_are_another_run(saved: Saved) -> None:
    key, trainable = "lora.target_modules", saved.make(saved.model)
    for then, now in ((["q_proj", "v_proj"], ["q_proj"]), (["q_proj"], "q_proj")):
        store = CheckpointStore(saved.store.folder, keep=3, identity={**IDENTITY, key: now}, defaults={key: then})
        with pytest.raises(CheckpointError, match=key):
            store.restore(trainable, optimizer_of(trainable), pytest.fail)


def test_every_difference_to_the_run_is_listed(saved: Saved) -> None:
    before = tree(saved.store.folder.checkpoints)
    with pytest.raises(CheckpointError) as caught:
        saved.restored(**{"lora.rank": 8, "data digest": "xyz", "seed": 1})
    message = str(caught.value)
    for line in ("lora.rank: 2 then, 8 now", "data digest: 'abc' then, 'xyz' now", "seed: None then, 1 now"):
        assert line in message
    assert message.count("\n  - ") == 3
    assert "Resume with the settings of that run" in message
    assert tree(saved.store.folder.checkpoints) == before


def test_a_run_of_other_settings_loses_no_damaged_checkpoint(saved: Saved) -> None:
    (saved.store.folder.checkpoint(3) / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"lora\.rank"):
        saved.restored(**{"lora.rank": 8})
    assert saved.store.folder.checkpoint_steps() == [1, 2, 3]


# ----------------------------------------------------------------------------------------------------------- retention


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [(1, None, [6]), (2, None, [5, 6]), (9, None, [1, 2, 3, 4, 5, 6]), (1, 3, [3, 6]), (2, 6, [5, 6]), (2, 5, [5, 6]),
     (2, 99, [5, 6])],
)  # fmt: skip
def test_the_newest_and_the_best_are_kept(
    tmp_path: Path, tiny_model: Path, keep: int, best: int | None, left: list[int]
) -> None:
    trainable = adapter(tiny_model)
    store = CheckpointStore(RunFolder(tmp_path), keep=keep, identity={})
    for step in range(1, 7):
        store.save(Progress(step=step, best_step=best), trainable, optimizer_of(trainable))
        assert store.folder.checkpoint_steps()[-1] == step
    assert store.folder.checkpoint_steps() == left


@pytest.mark.parametrize(("module", "moment"), [(optimizer_file, "write_tensors"), (checkpoint, "sha256")])
def test_a_failure_while_writing_leaves_the_older_ones(
    saved: Saved, tiny_model: Path, module: ModuleType, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    trainable = adapter(tiny_model)
    before = tree(saved.store.folder.checkpoints)
    monkeypatch.setattr(module, moment, fails)
    with pytest.raises(OutputError, match="No space left"):
        saved.store.save(Progress(step=4), trainable, optimizer_of(trainable))
    assert tree(saved.store.folder.checkpoints) == before


def test_weights_that_are_not_finite_are_never_saved(saved: Saved, tiny_model: Path) -> None:
    trainable = adapter(tiny_model)
    next(iter(trainable.named().values())).data.view(-1)[0] = float("nan")
    before = tree(saved.store.folder.checkpoints)
    with pytest.raises(AdapterError, match="NaN"):
        saved.store.save(Progress(step=4), trainable, optimizer_of(trainable))
    assert tree(saved.store.folder.checkpoints) == before


def test_saving_a_step_twice_writes_it_once(saved: Saved, tiny_model: Path) -> None:
    trainable = adapter(tiny_model)
    before = tree(saved.store.folder.checkpoints)
    assert saved.store.save(Progress(step=3), trainable, optimizer_of(trainable)) == saved.store.folder.checkpoint(3)
    assert tree(saved.store.folder.checkpoints) == before


def test_a_base_that_changed_is_refused_before_the_first_checkpoint_is_written(
    tmp_path: Path, tiny_model: Path
) -> None:
    trainable = adapter(tiny_model)
    optimizer = optimizer_of(trainable)
    then = {"config.json": "a", "model.safetensors": "b", "tokenizer.json": "c"}
    first = CheckpointStore(RunFolder(tmp_path), keep=3, identity=IDENTITY, base=lambda: then)
    first.save(Progress(step=1), trainable, optimizer)
    asked: list[str] = []

    def other() -> dict[str, str]:
        asked.append("base")
        return {**then, "model.safetensors": "B", "extra.json": "d"}

    second = CheckpointStore(RunFolder(tmp_path), keep=3, identity=IDENTITY, base=other)
    progress = second.restore(trainable, optimizer, lambda message: None)
    assert progress.step == 1
    assert asked == []  # hashing goes on in the background, and nobody waits for it before the first step
    with pytest.raises(CheckpointError, match=r"(?s)extra\.json.*model\.safetensors") as error:
        second.save(Progress(step=2), trainable, optimizer)
    assert "config.json" not in str(error.value)
    assert RunFolder(tmp_path).checkpoint_steps() == [1]
    with pytest.raises(CheckpointError, match="another base"):
        second.check_base()


def test_a_checkpoint_of_before_the_digests_is_gone_on_with(saved: Saved) -> None:
    state = saved.store.folder.checkpoint(3) / "state.json"
    rewrite(saved.store.folder.checkpoint(3), {k: v for k, v in json.loads(state.read_text()).items() if k != "base"})
    progress, _, warnings = saved.restored()
    assert (progress.step, warnings) == (3, [])


def test_a_checkpoint_of_before_schedules_followed_one(saved: Saved) -> None:
    folder = saved.store.folder.checkpoint(3)
    state = json.loads((folder / "state.json").read_text())
    del state["progress"]["schedules"]
    state["identity"]["train.steps"] = 6
    rewrite(folder, state)
    progress, _, warnings = saved.restored(**{"train.steps": 9})
    assert progress.schedules == [[0, 6]]
    assert len(warnings) == 1
    progress.follow_schedule(9)
    assert progress.schedules == [[0, 6], [3, 9]]


def test_a_checkpoint_of_before_signals_memory_and_bad_steps_is_gone_on_with(saved: Saved) -> None:
    folder = saved.store.folder.checkpoint(3)
    state = json.loads((folder / "state.json").read_text())
    for name in ("evaluation_due", "micro_batches", "skipped", "bad_in_a_row", "window"):
        del state["progress"][name]
    rewrite(folder, state)
    progress, _, warnings = saved.restored()
    assert (progress, warnings) == (Progress(step=3, tokens=30, seconds=0.5), [])


def rewrite(folder: Path, state: object) -> None:
    """Another state, with the digest that belongs to it."""
    (folder / "state.json").write_text(json.dumps(state))
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    (folder / MANIFEST_FILE).write_text(json.dumps({**manifest, "state.json": digests.sha256(folder / "state.json")}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("step", value) for value in (10**9, 2, -3, 0, "3", [3], None, True, 3.0)),
        *(("tokens", value) for value in (-1, "30", [], None, 0.5)),
        *(("seconds", value) for value in (-0.5, "1", None, [1.0])),
        *(("best_step", value) for value in (-1, 4, "2", [2])),
        *(("best_loss", value) for value in ("0.5", [0.5], True)),
        *(("evaluation_due", value) for value in (0, "no", None)),
        *(
            ("micro_batches", value)
            for value in (None, [3], [[1]], [[0, 5]], [[2, 5], [1, 4]], [[1, 5], [1, 4]], [[1, 0]])
        ),
        *(("loss_scales", value) for value in (None, [3], [[1, 0]], [[2, 65_536]], [[1, 65_536], [1, 32_768]])),
        *(
            ("schedules", value)
            for value in (None, [3], [[0]], [[0, 0]], [[1, 5]], [[0, 5], [0, 6]], [[0, 5], [4, 6]], [[0, "5"]])
        ),
        *(("skipped", value) for value in (-1, 4, "1", None)),
        *(("bad_in_a_row", value) for value in (-1, 3, None)),
        *(("window", value) for value in (None, [1.0], [[1.0]], [[1.0, "x"]], [[1.0, 2.0]] * 129)),
    ],
)
def test_a_state_that_cannot_be_is_refused(saved: Saved, name: str, value: object) -> None:
    folder = saved.store.folder.checkpoint(3)
    state = json.loads((folder / "state.json").read_text())
    state["progress"][name] = value
    rewrite(folder, state)
    with pytest.raises(CheckpointError, match=rf"holds impossible values:\n.*{name}: "):
        saved.restored()


def test_a_step_beyond_the_run_is_refused(saved: Saved) -> None:
    folder = saved.store.folder.checkpoint(3)
    far = folder.rename(saved.store.folder.checkpoint(10**9))
    state = json.loads((far / "state.json").read_text())
    state["progress"]["step"] = 10**9
    state["identity"]["train.steps"] = 30
    rewrite(far, state)
    with pytest.raises(CheckpointError, match=r"holds impossible values:\n.*step: 1000000000"):
        saved.restored(**{"train.steps": 30})


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[" * 100, "[" * 100_000, "[]", "3", '"text"', "null", '{"identity": 3, "progress": {}}'),
        *(f'{{"identity": {{}}, "progress": {{}}, "base": {base}}}' for base in ("7", '"x"', '[["a", "b"]]')),
        '{"identity": [[1, 2]], "progress": {}}',
    ],
)
def test_a_state_of_another_kind_is_refused(saved: Saved, content: str) -> None:
    folder = saved.store.folder.checkpoint(3)
    rewrite(folder, {})
    (folder / "state.json").write_text(content)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    (folder / MANIFEST_FILE).write_text(json.dumps({**manifest, "state.json": digests.sha256(folder / "state.json")}))
    with pytest.raises(CheckpointError, match="another version of veneer"):
        saved.restored()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_time_that_is_no_number_is_refused(saved: Saved, number: str) -> None:
    folder = saved.store.folder.checkpoint(3)
    state = json.loads((folder / "state.json").read_text())
    state["progress"]["seconds"] = float(number)
    rewrite(folder, state)
    with pytest.raises(CheckpointError, match="seconds: "):
        saved.restored()


@pytest.mark.parametrize("content", ["", "null", "3", "[]", '"text"', "{", "{}", "[" * 100_000, "\x00", '{"a": 1}'])
def test_a_manifest_of_any_content_falls_back_to_the_checkpoint_before(saved: Saved, content: str) -> None:
    (saved.store.folder.checkpoint(3) / MANIFEST_FILE).write_text(content)
    progress, _, warnings = saved.restored()
    assert progress.step == 2
    assert len(warnings) == 1


@pytest.mark.scenario(number=27)
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *((name, "outside") for name in ("../../secret", "/etc/passwd", "", "a\x00b")),
        *((name, "an impossible file") for name in ("a" * 300, "a/" * 3000 + "b")),
        ("\ud800", "is missing"),
    ],
)
def test_a_manifest_that_names_other_files_falls_back_likewise(saved: Saved, name: str, fault: str) -> None:
    manifest = saved.store.folder.checkpoint(3) / MANIFEST_FILE
    manifest.write_text(json.dumps({name: "0" * 64, **json.loads(manifest.read_text())}))
    progress, _, warnings = saved.restored()
    assert progress.step == 2
    assert fault in warnings[0]


def test_a_folder_in_the_manifests_place_falls_back_likewise(saved: Saved) -> None:
    manifest = saved.store.folder.checkpoint(3) / MANIFEST_FILE
    manifest.unlink()
    manifest.mkdir()
    progress, _, _ = saved.restored()
    assert progress.step == 2


# ---------------------------------------------------------------------------------------------------------------- base


@pytest.mark.scenario(number=6)
def test_a_base_that_is_not_hashed_in_time_is_known_again_by_its_files(tmp_path: Path, tiny_model: Path) -> None:
    keys = {"model.safetensors": (1, 2, 3, 4)}

    def resumed(now: dict[str, tuple[int, int, int, int]]) -> list[str]:
        trainable, warnings = adapter(tiny_model), list[str]()
        store = CheckpointStore(RunFolder(tmp_path), keep=3, identity=IDENTITY, base=dict, base_keys=now)
        store.restore(trainable, optimizer_of(trainable), warnings.append)
        return warnings

    trainable = adapter(tiny_model)
    hurried = CheckpointStore(RunFolder(tmp_path), keep=3, identity=IDENTITY, base=lambda: None, base_keys=keys)
    folder = hurried.save(Progress(step=1), trainable, optimizer_of(trainable))
    assert verify(folder) is None
    assert not (folder / BASE_FILE).exists()
    assert resumed(keys) == []
    assert "were not yet hashed when the run stopped" in resumed({"model.safetensors": (1, 2, 3, 5)})[0]
