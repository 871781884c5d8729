"""One run of a comparison, as an order to a process of its own and as the result that it leaves."""

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
"""What stands in place of a method where nothing is trained."""


def preferred(method: str, objective: ObjectiveName) -> str:
    """The name of a method whose fine-tuned adapter goes on by an objective of pairs."""
    return f"{method}-{objective.value}"


@dataclass(frozen=True, slots=True)
class Order:
    """Train one configuration (or nothing) and score what comes of it."""

    method: str
    """`full`, `lora`, `qlora`, `base`, or what `preferred` makes of them."""
    seed: int
    config: RunConfig
    """The run; of `base` only the model and how it is computed count. Its output is the folder of the result."""
    eval_file: str
    max_new_tokens: int | None = None
    choices: bool = False
    """Whether the likelihoods of choices are measured."""
    after: str | None = None
    """The run whose adapter it goes on with, by the name of its folder."""
    processes: int = 1
    """The number of processes with runs of their own that share its machine's memory."""

    @property
    def folder(self) -> Path:
        """The folder for everything that this run writes."""
        return Path(self.config.output)

    @property
    def done(self) -> bool:
        """Whether its results are there, all of them."""
        return (self.folder / RESULT_FILE).is_file() and (not self.choices or (self.folder / CHOICES_FILE).is_file())

    def on(self, device: str, processes: int) -> Order:
        """The order on a device of this machine, whose memory so many processes share; `auto` leaves the device."""
        if device == "auto":
            return replace(self, processes=processes)
        return replace(self, config=self.config.changed("compute", {"device": device}), processes=processes)

    def write(self) -> Path:
        """The order as a file for the process that carries it out.

        Raises:
            OutputError: it cannot be written.
        """
        path = self.folder / ORDER_FILE
        with reported(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        values = {
            "method": self.method,
            "seed": self.seed,
            # What was not said stays unsaid: an adapter that the run starts from may say it.
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
    """What one run took and what came of it."""

    method: str
    seed: int
    metrics: dict[str, float]
    """Evaluation loss, share of exact answers, and whatever else was measured."""
    rows: list[RowScore] = field(repr=False)
    """The scores of the rows, in the order of the evaluation file. The answers are in a file of their own."""
    steps: int = 0
    learning_rate: float = 0.0
    trainable: int = 0
    """The number of trained parameters."""
    seconds: float = 0.0
    """Seconds spent in training steps."""
    tokens: int = 0
    """The number of tokens that were trained, without padding."""
    peak_memory_mb: float = 0.0
    """Peak memory of the run's process until the training ended, in MB (10⁶ bytes)."""
    bytes_on_disk: int = 0
    """Bytes of the weights that the run leaves: an adapter, or a model."""

    def write(self, folder: Path, answers: list[str | None]) -> None:
        """Write answers and result; the result last, since it says that the run is done.

        Raises:
            OutputError: a file cannot be written.
        """
        write_text(folder / ANSWERS_FILE, to_text(answers, ensure_ascii=False, indent=1) + "\n")
        values = asdict(self)
        for row in values["rows"]:
            del row["answer"]
        write_text(folder / RESULT_FILE, to_text(with_reasons(values), indent=1) + "\n")


def read_outcome(folder: Path) -> RunOutcome | None:
    """The result in a folder, or None where the run is not done.

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
    """Write nats of every choice of each row that has an answer.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text(folder / CHOICES_FILE, to_text([list(row) for row in losses]) + "\n")


def read_choices(folder: Path, rows: int) -> list[list[float]]:
    """What `write_choices` has written for so many rows; empty where nothing was.

    Raises:
        OutputError: the file is damaged.
    """
    return _rows_in(folder / CHOICES_FILE, rows) if (folder / CHOICES_FILE).is_file() else []


def read_answers(folder: Path, rows: int) -> list[str | None]:
    """The answers of a run that is done, one for each of so many rows; None for a row that asks nothing.

    Raises:
        OutputError: the file is damaged, or not there.
    """
    return _rows_in(folder / ANSWERS_FILE, rows)


def _rows_in(path: Path, rows: int) -> list[Any]:
    """A list in a file, which has one item for each row."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(found, list) or len(found) != rows:
        raise _damaged(path, f"it is no list of {rows:,}")
    return found


def _damaged(path: Path, why: str) -> OutputError:
    return OutputError(
        f"{path}: not what veneer wrote for this comparison ({why}); delete the folder {path.parent} to make this run "
        "again"
    )
