"""A run killed at any instant goes on from its last checkpoint, to the bytes of a run that nobody killed."""

from __future__ import annotations

import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.models.tiny import CommandLine, run_config
from helpers.run_folders.checkpoints import adapter, optimizer_of
from helpers.run_folders.run_logs import read_events
from helpers.support import smollm2_gguf
from helpers.training.training_runs import LONG, SETTINGS, options, weights
from veneer.run_folder import RunFolder
from veneer.training.folder.checkpoint import CheckpointStore, verify
from veneer.training.folder.progress import Progress
from veneer.training.run import train
from veneer.training.session import RunResult


def killed_and_resumed(command_line: CommandLine, argv: list[str], output: Path, moments: list[float]) -> int:
    """Kill the run at each moment, resuming after each, and let it end; returns how many kills hit it at work."""

    def resume() -> list[str]:
        return ["--resume"] if any((output / "checkpoints").glob("step-*")) else []

    hits = 0
    for moment in moments:
        ended = command_line.run(*argv, *resume(), after=moment)
        assert ended.code in (0, -signal.SIGKILL), ended.err
        hits += ended.code == -signal.SIGKILL
    ended = command_line.run(*argv, *resume())
    assert ended.code == 0, ended.err
    assert [path.name for path in output.rglob(".partial-*")] == []
    for folder in (output / "checkpoints").iterdir():
        assert verify(folder) is None
    return hits


@dataclass
class Killing:
    """Runs of every method in turn, killed at random instants of the time that they take."""

    command_line: CommandLine
    model: Path
    data: Path
    root: Path
    expected: dict[str, RunResult]

    def until(self, hits: int, seed: int) -> None:
        """Go on until so many kills have hit a run at work; a kill may come late on a machine that is in a hurry."""
        source = random.Random(seed)
        seconds = {method: self._seconds(method) for method in SETTINGS}
        hit = number = 0
        while hit < hits:
            assert number < 5 * hits, f"of {number} runs only {hit} were killed at work"
            method = list(SETTINGS)[number % 3]
            output = self.root / f"{number}"
            argv = options(self.model, self.data, output, *SETTINGS[method], *LONG)
            moments = [source.uniform(0.02, 1.0) * seconds[method] for _ in range(1 + number % 3)]
            hit += killed_and_resumed(self.command_line, argv, output, moments)
            assert weights(output, method) == weights(self.expected[method].output, method)
            steps = [e["step"] for e in read_events(output / "events.jsonl") if e["event"] == "StepDone"]
            assert set(steps) == set(range(1, 7))
            shutil.rmtree(output)
            number += 1

    def _seconds(self, method: str) -> float:
        argv = options(self.model, self.data, self.root / method, *SETTINGS[method], *LONG)
        begun = time.perf_counter()
        assert self.command_line.run(*argv).code == 0
        return time.perf_counter() - begun


@pytest.fixture
def killing(
    command_line: CommandLine, tiny_model: Path, tiny_data: Path, tmp_path: Path, finished: dict[str, RunResult]
) -> Killing:
    # The first run waits for the forking process to import everything: no measure of a run.
    command_line.run("--version")
    return Killing(command_line, tiny_model, tiny_data, tmp_path, finished)


@pytest.mark.scenario(number=1)
@pytest.mark.repeated
def test_a_run_killed_at_random_instants_resumes_to_the_same_bytes(killing: Killing, rounds: int) -> None:
    killing.until(6 * rounds if rounds > 1 else 3, seed=rounds)


@pytest.mark.scenario(number=1)
def test_a_run_killed_in_its_first_save_may_start_again(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    # Neither "holds a run" nor "nothing to resume": a folder with half a checkpoint in it is a fresh one.
    half = tmp_path / "run" / "checkpoints" / ".partial-77-step-000001"
    half.mkdir(parents=True)
    (half / "state.json").write_text("{")
    (tmp_path / "run" / "events.jsonl").write_text(
        '{"event": "StepDone", "step": 900, "loss": 99.0, "seconds": 1, "memory_mb": 1}\n{"event": "St'
    )
    train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=2"))
    assert not half.exists()
    steps = [e["step"] for e in read_events(tmp_path / "run" / "events.jsonl") if e["event"] == "StepDone"]
    assert steps == [1, 2]


@pytest.mark.scenario(number=13)
def test_a_kill_between_writing_and_deleting_leaves_more_never_less(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainable = adapter(tiny_model)
    store = CheckpointStore(RunFolder(tmp_path), keep=1, identity={})
    store.save(Progress(step=1), trainable, optimizer_of(trainable))

    def killed(store: CheckpointStore, best_step: int | None) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "prune", killed)
        with pytest.raises(KeyboardInterrupt):
            store.save(Progress(step=2), trainable, optimizer_of(trainable))
    assert store.folder.checkpoint_steps() == [1, 2]
    assert [verify(store.folder.checkpoint(step)) for step in store.folder.checkpoint_steps()] == [None, None]
    store.save(Progress(step=3), trainable, optimizer_of(trainable))
    assert store.folder.checkpoint_steps() == [3]


@pytest.mark.long
@pytest.mark.scenario(number=1)
def test_a_real_model_killed_fifty_times_resumes_to_the_same_bytes(
    command_line: CommandLine, tiny_data: Path, tmp_path: Path
) -> None:
    model = smollm2_gguf()
    settings = ("method=lora", "train.steps=12", "train.save_every=1", "train.examples_per_step=2", "train.keep=2")
    command_line.run("--version")
    begun = time.perf_counter()
    assert command_line.run(*options(model, tiny_data, tmp_path / "whole", *settings)).code == 0
    seconds = time.perf_counter() - begun
    source, hits, number = random.Random(0), 0, 0
    while hits < 50:
        output = tmp_path / str(number)
        argv = options(model, tiny_data, output, *settings)
        hits += killed_and_resumed(command_line, argv, output, [source.uniform(0.02, 1.0) * seconds for _ in range(5)])
        assert weights(output, "lora") == weights(tmp_path / "whole", "lora")
        shutil.rmtree(output)
        number += 1
