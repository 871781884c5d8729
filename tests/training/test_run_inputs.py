"""A run before any weight is read: what cannot work is refused there."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models.tiny import run_config
from veneer.errors import AdapterError, ConfigError, DataError, ModelError
from veneer.training.run import train


@pytest.mark.parametrize(
    ("assignments", "error", "message"),
    [
        (("model=/no/such/model",), ModelError, "does not exist"),
        (("data.file=/no/such/rows.jsonl",), DataError, "/no/such/rows.jsonl"),
        (("data.eval_file=/no/such/eval.jsonl",), DataError, "/no/such/eval.jsonl"),
        (("lora.rank=65536", "lora.init=pissa_fast"), AdapterError, "q_proj: rank 65536, at most 64"),
        (("lora.target_modules=[q_prj]",), AdapterError, "did you mean 'q_proj'"),
        (("compute.device=gpu",), ConfigError, "use auto, cpu, cuda"),
        (("data.max_length=5",), DataError, "no training row is left"),
        (("data.held_out=0.99",), DataError, "leaves none to train on"),
        (("train.epochs=1e-12",), ConfigError, "makes no step"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    assignments: tuple[str, ...], error: type[Exception], message: str, tiny_model: Path, tiny_data: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    with pytest.raises(error, match=message):
        train(run_config(tiny_model, tiny_data, tmp_path / "run", *assignments))
    # Nothing that was refused stands in the way of the next attempt.
    assert train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=1")).progress.step == 1


def test_a_base_that_was_moved_is_asked_for_with_the_record_that_names_it(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (link := Path("m")).symlink_to(tiny_model)
    config = run_config(link, tiny_data, tmp_path / "run", "train.steps=1")
    train(config)
    link.unlink()
    record = tmp_path / "run" / "config.yaml"
    with pytest.raises(ModelError, match=f"^m does not exist in {tmp_path}: {record} names .* so; give --model, where"):
        train(config, resume=True)
    other = config.model_copy(update={"model": "other"})
    with pytest.raises(ModelError, match=f"^other does not exist in {tmp_path}: name a model's directory"):
        train(other, resume=True)
