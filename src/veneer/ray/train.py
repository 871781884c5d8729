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

Paths are absolute, since Ray Train gives each worker its own working folder. Ray starts the workers, and torchrun's
variables tell each worker which one it is. After every step each worker reports the step's metrics. If the run has a
new checkpoint, the report includes it, and also the best one if `train.publish` needs it in the end. The last report
carries the folder of the result. When Ray restarts the workers, the run resumes from its folder or, if another node has
no such folder, from what was reported last.
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
        VeneerError: any error of the run; Ray restarts the workers according to its FailureConfig.
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
    """The reports of one worker to Ray. All workers report equally often, as Ray requires."""

    folder: RunFolder
    first: bool
    """Whether this worker is rank 0, which holds the files."""
    best: bool
    """Whether the run ends with the weights of its best evaluation."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The metrics of the last step, with the last evaluation."""
    saved: int | None = None
    """The step of a checkpoint that has not been reported yet."""

    def follow(self, event: Event) -> None:
        """Record an event of the run."""
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
        """Report the completed step; never asks the run to stop."""
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
    """Copy what was reported last to the folder of the run, unless the folder is equally far."""
    if reported is None:
        return
    with reported.as_directory() as path:
        found = RunFolder(Path(path))
        steps, there = found.checkpoint_steps(), folder.checkpoint_steps()
        if not steps or steps[-1] <= max(there, default=0):
            return
        make_output_folder(folder.checkpoints)
        # The newest comes last: if it exists, all do.
        for step in sorted(set(steps) - set(there)):
            with atomic_folder(folder.checkpoint(step)) as part:
                shutil.copytree(found.checkpoint(step), part, dirs_exist_ok=True)
        if not folder.config_file.is_file():
            shutil.copyfile(found.config_file, folder.config_file)
