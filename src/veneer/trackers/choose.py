"""The trackers that a run's settings name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec

from veneer.config import RunConfig
from veneer.enums import TrackerName
from veneer.errors import ConfigError
from veneer.events import Subscriber
from veneer.trackers.queue import Tracker, TrackerQueue

PACKAGES = {TrackerName.TENSORBOARD: "tensorboardX"}
"""The library of each tracker."""


@contextmanager
def tracked(names: Sequence[TrackerName], config: RunConfig, emit: Subscriber) -> Iterator[list[Subscriber]]:
    """Within the block, yields a subscriber for each of some trackers.

    Args:
        names: the trackers.
        config: the run.
        emit: is told in the end where a tracker has failed or was too slow.

    Raises:
        ConfigError: the library of a tracker is not installed.
    """
    missing = [f"{name.value} needs {PACKAGES[name]}" for name in names if find_spec(PACKAGES[name]) is None]
    if missing:
        raise ConfigError(f"track: {'; '.join(missing)}, not installed here: pip install 'veneer[track]'")
    with ExitStack() as ends:
        yield [
            ends.enter_context(TrackerQueue(name.value, lambda name=name: _start(name, config), emit))  # type: ignore[misc]
            for name in names
        ]


def _start(name: TrackerName, config: RunConfig) -> Tracker:
    match name:
        case TrackerName.TENSORBOARD:
            from veneer.trackers.tensorboard import TensorBoard

            return TensorBoard(config)
