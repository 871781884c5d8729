"""Ray Train calls `train_loop` in its workers: the adapter of one process, also where a worker was killed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import ray.train
from ray.train import FailureConfig, ScalingConfig
from ray.train.torch import TorchTrainer

import ray
from helpers.models.tiny import run_config
from helpers.processes.ray_nodes import Nodes
from helpers.processes.ray_tasks import train_loop_killed_once
from veneer.errors import Interrupted
from veneer.ray import train_loop
from veneer.ray.train import _Reports, _restore
from veneer.run_folder import RunFolder
from veneer.training.run import train

WEIGHTS = "adapter_model.safetensors"
SETTINGS = ("train.lanes=2", "train.steps=12", "train.save_every=4", "lora.dropout=0.1", "compute.threads=1")


def test_a_run_that_goes_on_on_another_node_has_its_best_weights(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No answer is right at any step: the first evaluation is the best.
    best_first = ("train.publish=best", "train.best_metric=exact", "train.eval_every=1", "data.held_out=0.3")
    settings = (*best_first, "train.steps=8", "train.save_every=1", "train.keep=1")
    expected = train(run_config(tiny_model, tiny_data, tmp_path / "alone", *settings))
    best = expected.progress.best_step
    assert best is not None
    assert best < 6, "the newest checkpoint is not the best one"
    sent: list[Path] = []

    def report(metrics: object, checkpoint: ray.train.Checkpoint | None = None) -> None:
        if checkpoint is not None:
            sent.append(shutil.copytree(checkpoint.path, tmp_path / f"sent-{len(sent)}"))

    monkeypatch.setattr(ray.train, "report", report)
    config = run_config(tiny_model, tiny_data, tmp_path / "here", *settings)
    reports = _Reports(RunFolder(tmp_path / "here"), True, best=True)
    with pytest.raises(Interrupted):
        train(config, emit=reports.follow, stop=lambda: reports.send() or reports.metrics["step"] == 7)
    elsewhere = RunFolder(tmp_path / "elsewhere")
    _restore(elsewhere, ray.train.Checkpoint.from_directory(str(sent[-1])))
    assert elsewhere.checkpoint_steps() == sorted({best, max(elsewhere.checkpoint_steps())})
    found = train(run_config(tiny_model, tiny_data, elsewhere.path, *settings), resume=True)
    assert (found.output / WEIGHTS).read_bytes() == (expected.output / WEIGHTS).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_two_workers_make_the_bytes_of_one_process(
    killed: bool, two_nodes: Nodes, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    expected = train(run_config(tiny_model, tiny_data, tmp_path / "alone", *SETTINGS, "data.held_out=0.2"))
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *SETTINGS, "data.held_out=0.2")
    settings = config.model_dump(mode="json", exclude_unset=True)
    if killed:
        settings["marker"] = str(tmp_path / "marker")
    ray.init(two_nodes.address, log_to_driver=False)
    try:
        trainer = TorchTrainer(
            train_loop_killed_once if killed else train_loop,
            train_loop_config=settings,
            scaling_config=ScalingConfig(num_workers=2),
            run_config=ray.train.RunConfig(
                storage_path=str(tmp_path / "storage"), name="run", failure_config=FailureConfig(max_failures=2)
            ),
        )
        result = trainer.fit()
    finally:
        ray.shutdown()
    assert result.checkpoint is not None
    assert result.metrics["step"] == 12
    assert result.metrics["eval_loss"] == expected.progress.best_loss
    assert (tmp_path / "marker").exists() == killed
    adapter = Path(result.checkpoint.path)
    assert (adapter / WEIGHTS).read_bytes() == (expected.output / WEIGHTS).read_bytes()
