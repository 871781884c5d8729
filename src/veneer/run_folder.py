"""The folder of a run: the names of its files and checkpoints are known here alone."""

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
        """Where the run ended; it is written last but for `run.lock`."""
        return self.path / SUMMARY_FILE

    @property
    def lock_file(self) -> Path:
        """Everything that the bytes of the result follow from."""
        return self.path / LOCK_FILE

    @property
    def report_file(self) -> Path:
        """A page on what was trained and what it did to the rows that were kept for evaluation."""
        return self.path / REPORT_FILE

    @property
    def own_files(self) -> tuple[Path, ...]:
        """What a run writes beside its result and its checkpoints, or deletes before it begins anew."""
        return (
            self.config_file, self.events_file, self.curve_file, self.summary_file, self.lock_file, self.report_file,
            self.skipped_rows_file, self.reference_file, self.teacher_file, self.trained_rows_file,
        )  # fmt: skip

    @property
    def data_file(self) -> Path:
        """The training rows, where the caller had them in memory."""
        return self.path / DATA_FILE

    @property
    def eval_data_file(self) -> Path:
        """The evaluation rows, where the caller had them in memory."""
        return self.path / EVAL_DATA_FILE

    @property
    def skipped_rows_file(self) -> Path:
        """A line of JSON for each row that could not be used and was left out; it is there only if there are such."""
        return self.path / SKIPPED_ROWS_FILE

    @property
    def reference_file(self) -> Path:
        """The log-probabilities of the reference, where the objective has one (`veneer.training.references.reference`)."""
        return self.path / REFERENCE_FILE

    @property
    def teacher_file(self) -> Path:
        """What a teacher says of every supervised token, where it is asked once (`veneer.training.teaching.teacher_table`)."""
        return self.path / TEACHER_FILE

    @property
    def trained_rows_file(self) -> Path:
        """The hashes of the rows that are trained (`veneer.data.trained_rows`)."""
        return self.path / TRAINED_ROWS_FILE

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / CHECKPOINTS

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint after `step` steps."""
        return self.checkpoints / f"{STEP}{step:06d}"

    def checkpoint_steps(self) -> list[int]:
        """Steps that have a checkpoint, the oldest first; whether it is sound is not looked at."""
        if not self.checkpoints.is_dir():
            return []
        found = [entry.name.removeprefix(STEP) for entry in self.checkpoints.glob(f"{STEP}*") if entry.is_dir()]
        return sorted(int(name) for name in found if name.isascii() and name.isdigit())

    @property
    def resumable(self) -> bool:
        """Whether there is any checkpoint to go on from."""
        return any(self.checkpoints.glob(f"{STEP}*"))

    @property
    def weights(self) -> dict[str, Path]:
        """The files of trained weights that are there, by name: an adapter's, or a model's."""
        files = [self.path / name for name in (ADAPTER_WEIGHTS, MODEL_WEIGHTS)]
        return {file.name: file for file in files if file.is_file()}

    @property
    def results(self) -> dict[str, Path]:
        """The files of the result, by name: the weights, and whatever else an adapter consists of."""
        if (self.path / ADAPTER_WEIGHTS).is_file():
            names = (ADAPTER_CONFIG, BASE_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE)
            files = [self.path / name for name in names]
            return self.weights | {file.name: file for file in files if file.is_file()}
        return self.weights

    def config(self) -> RunConfig | None:
        """The configuration that the run recorded, or None where it recorded none.

        Raises:
            ConfigError: the file is damaged.
        """
        if not self.config_file.is_file():
            return None
        values = self.recorded()
        with self._remedied():
            return parse(values, where=str(self.config_file))

    def recorded(self) -> dict[str, Any]:
        """The values in the configuration that the run recorded, which are not checked.

        Raises:
            ConfigError: the file cannot be read, or is damaged.
        """
        with self._remedied():
            return read_yaml(self.config_file)

    @contextmanager
    def _remedied(self) -> Iterator[None]:
        """Say of a damaged configuration what can be done: nothing else in the folder depends on it."""
        try:
            yield
        except ConfigError as error:
            raise ConfigError(
                f"{error}\nA run has recorded its settings there. Put them back, or delete the file: an adapter opens "
                "without it, and `veneer train --resume` goes on by the settings that it is given, which must be those "
                "of then."
            ) from error

    def events(self) -> list[dict[str, object]]:
        """The events that the run recorded, as dictionaries; an empty list where it recorded none."""
        return list(self.each_event())

    def each_event(self) -> Iterator[dict[str, object]]:
        """The events of `events` one by one: those of a long run are more than memory should hold.

        Raises:
            CheckpointError: the log is there and cannot be read; raised when the first is asked for.
        """
        return iterate_events(self.events_file) if self.events_file.is_file() else iter(())


def trained_rows_of(adapter: Path) -> Path:
    """The file with the hashes of the rows that an adapter, or what it was combined of, was trained on. It is missing
    where no run wrote them down, as in adapters of PEFT.

    Args:
        adapter: the folder of the adapter.
    """
    run = run_of(adapter)
    return adapter / TRAINED_ROWS_FILE if run is None else run.trained_rows_file


def run_of(adapter: Path) -> RunFolder | None:
    """The run that made an adapter, or None where the adapter has no record of one (PEFT's have none).

    Args:
        adapter: the folder of the run, or of one of its checkpoints, which stands two folders further down.
    """
    folder = adapter.resolve()
    places = [folder, *([folder.parents[1]] if folder.parent.name == CHECKPOINTS else [])]
    return next((run for run in map(RunFolder, places) if run.config_file.is_file()), None)


def recorded_run(adapter: Path | None) -> RunConfig | None:
    """The run that made the adapter in a folder, where its `config.yaml` is there (PEFT's adapters have none).

    A checkpoint's stands two folders up: `RUN/checkpoints/step-000050`.
    """
    run = None if adapter is None else run_of(adapter)
    return None if run is None else run.config()
