"""What TensorBoard is told is read back from its files, and training with it makes the bytes of training without it."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import run_config, tree
from helpers.run_folders.run_logs import read_events, started, step_done
from helpers.support import needs
from veneer.enums import TrackerName
from veneer.tracked_run import train_tracked
from veneer.trackers.board import TrackedRun
from veneer.trackers.process import ProcessTracker, RunId
from veneer.trackers.queue import TrackerFailed

pytestmark = needs("tensorboardX", "pip install 'veneer[track]'")


def events_in(folder: Path) -> Iterator[Any]:
    """The events in TensorBoard's files (TFRecord of Event)."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(folder.glob("events*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length


def read_back(folder: Path) -> tuple[dict[str, dict[int, float]], dict[str, list[str]]]:
    """The numbers by name and step, and the texts by name, of TensorBoard's files."""
    numbers: dict[str, dict[int, float]] = {}
    texts: dict[str, list[str]] = {}
    for event in events_in(folder):
        for value in event.summary.value:
            if value.HasField("tensor"):
                name = value.tag.removesuffix("/text_summary")
                texts.setdefault(name, []).append(value.tensor.string_val[0].decode())
            else:
                numbers.setdefault(value.tag, {})[event.step] = value.simple_value
    return numbers, texts


def test_rewards_of_any_name_have_numbers_of_their_own(tmp_path: Path) -> None:
    from veneer.trackers.tensorboard import TensorBoard, tag

    run = TrackedRun(
        id="1", name="n", folder=str(tmp_path), project="p", online=False, settings={"model": "m"}, resumed_at=0
    )
    names = ("准确", "50 %", "50 §", "a b", "a_b", "a", "a/mean")
    named = {f"objective/rewards/{name}/mean": float(place) for place, name in enumerate(names)}
    board = TensorBoard(run)
    board.numbers(named, 1)
    board.close("complete")
    numbers, _ = read_back(tmp_path / "tensorboard")
    assert numbers == {tag(name): {1: value} for name, value in named.items()}
    assert tag("objective/rewards/准确/mean") == "objective/rewards/准确/mean"


@pytest.mark.parametrize("resumed_at", [0, 40])
def test_steps_that_are_repeated_replace_the_earlier_ones(resumed_at: int, tmp_path: Path) -> None:
    """Also those of a run that was killed before its first checkpoint, and starts again in the same folder."""
    from tensorboardX.proto.event_pb2 import SessionLog

    from veneer.trackers.tensorboard import TensorBoard

    run = TrackedRun(
        id="1", name="n", folder=str(tmp_path), project="p", online=False, settings={}, resumed_at=resumed_at
    )
    TensorBoard(run).close("complete")
    starts = [
        event.step for event in events_in(tmp_path / "tensorboard") if event.session_log.status == SessionLog.START
    ]
    assert starts == [resumed_at + 1]


def test_a_file_that_cannot_be_written_ends_the_tracker_with_its_reason(
    tmp_path: Path, tiny_model: Path, tiny_data: Path
) -> None:
    """tensorboardX writes in a thread: when that had died, its process waited for it for ever, and said nothing."""
    config = run_config(tiny_model, tiny_data, tmp_path)
    small = (
        "import resource, sys\nfrom veneer.trackers.child import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\nsys.exit(main(sys.argv[1:]))"
    )
    tracker = ProcessTracker(TrackerName.TENSORBOARD, config, RunId(tmp_path), (sys.executable, "-c", small))

    def tell() -> None:
        tracker.take(started(1_000))
        for step in range(1, 1_000):
            tracker.take(step_done(step))
        tracker.close()

    with pytest.raises(TrackerFailed, match=r"OSError: .*File too large"):
        tell()


def test_tensorboard_has_the_runs_numbers_and_the_run_its_bytes(
    tmp_path: Path, tiny_model: Path, tiny_data: Path
) -> None:
    settings = ("train.steps=4", "data.held_out=0.2", "train.eval_every=2")
    plain = run_config(tiny_model, tiny_data, tmp_path / "plain", *settings)
    told = run_config(tiny_model, tiny_data, tmp_path / "told", *settings, "track=[tensorboard]")
    assert told.track == (TrackerName.TENSORBOARD,)
    for config in (plain, told):
        train_tracked(config)
    name = "adapter_model.safetensors"
    assert tree(tmp_path / "plain")[name] == tree(tmp_path / "told")[name]
    assert not (tmp_path / "plain" / "tensorboard").exists()
    numbers, texts = read_back(tmp_path / "told" / "tensorboard")
    events = read_events(tmp_path / "told" / "events.jsonl")
    for event in events:
        if event["event"] == "StepDone":
            step = int(str(event["step"]))
            for key in ("loss", "grad_norm", "learning_rate", "memory_mb"):
                assert numbers[f"train/{key}"][step] == pytest.approx(event[key], rel=1e-6)
    assert set(numbers["evaluation/loss"]) == {2, 4}
    assert f"output: {tmp_path / 'told'}" in texts["settings"][0]
    assert '"seed": 0' in texts["run.lock"][0]
    assert "| loss |" in texts["evaluation/measures"][0]
    assert texts["end"] == ["complete after step 4"]
    # To resume what is complete tells the tracker nothing.
    before = tree(tmp_path / "told")
    train_tracked(told, resume=True)
    assert tree(tmp_path / "told") == before
