"""The folder of a run: the only place that knows the names of its files and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veneer.adapters.files.integrity import LOCK_FILE as LOCK_FILE
from veneer.adapters.files.origin import BASE_FILE
from veneer.adapters.files.store import CONFIG_FILE as ADAPTER_CONFIG
from veneer.adapters.files.store import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from veneer.adapters.files.store import WEIGHTS_FILE as ADAPTER_WEIGHTS
from veneer.config import RunConfig, parse
from veneer.config.values import read_yaml
from veneer.errors import ConfigError
from veneer.event_log import iterate_events
from veneer.io.model_files import WEIGHTS_FILE as MODEL_WEIGHTS

CONFIG_FILE = "config.yaml"
EVENTS_FILE = "events.jsonl"
CURVE_FILE = "loss.svg"
SUMMARY_FILE = "summary.json"
REPORT_FILE = "report.html"
DATA_FILE, EVAL_DATA_FILE = "data.jsonl", "eval_data.jsonl"
TRAINED_ROWS_FILE = "trained-rows.bin"
SKIPPED_ROWS_FILE = "skipped-rows.jsonl"
REFERENCE_FILE = "reference.safetensors"
TEACHER_FILE = "teacher.safetensors"
CHECKPOINTS = "checkpoints"
STEP = "step-"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The output folder of one run, whether or not there is anything in it yet."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The configuration with everything chosen."""
        return self.path / CONFIG_FILE

    @property
    def events_file(self) -> Path:
        """One line of JSON for each event of the run."""
        return self.path / EVENTS_FILE

    @property
    def curve_file(self) -> Path:
        """A chart of the losses."""
        return self.path / CURVE_FILE

    @property
    def summary_file(self) -> Path:
        """How the run ended; only `run.lock` is written after it."""
        return self.path / SUMMARY_FILE

    @property
    def lock_file(self) -> Path:
        """Everything that the bytes of the result depend on."""
        return self.path / LOCK_FILE

    @property
    def report_file(self) -> Path:
        """A page on what was trained and how it changed the held-out rows."""
        return self.path / REPORT_FILE

    @property
    def own_files(self) -> tuple[Path, ...]:
        """The files that a run writes in addition to its result and its checkpoints, or deletes before it starts
        again."""
        return (
            self.config_file, self.events_file, self.curve_file, self.summary_file, self.lock_file, self.report_file,
            self.skipped_rows_file, self.reference_file, self.teacher_file, self.trained_rows_file,
        )  # fmt: skip

    @property
    def data_file(self) -> Path:
        """The training rows, if the caller had them in memory."""
        return self.path / DATA_FILE

    @property
    def eval_data_file(self) -> Path:
        """The evaluation rows, if the caller had them in memory."""
        return self.path / EVAL_DATA_FILE

    @property
    def skipped_rows_file(self) -> Path:
        """A line of JSON for each row that could not be used and was left out; the file exists only if there are such
        rows."""
        return self.path / SKIPPED_ROWS_FILE

    @property
    def reference_file(self) -> Path:
        """The log-probabilities of the reference, if the objective has one (`veneer.training.references.reference`)."""
        return self.path / REFERENCE_FILE

    @property
    def teacher_file(self) -> Path:
        """A teacher's predictions of supervised tokens, if it is asked once
        (`veneer.training.teaching.teacher_table`)."""
        return self.path / TEACHER_FILE

    @property
    def trained_rows_file(self) -> Path:
        """The hashes of the trained rows (`veneer.data.trained_rows`)."""
        return self.path / TRAINED_ROWS_FILE

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / CHECKPOINTS

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint after `step` steps."""
        return self.checkpoints / f"{STEP}{step:06d}"

    def checkpoint_steps(self) -> list[int]:
        """Steps that have a checkpoint, the oldest first; the checkpoints are not checked."""
        if not self.checkpoints.is_dir():
            return []
        found = [entry.name.removeprefix(STEP) for entry in self.checkpoints.glob(f"{STEP}*") if entry.is_dir()]
        return sorted(int(name) for name in found if name.isascii() and name.isdigit())

    @property
    def resumable(self) -> bool:
        """Whether there is any checkpoint to resume from."""
        return bool(self.checkpoint_steps())

    @property
    def weights(self) -> dict[str, Path]:
        """The existing files of trained weights, by name: those of an adapter, or of a model."""
        files = [self.path / name for name in (ADAPTER_WEIGHTS, MODEL_WEIGHTS)]
        return {file.name: file for file in files if file.is_file()}

    @property
    def results(self) -> dict[str, Path]:
        """The files of the result, by name: the weights, and the other files of an adapter."""
        if (self.path / ADAPTER_WEIGHTS).is_file():
            names = (ADAPTER_CONFIG, BASE_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE)
            files = [self.path / name for name in names]
            return self.weights | {file.name: file for file in files if file.is_file()}
        return self.weights

    def config(self) -> RunConfig | None:
        """The configuration that the run recorded, or None if it recorded none.

        Raises:
            ConfigError: the file is damaged.
        """
        if not self.config_file.is_file():
            return None
        values = self.recorded()
        with self._remedied():
            return parse(values, where=str(self.config_file))

    def recorded(self) -> dict[str, Any]:
        """The values in the configuration that the run recorded, unchecked.

        Raises:
            ConfigError: the file cannot be read, or is damaged.
        """
        with self._remedied():
            return read_yaml(self.config_file)

    @contextmanager
    def _remedied(self) -> Iterator[None]:
        """Add a remedy to the error about a damaged configuration: nothing else in the folder depends on it."""
        try:
            yield
        except ConfigError as error:
            raise ConfigError(
                f"{error}\nA run has recorded its settings there. Restore or delete the file: an adapter opens "
                "without it, and `veneer train --resume` uses the given settings, which must be those of the run."
            ) from error

    def events(self) -> list[dict[str, object]]:
        """The events that the run recorded, as dictionaries; an empty list if it recorded none."""
        return list(self.each_event())

    def each_event(self) -> Iterator[dict[str, object]]:
        """The events of `events` one by one, since a long run has too many to hold in memory.

        Raises:
            CheckpointError: the log exists and cannot be read; raised when the first event is requested.
        """
        return iterate_events(self.events_file) if self.events_file.is_file() else iter(())


def trained_rows_of(adapter: Path) -> Path:
    """The file with the hashes of the rows that an adapter, or the adapters combined in it, were trained on. It is
    missing if no run recorded them, as in adapters of PEFT.

    Args:
        adapter: the folder of the adapter.
    """
    run = run_of(adapter)
    return adapter / TRAINED_ROWS_FILE if run is None else run.trained_rows_file


def run_of(adapter: Path) -> RunFolder | None:
    """The run that made an adapter, or None if the adapter has no record of one (PEFT's have none).

    Args:
        adapter: the folder of the run, or of one of its checkpoints, which is two levels below it.
    """
    folder = adapter.resolve()
    places = [folder, *([folder.parents[1]] if folder.parent.name == CHECKPOINTS else [])]
    return next((run for run in map(RunFolder, places) if run.config_file.is_file()), None)


def recorded_run(adapter: Path | None) -> RunConfig | None:
    """The run that made the adapter in a folder, if its `config.yaml` exists (PEFT's adapters have none).

    The file of a checkpoint is two levels up: `RUN/checkpoints/step-000050`.
    """
    run = None if adapter is None else run_of(adapter)
    return None if run is None else run.config()
