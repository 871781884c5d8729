"""TensorBoard, by tensorboardX: the losses, rates and sizes of every step, the settings, plan and notes as texts."""

from __future__ import annotations

from pathlib import Path

from tensorboardX import SummaryWriter

from veneer.config import RunConfig, to_yaml
from veneer.events import Evaluated, Event, Note, RunFinished, RunStarted, StepDone, StepSkipped

FOLDER = "tensorboard"
STEP = ("loss", "grad_norm", "learning_rate", "epoch", "memory_mb", "tokens", "supervised")
"""Fields of a step that are drawn."""


class TensorBoard:
    """Writes a run's events into `tensorboard/` in its folder (`veneer.trackers.queue.Tracker`).

    Args:
        config: the run.
    """

    def __init__(self, config: RunConfig):
        self._config = config
        self._writer: SummaryWriter | None = None
        self._step = 0

    def take(self, event: Event) -> None:
        """See `Tracker.take`."""
        if isinstance(event, RunStarted):
            self._begin(event)
        writer = self._writer
        if writer is None:
            return
        match event:
            case StepDone():
                self._step = event.step
                for name in STEP:
                    writer.add_scalar(f"train/{name}", getattr(event, name), event.step)
                writer.add_scalar("train/tokens_per_second", event.tokens / max(event.seconds, 1e-9), event.step)
                for name, value in event.metrics.items():
                    writer.add_scalar(f"objective/{name}", value, event.step)
            case Evaluated():
                for name, value in (("loss", event.loss), *event.metrics.items()):
                    writer.add_scalar(f"evaluation/{name}", value, event.step)
            case StepSkipped():
                writer.add_text("skipped", f"step {event.step}: {event.reason}", event.step)
            case Note():
                writer.add_text(event.level.value, event.message, self._step)
            case RunFinished():
                writer.add_text("end", f"{event.reason} after step {event.step}", event.step)

    def close(self) -> None:
        """See `Tracker.close`."""
        if self._writer is not None:
            self._writer.close()

    def _begin(self, event: RunStarted) -> None:
        """Open the files; steps that a resumed run makes again replace those that were told."""
        folder = Path(self._config.output) / FOLDER
        again = event.resumed_at + 1 if event.resumed_at else None
        self._writer = SummaryWriter(str(folder), purge_step=again)
        self._writer.add_text("settings", f"```yaml\n{to_yaml(self._config)}```", event.resumed_at)
