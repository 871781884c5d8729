"""TensorBoard, by tensorboardX: files in `tensorboard/` of the run's folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from tensorboardX import SummaryWriter

from veneer.trackers.board import Table, TrackedRun, digested

FOLDER = "tensorboard"
_NOT_TAKEN = re.compile(r"[^-/\w.]")


class TensorBoard:
    """A run for TensorBoard (`veneer.trackers.board.Board`).

    Args:
        run: the run. Steps that it repeats, resumed or from the beginning, replace the earlier ones.
    """

    def __init__(self, run: TrackedRun):
        self._writer = SummaryWriter(str(Path(run.folder) / FOLDER), purge_step=run.resumed_at + 1)
        settings = yaml.safe_dump(dict(run.settings), sort_keys=False, allow_unicode=True)
        self._writer.add_text("settings", f"```yaml\n{settings}```", run.resumed_at)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """See `Board.numbers`."""
        for name, value in values.items():
            self._writer.add_scalar(tag(name), value, step)

    def text(self, name: str, text: str, step: int) -> None:
        """See `Board.text`."""
        self._writer.add_text(name, text, step)

    def table(self, name: str, table: Table, step: int) -> None:
        """See `Board.table`; TensorBoard draws tables of Markdown."""
        self._writer.add_text(name, markdown(table), step)

    def document(self, name: str, text: str) -> None:
        """See `Board.document`."""
        self._writer.add_text(name, f"```\n{text}\n```", 0)

    def close(self, reason: str) -> None:
        """See `Board.close`."""
        self._writer.close()


def tag(name: str) -> str:
    """The name of a metric in TensorBoard. tensorboardX would write `_` for characters that it does not accept, so that
    the rewards `50 %` and `50 §` would become one: such a name gets a digest."""
    taken = _NOT_TAKEN.sub("_", name).lstrip("/")
    return name if taken == name else digested(taken, name)


def markdown(table: Table) -> str:
    """A table in Markdown."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", "<br>")
