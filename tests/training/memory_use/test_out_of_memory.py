"""A run whose memory is full trains the same steps in smaller micro-batches, and its record says so."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.models.tiny import run_config, tree
from helpers.run_folders.run_logs import read_events
from helpers.training.plan_setups import GB, LLAMA_7B, START, Alike, setup
from veneer.config import ComputeSection
from veneer.data.micro_batches.batches import MicroBatch
from veneer.enums import Method
from veneer.errors import CheckpointError, Interrupted, OutOfMemory
from veneer.events import Event, MicroBatchHalved, Note
from veneer.planning.choose import Limit
from veneer.planning.memory import MB
from veneer.planning.plan import make_plan
from veneer.planning.setup import Setup
from veneer.planning.time import Rate
from veneer.quant.packed import PackedLinear
from veneer.reproduction.run import reproduce
from veneer.training.memory_use import as_planned
from veneer.training.memory_use.kept_weights import keeping_decoded
from veneer.training.memory_use.out_of_memory import what_fits
from veneer.training.objectives.base import Sums
from veneer.training.over_model import OverModel
from veneer.training.run import train

SETTINGS = ("train.steps=6", "train.save_every=2", "data.held_out=0.2", "train.eval_every=3")
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """There is no memory for micro-batches of more than 150 tokens."""
    whole = OverModel.sums

    def sums(over: OverModel, batch: MicroBatch) -> Sums:
        if len(batch.tokens) > 150:
            torch.empty(1 << 58)
        return whole(over, batch)

    monkeypatch.setattr(OverModel, "sums", sums)
    return monkeypatch


def losses(folder: Path, kind: str = "StepDone") -> list[float]:
    return [event["loss"] for event in read_events(folder / "events.jsonl") if event["event"] == kind]  # type: ignore[misc]


@pytest.mark.scenario(number=20)
def test_the_same_losses_a_record_and_the_same_bytes_when_it_is_made_again(
    small_memory: pytest.MonkeyPatch, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    said: list[Event] = []
    train(run_config(tiny_model, tiny_data, tmp_path / "run", *SETTINGS), emit=said.append)
    *_, halved = [event for event in said if isinstance(event, MicroBatchHalved)]
    assert halved.step == 1
    assert any("evaluating in micro-batches of up to" in event.message for event in said if isinstance(event, Note))
    lock = json.loads((tmp_path / "run" / "run.lock").read_text())
    assert lock["micro_batches"] == [[1, halved.tokens]]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["micro_batches"] == lock["micro_batches"]
    small_memory.undo()
    train(run_config(tiny_model, tiny_data, tmp_path / "whole", *SETTINGS))
    for kind in ("StepDone", "Evaluated"):
        assert losses(tmp_path / "run", kind) == pytest.approx(losses(tmp_path / "whole", kind), abs=1e-5)
    assert "micro_batches" not in json.loads((tmp_path / "whole" / "run.lock").read_text())
    # Cut alike, on a machine that has the memory.
    found = reproduce(tmp_path / "run")
    assert found.same, found.lines()


def test_a_run_that_shrank_and_was_stopped_resumes_to_the_same_bytes(
    small_memory: pytest.MonkeyPatch, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    train(run_config(tiny_model, tiny_data, tmp_path / "whole", *SETTINGS))
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *SETTINGS)
    asked = iter(range(100))
    with pytest.raises(Interrupted):
        train(config, stop=lambda: next(asked) == 2)
    small_memory.undo()
    train(config, resume=True)
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


def test_a_run_gives_decoded_weights_back_and_has_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    settings = ("method=qlora", *SETTINGS)
    train(run_config(tiny_model, tiny_data, tmp_path / "whole", *settings))
    whole, kept = OverModel.sums, list[bool]()

    def sums(over: OverModel, batch: MicroBatch) -> Sums:
        kept.append(any(one.keeps_decoded for one in over.model.modules() if isinstance(one, PackedLinear)))
        if kept[-1]:
            torch.empty(1 << 58)
        return whole(over, batch)

    monkeypatch.setattr(OverModel, "sums", sums)
    # As the plan of a GPU with room has it.
    monkeypatch.setattr(as_planned, "keeping_decoded", lambda model, room, *rest: keeping_decoded(model, 10**9, *rest))
    train(run_config(tiny_model, tiny_data, tmp_path / "run", *settings))
    assert kept[:2] == [True, False]
    assert sum(kept) == 1
    said = [str(event) for event in read_events(tmp_path / "run" / "events.jsonl") if event.get("level") == "warning"]
    assert len([one for one in said if "decoded at each use from here on" in one]) == 1
    assert "micro_batches" not in json.loads((tmp_path / "run" / "run.lock").read_text())
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


def test_what_fits_is_less_than_the_plan_without_decoded_weights() -> None:
    """They had been given back when it failed."""
    of = setup(LLAMA_7B, Method.QLORA, device="cuda")

    def rate(of: Setup) -> Rate:
        return Rate(1e12, 0.5, measured=False)

    no_limit = Limit(bytes=float("inf"), source="none")
    plan = make_plan(of, ComputeSection(), Alike(2048), no_limit, rate=rate, start=START)
    assert plan.choice.memory.decoded > 10 * GB
    said = what_fits(plan, ComputeSection(), Alike(2048), had=1e12)
    before, enough = (int(number.replace(",", "")) for number in re.findall(r"([\d,]+) MB", said))
    assert before == round(replace(plan.choice.memory, decoded=0).peak / MB)
    assert enough <= 0.9 * before


@pytest.mark.scenario(number=20)
def test_what_cannot_be_cut_ends_with_the_settings_that_fit(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    def sums(over: OverModel, batch: MicroBatch) -> Sums:
        torch.empty(1 << 58)
        raise AssertionError("that was possible")

    monkeypatch.setattr(OverModel, "sums", sums)
    with pytest.raises(OutOfMemory, match=r"(?s)computing step 1 .*There was this much: .*at its peak\. By the plan, "):
        train(run_config(tiny_model, tiny_data, tmp_path / "run", *SETTINGS))
    assert not (tmp_path / "run" / WEIGHTS).exists()
    assert read_events(tmp_path / "run" / "events.jsonl")[-1]["reason"] == "out of memory"


@pytest.mark.parametrize(
    "place", ["veneer.training.run.base_model", "veneer.training.folder.optimizer_file.write_tensors"]
)
def test_loading_and_saving_say_what_they_were_doing(
    place: str, monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(place, lambda *arguments: torch.empty(1 << 58))
    doing = "loading the model" if place.endswith("base_model") else r"writing the checkpoint of step 2"
    with pytest.raises(OutOfMemory, match=f"out of memory while {doing}"):
        train(run_config(tiny_model, tiny_data, tmp_path / "run", *SETTINGS))
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))


def test_a_run_goes_on_with_smaller_micro_batches_and_not_with_larger_ones(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    def config(folder: str, tokens: int, recompute: str = "never") -> object:
        settings = (f"compute.micro_batch_tokens={tokens}", f"compute.recompute={recompute}")
        return run_config(tiny_model, tiny_data, tmp_path / folder, *SETTINGS, *settings)

    asked = iter(range(100))
    with pytest.raises(Interrupted):
        train(config("run", 512), stop=lambda: next(asked) == 2)  # type: ignore[arg-type]
    before = tree(tmp_path / "run" / "checkpoints")
    with pytest.raises(CheckpointError, match=r"compute\.micro_batch_tokens: 512 then, 1024 now"):
        train(config("run", 1024), resume=True)  # type: ignore[arg-type]
    assert tree(tmp_path / "run" / "checkpoints") == before
    train(config("run", 100, "layers"), resume=True)  # type: ignore[arg-type]
    lock = json.loads((tmp_path / "run" / "run.lock").read_text())
    assert lock["micro_batches"] == [[1, 512], [4, 100]]
    train(config("whole", 512))  # type: ignore[arg-type]
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)
    found = reproduce(tmp_path / "run")
    assert found.same, found.lines()
