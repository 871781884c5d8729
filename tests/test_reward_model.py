"""A reward model is opened from its files, those of PEFT too, and counts how often it is right about pairs."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models.tiny import run_config, write_rows
from helpers.rows.preference_rows import pairs
from veneer.config import ComputeSection
from veneer.enums import Dtype
from veneer.errors import AdapterError, ConfigError, DataError
from veneer.events import Event, Result
from veneer.reward_model import is_reward_adapter, open_reward_model, pair_accuracy
from veneer.training.run import train

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32)


def test_pairs_are_counted_and_an_adapter_of_a_language_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    rows = pairs(12)
    file = write_rows(tmp_path / "pairs.jsonl", rows)
    train(run_config(tiny_model, file, tmp_path / "run", "objective=reward", "train.steps=6", "train.seed=3"))
    assert is_reward_adapter(tmp_path / "run")
    reward = open_reward_model(str(tiny_model), tmp_path / "run", compute=FLOAT32)
    answers = [{"prompt": row["prompt"], "completion": row[key]} for row in rows for key in ("chosen", "rejected")]
    scores = reward.scores(answers)
    events: list[Event] = []
    found = pair_accuracy(reward, file, subscribers=[events.append])
    assert found.pairs == 12
    assert found.accuracy == sum(one > two for one, two in zip(scores[::2], scores[1::2], strict=True)) / 12
    assert found.chosen == pytest.approx(sum(scores[::2]) / 12)
    assert found.margin == pytest.approx((sum(scores[::2]) - sum(scores[1::2])) / 12)
    assert found.interval[0] < found.accuracy <= found.interval[1] + 1e-9
    assert any(isinstance(event, Result) and event.values["pairs"] == 12 for event in events)
    assert pair_accuracy(reward, rows[:4]).pairs == 4
    with pytest.raises(ConfigError, match="limit: must be at least 1, got -1"):
        pair_accuracy(reward, file, limit=-1)
    renamed = [{"q": row["prompt"], "good": row["chosen"], "bad": row["rejected"]} for row in rows]
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    assert pair_accuracy(reward, renamed, columns=columns).accuracy == found.accuracy
    with pytest.raises(DataError, match=r"the given rows: 2 of 2 rows .*\n.*the given rows:1: no pair of answers"):
        pair_accuracy(reward, answers[:2])
    train(run_config(tiny_model, file, tmp_path / "dpo", "objective=dpo", "train.steps=1"))
    assert not is_reward_adapter(tmp_path / "dpo")
    with pytest.raises(AdapterError, match="not the adapter of a reward model"):
        open_reward_model(str(tiny_model), tmp_path / "dpo")
