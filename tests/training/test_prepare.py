"""A run is planned as it is trained, and refused before a weight is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny import run_config, tree
from veneer.config.values import read_yaml
from veneer.data.rows import load_rows
from veneer.errors import ConfigError, Interrupted
from veneer.events import Note
from veneer.io.checkpoint import open_checkpoint
from veneer.training.run import train
from veneer.training.steps import PackedSteps, Packing


def test_the_cut_is_that_of_the_run(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    for tokens in (64, 128, 100_000):
        settings = ("train.examples_per_step=5", f"compute.micro_batch_tokens={tokens}")
        config = run_config(tiny_model, tiny_data, tmp_path / "run", *settings)
        rows = load_rows(config.data, open_checkpoint(tiny_model).tokenizer())
        source = PackedSteps(rows, config.train, Packing(share=True, pad_to_multiple_of=16), tokens)
        cut = source.batch_shape(tokens)
        batches = [batch for step in range(1, source.total + 1) for batch in source.micro_batches(step)]
        assert cut.tokens == max(len(batch.tokens) for batch in batches) == len(source.largest().tokens)
        assert cut.supervised == max(batch.supervised for batch in batches)
        assert cut.micro_batches == len(batches) / source.total
        assert cut.step_tokens == pytest.approx(sum(batch.document_tokens for batch in batches) / source.total)


def test_a_run_says_and_records_what_was_chosen(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    result = train(
        run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=1"),
        subscribers=[lambda event: notes.append(event.message) if isinstance(event, Note) else None],
    )
    recorded = read_yaml(tmp_path / "run" / "config.yaml")["compute"]
    assert recorded["micro_batch_tokens"] == result.plan.choice.micro_batch_tokens
    assert recorded["recompute"] == "never"
    assert any(note.startswith("plan: ") and "MB at the peak" in note for note in notes)


def test_a_run_that_cannot_fit_is_refused_before_a_weight_is_read(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "veneer.training.build.load_language_model", lambda *args, **rest: pytest.fail("the model was read")
    )
    with pytest.raises(ConfigError, match=r"may take 100 MB \(compute.memory_limit_mb=100\)"):
        train(run_config(tiny_model, tiny_data, tmp_path / "run", "compute.memory_limit_mb=100"))


def test_a_resumed_run_takes_what_was_chosen_before(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=3", "compute.recompute=layers",
                       "compute.micro_batch_tokens=96")  # fmt: skip
    with pytest.raises(Interrupted):
        train(first, stop=lambda: True)
    later = run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=3", "compute.memory_limit_mb=5000")
    plan = train(later, resume=True).plan
    assert (plan.choice.micro_batch_tokens, plan.choice.recompute) == (96, True)
    train(first.model_copy(update={"output": str(tmp_path / "whole")}))
    name = "adapter_model.safetensors"
    assert tree(tmp_path / "run")[name] == tree(tmp_path / "whole")[name]
