"""Weights & Biases: files in `wandb/` of the run's folder, which `wandb sync` sends; or directly to its server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import wandb

from veneer.events import RunEnd
from veneer.trackers.board import Table, TrackedRun


class Wandb:
    """A run for Weights & Biases (`veneer.trackers.board.Board`).

    Args:
        run: the run. A resumed run continues under its id.
    """

    def __init__(self, run: TrackedRun):
        self._run = wandb.init(
            project=run.project,
            id=run.id,
            name=run.name,
            dir=run.folder,
            config=dict(run.settings),
            mode="online" if run.online else "offline",
            resume="allow",
            # Only the run's own reports are collected: no output, no code, no figures of the machine.
            settings=wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                silent=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        self._texts: list[tuple[int, str, str]] = []

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """See `Board.numbers`."""
        self._run.log(dict(values), step=step)

    def text(self, name: str, text: str, step: int) -> None:
        """See `Board.text`; all texts become one table in the end."""
        self._texts.append((step, name, text))

    def table(self, name: str, table: Table, step: int) -> None:
        """See `Board.table`."""
        rows = [list(row) for row in table.rows]
        self._run.log({name: wandb.Table(columns=list(table.columns), data=rows, allow_mixed_types=True)}, step=step)

    def document(self, name: str, text: str) -> None:
        """See `Board.document`."""
        file = Path(self._run.dir) / name
        file.write_text(text, encoding="utf-8")
        self._run.save(str(file), base_path=self._run.dir, policy="now")

    def close(self, reason: str) -> None:
        """See `Board.close`."""
        if self._texts:
            rows = [list(row) for row in self._texts]
            self._run.log({"log": wandb.Table(columns=["step", "level", "message"], data=rows)})
        self._run.finish(exit_code=0 if reason == RunEnd.COMPLETE else 1)
