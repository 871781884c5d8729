"""Trackio: its database on this machine, which `trackio show --project PROJECT` draws."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import trackio

from veneer.trackers.board import Table, TrackedRun

LIBRARY = Path(trackio.__file__).parent


class NotKept(Exception):
    """Trackio did not keep everything; the message is its own."""


class Trackio:
    """A run for Trackio (`veneer.trackers.board.Board`).

    Args:
        run: the run. Its name ends with its id, by which a resumed run is found.
    """

    def __init__(self, run: TrackedRun):
        self._run = trackio.init(
            project=run.project,
            name=f"{run.name}-{run.id}",
            config=dict(run.settings),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self._texts: list[tuple[int, str, str]] = []
        self._step = run.resumed_at
        # Trackio only warns where it cannot write or send, in its own threads, and drops what it was given.
        self._ends = ExitStack()
        self._warned = self._ends.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """See `Board.numbers`."""
        self._step = step
        self._run.log(dict(values), step=step)

    def text(self, name: str, text: str, step: int) -> None:
        """See `Board.text`; all texts become one table in the end."""
        self._texts.append((step, name, text))

    def table(self, name: str, table: Table, step: int) -> None:
        """See `Board.table`."""
        rows = [list(row) for row in table.rows]
        self._run.log({name: trackio.Table(columns=list(table.columns), data=rows)}, step=step)

    def document(self, name: str, text: str) -> None:
        """See `Board.document`."""
        self._run.log({name: trackio.Markdown(f"```json\n{text}\n```")}, step=self._step)

    def close(self, reason: str) -> None:
        """See `Board.close`.

        Raises:
            NotKept: Trackio has warned that something could not be kept.
        """
        with self._ends:
            if self._texts:
                self.table("log", Table(("step", "level", "message"), self._texts), self._step)
            self._run.finish()
        said = [str(one.message) for one in self._warned if _is_loss(one)]
        if said:
            raise NotKept("; ".join(dict.fromkeys(said)))


def _is_loss(warning: warnings.WarningMessage) -> bool:
    """Whether a warning is Trackio's own, about something that it did not keep."""
    return warning.category is UserWarning and LIBRARY in Path(warning.filename).parents
