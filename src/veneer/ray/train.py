"""A run of veneer as the training function of Ray Train.

    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from veneer.ray import train_loop

    settings = {"model": "/shared/model", "data": {"file": "/shared/rows.jsonl"}, "output": "/shared/my-adapter"}
    trainer = TorchTrainer(
        train_loop,
        train_loop_config=settings,
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(storage_path="/shared", name="claims", failure_config=FailureConfig(max_failures=3)),
    )
    adapter = trainer.fit().checkpoint

Paths are absolute, since Ray Train lets each worker work in a folder of its own. Ray starts the workers, and says by
torchrun's variables which one each is. After every step each worker reports the step's metrics; with them goes the
newest checkpoint of the run, if there is one that was not reported, and beside it the best one where `train.publish`
asks for that in the end. The last report carries the result's folder. When Ray starts the workers again, the run goes
on from what its folder holds, or, where another node has no such folder, from what was reported last.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from veneer.config import parse
from veneer.enums import Publish
from veneer.events import CheckpointSaved, Evaluated, Event, StepDone
from veneer.io.files import atomic_folder, make_output_folder
from veneer.processes.ranks import launched
from veneer.run_folder import RunFolder
from veneer.training.folder.checkpoint import best_step_of
from veneer.training.run import train


def train_loop(config: Mapping[str, Any]) -> None:
    """Train in a worker of `ray.train.torch.TorchTrainer`, which calls this in each of its workers.

    Args:
        config: the run, in the sections and keys of a YAML file (docs/configuration.md).

    Raises:
        VeneerError: whatever is wrong; Ray starts the workers again as its FailureConfig says.
    """
    import ray.train

    run, ranks = parse(config, where="train_loop_config"), launched()
    folder = RunFolder(Path(run.output))
    if ranks.first:
        _restore(folder, ray.train.get_checkpoint())
    reports = _Reports(folder, ranks.first, best=run.train.publish is Publish.BEST)
    result = train(run, resume=True, emit=reports.follow, stop=reports.send, ranks=ranks)
    reports.send_result(result.output)


@dataclass(slots=True)
class _Reports:
    """What one worker reports to Ray. All of them report as often, as Ray wants it."""

    folder: RunFolder
    first: bool
    """Whether this worker is rank 0, which has the files."""
    best: bool
    """Whether the run ends with the weights of its best evaluation."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The metrics of the last step, with the last evaluation."""
    saved: int | None = None
    """The step of a checkpoint that was not reported yet."""

    def follow(self, event: Event) -> None:
        """Take note of an event of the run."""
        if isinstance(event, StepDone):
            self.metrics |= {
                "step": event.step,
                "epoch": event.epoch,
                "loss": event.loss,
                "grad_norm": event.grad_norm,
                "learning_rate": event.learning_rate,
                **event.metrics,
            }
        elif isinstance(event, Evaluated):
            self.metrics["eval_loss"] = event.loss
        elif isinstance(event, CheckpointSaved):
            self.saved = event.step

    def send(self) -> bool:
        """Report the step that is done; never asks the run to stop."""
        import ray.train

        if self.saved is None:
            ray.train.report(dict(self.metrics))
            return False
        with TemporaryDirectory() as scratch:
            staged = RunFolder(Path(scratch))
            shutil.copyfile(self.folder.config_file, staged.config_file)
            best = best_step_of(self.folder.checkpoint(self.saved)) if self.best else None
            for step in {self.saved, self.saved if best is None else best}:
                shutil.copytree(self.folder.checkpoint(step), staged.checkpoint(step))
            ray.train.report(dict(self.metrics), checkpoint=ray.train.Checkpoint.from_directory(scratch))
        self.saved = None
        return False

    def send_result(self, output: Path) -> None:
        """Report the end of the run, with the folder of its result."""
        import ray.train

        checkpoint = ray.train.Checkpoint.from_directory(str(output)) if self.first else None
        ray.train.report(dict(self.metrics), checkpoint=checkpoint)


def _restore(folder: RunFolder, reported: Any) -> None:
    """Lay what was reported last where the run is to go on, unless its folder has as much."""
    if reported is None:
        return
    with reported.as_directory() as path:
        found = RunFolder(Path(path))
        steps, there = found.checkpoint_steps(), folder.checkpoint_steps()
        if not steps or steps[-1] <= max(there, default=0):
            return
        make_output_folder(folder.checkpoints)
        # The newest comes last: where it is, all are.
        for step in sorted(set(steps) - set(there)):
            with atomic_folder(folder.checkpoint(step)) as part:
                shutil.copytree(found.checkpoint(step), part, dirs_exist_ok=True)
        if not folder.config_file.is_file():
            shutil.copyfile(found.config_file, folder.config_file)
