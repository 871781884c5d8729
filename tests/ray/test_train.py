"""Ray Train calls `train_loop` in its workers: the adapter of one process, also where a worker was killed."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray.train
from ray.train import FailureConfig, ScalingConfig
from ray.train.torch import TorchTrainer

import ray
from nodes import Nodes
from ray_tasks import train_loop_killed_once
from tiny import run_config
from veneer.ray import train_loop
from veneer.training.run import train

WEIGHTS = "adapter_model.safetensors"
SETTINGS = ("train.lanes=2", "train.steps=12", "train.save_every=4", "lora.dropout=0.1", "compute.threads=1")


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
