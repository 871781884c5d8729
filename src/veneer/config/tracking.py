"""The settings of the trackers that record a run."""

from __future__ import annotations

from typing import ClassVar

from veneer.config.numbers import Name
from veneer.config.section import Section
from veneer.enums import TrackingMode


class TrackingSection(Section):
    """Settings of the trackers that `track` names."""

    place: ClassVar[str] = "tracking"

    project: Name = "veneer"
    """The name that groups runs: wandb's and trackio's project, MLflow's experiment."""
    mode: TrackingMode = TrackingMode.OFFLINE
    """Whether anything leaves the machine: `offline` only writes files, `online` lets a library send to the server that
    it is set up for (`wandb login`, `MLFLOW_TRACKING_URI`, `TRACKIO_SPACE_ID`)."""
