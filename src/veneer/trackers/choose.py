"""The trackers that a run's settings name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from veneer.config import RunConfig
from veneer.enums import TrackerName
from veneer.errors import ConfigError, listing
from veneer.events import Subscriber
from veneer.runtime.packages import installed
from veneer.trackers.process import ProcessTracker, RunId
from veneer.trackers.queue import TrackerQueue

LIBRARIES = {
    TrackerName.TENSORBOARD: ("tensorboardX", "track"),
    TrackerName.WANDB: ("wandb", "wandb"),
    TrackerName.MLFLOW: ("mlflow", "mlflow"),
    TrackerName.TRACKIO: ("trackio", "trackio"),
}
"""The library of each tracker, and the extra that installs it."""


@contextmanager
def tracked(names: Sequence[TrackerName], config: RunConfig, emit: Subscriber) -> Iterator[list[TrackerQueue]]:
    """Yield a subscriber for each of some trackers within the block.

    Args:
        names: the trackers.
        config: the run.
        emit: receives a warning at the end if a tracker has failed or was too slow.

    Raises:
        ConfigError: the library of a tracker is not installed.
    """
    missing = [
        f"{name.value} needs {library}: pip install 'veneer[{extra}]'"
        for name, (library, extra) in LIBRARIES.items()
        if name in names and not installed(library)
    ]
    if missing:
        raise ConfigError(f"track: libraries are not installed here:\n{listing(missing)}")
    run_id = RunId(Path(config.output))
    with ExitStack() as ends:
        queues = [
            ends.enter_context(TrackerQueue(name.value, partial(ProcessTracker, name, config, run_id), emit))
            for name in dict.fromkeys(names)
        ]
        try:
            yield queues
        finally:
            # All of them end at the same time: the run waits for the slowest, and not for each in turn.
            for one in queues:
                one.begin_end()
