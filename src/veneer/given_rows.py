"""The settings of a run, as a caller gives them, and rows that are given separately."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from veneer.config import RunConfig, parse
from veneer.data.files.given_names import GIVEN_EVAL_ROWS, GIVEN_ROWS, given_file
from veneer.data.files.in_memory import RowSource, rows_file, withdrawn_until
from veneer.events import Event, RunEvent, RunStarted, Subscriber, broadcast
from veneer.run_folder import RunFolder

NO_FILE = "-"
"""A placeholder for a file that is not read."""
Settings = RunConfig | Mapping[str, Any]
"""A run's settings: a `RunConfig`, or sections and keys as a YAML file has them."""


class Begun:
    """A subscriber that knows whether a run has begun to train."""

    def __init__(self) -> None:
        self.seen = False

    def __call__(self, event: Event) -> None:
        """Receive an event."""
        self.seen = self.seen or isinstance(event, RunStarted | RunEvent)


@contextmanager
def over_rows(
    config: Settings, data: RowSource | None, eval_data: RowSource | None, emit: Subscriber
) -> Iterator[tuple[RunConfig, Subscriber]]:
    """A run's settings as `with_rows` makes them, and the subscriber for the run. If an error ends the block before the
    run has begun, the rows that were written for it are deleted, so that other rows can be given for the same folder.

    Raises:
        ConfigError, DataError, OutputError: see `with_rows`.
    """
    if data is None and eval_data is None:
        yield settings(config), emit
        return
    begun = Begun()
    folder = RunFolder(Path(settings(_without_rows(config, data, eval_data)).output))
    named = ((data, folder.data_file), (eval_data, folder.eval_data_file))
    files = [file for rows, file in named if rows is not None]
    with withdrawn_until(lambda: begun.seen, files):
        yield with_rows(config, data, eval_data, emit), broadcast([emit, begun])


def with_rows(
    config: Settings,
    data: RowSource | None,
    eval_data: RowSource | None,
    emit: Subscriber,
    scratch: Path | None = None,
) -> RunConfig:
    """A run's settings with rows that are given separately. Rows in memory are written into the run's folder, or into a
    temporary folder (`scratch`) if there is to be no run.

    Raises:
        ConfigError: the settings cannot be used.
        DataError, OutputError: see `rows_file`.
    """
    if data is None and eval_data is None:
        return settings(config)
    plain = _without_rows(config, data, eval_data)
    checked = settings(plain)  # before anything is written
    if scratch is None:
        run = RunFolder(Path(checked.output))
        files = run.data_file, run.eval_data_file
    else:
        files = given_file(scratch, GIVEN_ROWS), given_file(scratch, GIVEN_EVAL_ROWS)
    named = {"file": (data, files[0]), "eval_file": (eval_data, files[1])}
    places = {key: str(rows_file(rows, file, emit)) for key, (rows, file) in named.items() if rows is not None}
    return settings(plain | {"data": plain["data"] | places})


def _without_rows(config: Settings, data: RowSource | None, eval_data: RowSource | None) -> dict[str, Any]:
    """Settings with a placeholder for the file of rows that are given separately."""
    plain: dict[str, Any] = dict(
        config.model_dump(mode="json", exclude_unset=True) if isinstance(config, RunConfig) else config
    )
    section = plain.get("data") or {}
    if not isinstance(section, Mapping):
        return plain  # `settings` refuses it, and says what a section is
    kept = {key: value for key, value in section.items() if key != "sources" or data is None}
    given = {key: NO_FILE for key, rows in (("file", data), ("eval_file", eval_data)) if rows is not None}
    return plain | {"data": kept | given}


def for_supposed_rows(config: Settings) -> Settings:
    """Settings for a plan with assumed rows only. If a mapping leaves out the file of rows or the folder of the run, it
    gets a placeholder, since neither is read."""
    if isinstance(config, RunConfig):
        return config
    section = config.get("data") or {}
    if not isinstance(section, Mapping):
        return config  # `settings` refuses it, and says what a section is
    rows = {} if section.get("sources") else {"file": NO_FILE}
    return {"output": NO_FILE, **config, "data": rows | dict(section)}


def settings(config: Settings) -> RunConfig:
    """A run's checked settings, given as themselves or as a mapping.

    Raises:
        ConfigError: the settings are wrong; the message names every unknown key (with the nearest known one), missing
            key and bad value.
    """
    return config if isinstance(config, RunConfig) else parse(config, where="the configuration")
