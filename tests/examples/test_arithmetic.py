"""The example of sums: its prompts are right, its rewards say so, and its configuration trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models.tiny import write_rows
from veneer.config import parse
from veneer.config.values import override, read_yaml
from veneer.events import Event, StepDone
from veneer.rewards.child import loaded
from veneer.training.run import train

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "arithmetic"


def test_prompts_have_their_answers_and_rewards_know_them() -> None:
    rows = loaded(FOLDER / "prompts.py", "prompts")(300)
    assert len({row["prompt"] for row in rows}) == 300
    words = [row["prompt"].strip("?").split() for row in rows]
    assert all(int(one[2]) + int(one[4]) == int(row["answer"]) for one, row in zip(words, rows, strict=True))
    right, short = (loaded(FOLDER / "rewards.py", name) for name in ("says_the_number", "is_short"))
    assert right(["It is 12.", "12 or 13", "none", "-12"], ["12"] * 4) == [1.0, 0.0, 0.0, 0.0]
    assert short(["", "x" * 50, "x" * 200]) == [1.0, 0.5, 0.0]


def test_its_configuration_trains_with_both_rewards(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    file = write_rows(tmp_path / "prompts.jsonl", loaded(FOLDER / "prompts.py", "prompts")(20))
    settings = [
        f"model={tiny_model}", f"output={tmp_path / 'run'}", f"data.file={file}", "train.steps=1",
        "train.examples_per_step=2", "compute.device=cpu",
    ]  # fmt: skip
    seen: list[Event] = []
    config = parse(override(read_yaml(FOLDER / "grpo.yaml"), settings), where="the example")
    train(config, emit=seen.append)
    (step,) = [event for event in seen if isinstance(event, StepDone)]
    assert {"rewards/says_the_number/mean", "rewards/is_short/mean"} <= step.metrics.keys()
