"""One run of a comparison: the order to its process, and the result that the process writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from veneer.config import RunConfig, parse
from veneer.enums import ObjectiveName
from veneer.errors import OutputError
from veneer.evaluation.scoring import RowScore
from veneer.io.files import reported, write_text
from veneer.text.strict_json import restored, to_text, with_reasons

ORDER_FILE = "order.json"
RESULT_FILE = "result.json"
ANSWERS_FILE = "answers.json"
CHOICES_FILE = "choices.json"
STDERR_FILE = "stderr.txt"
BASE = "base"
"""The name in place of a method if nothing is trained."""


def preferred(method: str, objective: ObjectiveName) -> str:
    """The name of a run that trains a method's fine-tuned adapter further with an objective of pairs."""
    return f"{method}-{objective.value}"


@dataclass(frozen=True, slots=True)
class Order:
    """Train one configuration (or nothing) and score the result."""

    method: str
    """`full`, `lora`, `qlora`, `base`, or a name that `preferred` makes from them."""
    seed: int
    config: RunConfig
    """The configuration of the run. For `base` only model and `compute` count. Its output is the result's folder."""
    eval_file: str
    max_new_tokens: int | None = None
    choices: bool = False
    """Whether the likelihoods of choices are measured."""
    after: str | None = None
    """The run whose adapter this run continues from, by the name of its folder."""
    processes: int = 1
    """The number of processes, each with its own runs, that share the memory of the machine."""

    @property
    def folder(self) -> Path:
        """The folder for everything that this run writes."""
        return Path(self.config.output)

    @property
    def done(self) -> bool:
        """Whether all of its results are written."""
        return (self.folder / RESULT_FILE).is_file() and (not self.choices or (self.folder / CHOICES_FILE).is_file())

    def on(self, device: str, processes: int) -> Order:
        """The order for a device of this machine and its number of processes; `auto` leaves the device unchanged."""
        if device == "auto":
            return replace(self, processes=processes)
        return replace(self, config=self.config.changed("compute", {"device": device}), processes=processes)

    def write(self) -> Path:
        """The order as a file for the process that carries it out.

        Raises:
            OutputError: the file cannot be written.
        """
        path = self.folder / ORDER_FILE
        with reported(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        values = {
            "method": self.method,
            "seed": self.seed,
            # Unset settings stay unset: the adapter that the run starts from may set them.
            "config": self.config.model_dump(mode="json", exclude_unset=True),
            "eval_file": self.eval_file,
            "max_new_tokens": self.max_new_tokens,
            "choices": self.choices,
            "after": self.after,
            "processes": self.processes,
        }
        write_text(path, to_text(values, indent=1) + "\n")
        return path


def read_order(path: Path) -> Order:
    """The order in a file that `Order.write` wrote."""
    values = json.loads(path.read_text(encoding="utf-8"))
    config = parse(values.pop("config"), where=str(path))
    return Order(config=config, **values)


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """The costs and results of one run."""

    method: str
    seed: int
    metrics: dict[str, float]
    """Evaluation loss, share of exact answers, and any other measure."""
    rows: list[RowScore] = field(repr=False)
    """The scores of the rows, in the order of the evaluation file. The answers are in a separate file."""
    steps: int = 0
    learning_rate: float = 0.0
    trainable: int = 0
    """The number of trained parameters."""
    seconds: float = 0.0
    """Seconds spent in training steps."""
    tokens: int = 0
    """The number of trained tokens, without padding."""
    peak_memory_mb: float = 0.0
    """Peak memory of the run's process until the end of training, in MB (10⁶ bytes)."""
    bytes_on_disk: int = 0
    """The bytes of the weights that the run writes: an adapter or a model."""

    def write(self, folder: Path, answers: list[str | None]) -> None:
        """Write answers and result; the result comes last, since its presence says that the run is done.

        Raises:
            OutputError: a file cannot be written.
        """
        write_text(folder / ANSWERS_FILE, to_text(answers, ensure_ascii=False, indent=1) + "\n")
        values = asdict(self)
        for row in values["rows"]:
            del row["answer"]
        write_text(folder / RESULT_FILE, to_text(with_reasons(values), indent=1) + "\n")


def read_outcome(folder: Path) -> RunOutcome | None:
    """The result in a folder, or None if the run is not done.

    Raises:
        OutputError: the file is damaged.
    """
    path = folder / RESULT_FILE
    if not path.is_file():
        return None
    try:
        values = restored(dict(json.loads(path.read_text(encoding="utf-8"))))
        rows = [RowScore(answer=None, **row) for row in values.pop("rows")]
        return RunOutcome(rows=rows, **values)
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(path, str(error)) from error


def write_choices(folder: Path, losses: Sequence[Sequence[float]]) -> None:
    """Write the loss of every choice of each row that has an answer, in nats.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text(folder / CHOICES_FILE, to_text([list(row) for row in losses]) + "\n")


def read_choices(folder: Path, rows: int) -> list[list[float]]:
    """The losses that `write_choices` has written for this number of rows; empty if there are none.

    Raises:
        OutputError: the file is damaged.
    """
    return _rows_in(folder / CHOICES_FILE, rows) if (folder / CHOICES_FILE).is_file() else []


def read_answers(folder: Path, rows: int) -> list[str | None]:
    """The answers of a finished run, one for each of this number of rows; None for a row that has no question.

    Raises:
        OutputError: the file is damaged or missing.
    """
    return _rows_in(folder / ANSWERS_FILE, rows)


def _rows_in(path: Path, rows: int) -> list[Any]:
    """A list in a file, with one item for each row."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(found, list) or len(found) != rows:
        raise _damaged(path, f"it is not a list of {rows:,}")
    return found


def _damaged(path: Path, why: str) -> OutputError:
    return OutputError(
        f"{path}: not what veneer wrote for this comparison ({why}); delete the folder {path.parent} to make this run "
        "again"
    )
