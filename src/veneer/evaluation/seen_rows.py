"""Finds the evaluated rows that an adapter was trained on, and warns that its scores on them are too good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from veneer.data.forms.record import Record
from veneer.data.trained_rows import trained_among
from veneer.errors import listing
from veneer.run_folder import recorded_run, trained_rows_of


def seen_rows(adapters: Sequence[str], records: Sequence[Record]) -> dict[str, list[str]]:
    """Where the rows are that an adapter was trained on, by the adapter's folder; only adapters with such rows.

    Raises:
        DataError: a run's record of its rows cannot be read, or is damaged.
    """
    return {folder: where for folder in adapters if (where := trained_among(trained_rows_of(Path(folder)), records))}


def said_of_seen_rows(seen: Mapping[str, Sequence[str]], count: int) -> list[str]:
    """A warning for each adapter that was trained on some of the `count` rows."""
    return [
        f"{len(where)} of {count} rows were in the training data of {_trainer(Path(folder))}, so its scores are too "
        f"good by an unknown amount. Evaluate on other rows:\n{listing(where)}"
        for folder, where in seen.items()
    ]


def _trainer(adapter: Path) -> str:
    """The runs that trained an adapter, as the warning names them."""
    run = recorded_run(adapter)
    if run is None:
        return f"the runs whose adapters were combined into {adapter}"
    start = run.train.from_adapter
    return f"the run of {adapter}" + ("" if start is None else f", or that of {start}, from which it started")
