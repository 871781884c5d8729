"""Whole runs with KTO: the reference point is there from the first step, and a resumed run has it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.models.tiny import run_config, write_rows
from helpers.rows.preference_rows import pairs
from helpers.training.training_runs import stopping_after
from veneer.errors import ConfigError, Interrupted
from veneer.events import Evaluated, Event, MicroBatchHalved, Note, StageBegun, StepDone
from veneer.model.language import LanguageModel
from veneer.run_folder import RunFolder
from veneer.training.references import reference_point
from veneer.training.references.partners import Partners
from veneer.training.references.reference import DOING
from veneer.training.references.reference_point import PartnerLayout
from veneer.training.run import train

SETTINGS = ("objective=kto", "train.steps=6", "train.examples_per_step=6", "data.held_out=0.2", "train.save_every=2",
            "kto.beta=0.5")  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows: list[dict[str, Any]] = []
    for row in pairs(20):
        rows += [{"prompt": row["prompt"], "completion": row["chosen"], "label": True}]
        rows += [{"prompt": row["prompt"], "completion": row["rejected"], "label": False}]
    return write_rows(tmp_path_factory.mktemp("labels") / "rows.jsonl", rows)


def test_a_run_learns_the_labels_and_is_resumed_to_the_byte(file: Path, tiny_model: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    train(run_config(tiny_model, file, tmp_path / "whole", *SETTINGS), emit=events.append)
    steps = [event for event in events if isinstance(event, StepDone)]
    assert steps[0].loss == pytest.approx(0.5, abs=1e-6), "a fresh adapter: 1 − σ(0)"
    assert steps[0].metrics["kl"] == pytest.approx(0, abs=1e-4)
    assert max(step.metrics["kl"] for step in steps) > 0
    last = [event for event in events if isinstance(event, Evaluated)][-1]
    assert last.metrics["rewards/chosen"] > last.metrics["rewards/rejected"] + 0.5
    stored = load_file(RunFolder(tmp_path / "whole").reference_file)
    assert len(stored["partner_values"]) > 0
    assert bool(np.isfinite(stored["partner_values"].numpy()).all())

    config = run_config(tiny_model, file, tmp_path / "cut", *SETTINGS)
    with pytest.raises(Interrupted):
        train(config, stop=stopping_after(3))
    again: list[Event] = []
    train(config, resume=True, emit=again.append)
    name = "adapter_model.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not any(isinstance(event, StageBegun) and event.stage == DOING for event in again)


def test_a_step_whose_reference_point_does_not_fit_is_made_in_smaller_micro_batches(
    file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (*SETTINGS[:1], "train.steps=2", *SETTINGS[2:], "lora.dropout=0.1")  # no pass beside the rows
    whole, computed = reference_point.partner_log_probabilities, 0

    def found(model: LanguageModel, partners: Partners, pairs: Any, most: int, layout: PartnerLayout) -> Tensor:
        nonlocal computed
        computed += 1
        if most > 200:
            torch.empty(1 << 58)
        return whole(model, partners, pairs, most, layout)

    monkeypatch.setattr(reference_point, "partner_log_probabilities", found)
    said: list[Event] = []
    train(run_config(tiny_model, file, tmp_path / "run", *settings), emit=said.append)
    assert computed > 3
    assert any(isinstance(event, MicroBatchHalved) and event.step == 1 for event in said)
    assert any("evaluating in micro-batches of up to" in event.message for event in said if isinstance(event, Note))


def test_a_time_limit_is_refused_with_the_reason(file: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has computed its reference for all of them"):
        run_config(tiny_model, file, tmp_path, "objective=kto", "train.time_limit=60")
