"""MLflow: a store of files in `mlruns/` of the run's folder, or the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from veneer.config.values import flat
from veneer.events import RunEnd
from veneer.trackers.board import DIGESTED, Table, TrackedRun, digested
from veneer.trackers.telling import KILLED

FOLDER = "mlruns"
ID_TAG = "veneer.id"
LONGEST = 6_000
"""The most characters of a parameter's value in MLflow."""
LONGEST_NAME = 250
"""The most characters of a name."""
PARTS = 4
"""The most parts of a name between slashes: those of `objective/rewards/NAME/mean`."""
AT_ONCE = 100
"""The most parameters in one call."""
STATUS = {RunEnd.COMPLETE: "FINISHED", RunEnd.INTERRUPTED: "KILLED", KILLED: "KILLED"}
"""MLflow's word for a run's end; all other ends are `FAILED`."""


class Mlflow:
    """A run for MLflow (`veneer.trackers.board.Board`).

    Args:
        run: the run. A resumed run is found by its id.
    """

    def __init__(self, run: TrackedRun):
        uri = None if run.online else (Path(run.folder) / FOLDER).as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(run.project)
        experiment = self._client.create_experiment(run.project) if found is None else found.experiment_id
        known = self._client.search_runs([experiment], f"tags.`{ID_TAG}` = '{run.id}'", max_results=1)
        if known:
            self._id = known[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._id = self._client.create_run(experiment, run_name=run.name, tags={ID_TAG: run.id}).info.run_id
            self._settings(run)
        self._log: list[str] = []

    def _settings(self, run: TrackedRun) -> None:
        given = [Param(accepted_name(key), str(value)[:LONGEST]) for key, value in flat(run.settings).items()]
        for begin in range(0, len(given), AT_ONCE):
            self._client.log_batch(self._id, params=given[begin : begin + AT_ONCE])

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """See `Board.numbers`."""
        now = int(1000 * time.time())
        told = [Metric(accepted_name(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=told)

    def text(self, name: str, text: str, step: int) -> None:
        """See `Board.text`; all texts become one file in the end."""
        self._log.append(f"step {step}, {name}: {text}\n")

    def table(self, name: str, table: Table, step: int) -> None:
        """See `Board.table`: a file in the format of MLflow's own tables."""
        values = {"columns": list(table.columns), "data": [list(row) for row in table.rows]}
        self._client.log_dict(self._id, values, f"{name}/step-{step:06d}.json")

    def document(self, name: str, text: str) -> None:
        """See `Board.document`."""
        self._client.log_text(self._id, text, name)

    def close(self, reason: str) -> None:
        """See `Board.close`."""
        if self._log:
            self._client.log_text(self._id, "".join(self._log), "log.txt")
        self._client.log_batch(self._id, tags=[RunTag("veneer.end", reason)])
        self._client.set_terminated(self._id, STATUS.get(reason, "FAILED"))


def accepted_name(name: str) -> str:
    """The name of a parameter or a metric in MLflow. It is the name itself if MLflow accepts it, and otherwise the
    accepted part with a digest, so that different names stay different. The name of a reward can be any text, and a key
    of `lora.rank_pattern` any expression.

    A name that contains a slash is changed too. MLflow's store has a file for each metric, so for the rewards `a` and
    `a/mean` the file of the first one's mean would be at the place of the second one's folder.
    """
    parts = name.split("/")
    proper = len(parts) <= PARTS and not any(part in ("", ".", "..") for part in parts)
    if proper and _named(name) and len(name) <= LONGEST_NAME:
        return name
    parts = [*parts[: PARTS - 2], "_".join(parts[PARTS - 2 : -1]), parts[-1]] if len(parts) > PARTS else parts
    taken = "/".join("".join(letter if _named(letter) else "_" for letter in part).strip(".") or "_" for part in parts)
    return digested(taken[: LONGEST_NAME - DIGESTED], name)


def _named(name: str) -> bool:
    """Whether MLflow accepts the characters of a name."""
    return all(letter.isalnum() or letter in "_-. :/" for letter in name)
