"""Tasks of lm-evaluation-harness as suites: its prompts and scores of every row, with veneer's statistics.

`lm-eval:NAME` is a task or group by its name, or a YAML file that describes one. `lm-eval-chat:NAME` asks through the
chat template, with examples as turns. The harness scores each row, and its own aggregation determines the measure of
the rows (`veneer.evaluation.harness_measures`): a mean, or a perplexity or bits per byte. Rows of all tasks of a group
are taken together. Some measures are computed by the harness over all rows at once. Among them BLEU, chrF, F1 and
Matthews' correlation follow from sums over rows (`veneer.evaluation.corpus_measures`). Others (a median, TER) are
reported as the harness computes them, without an interval.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from traceback import walk_tb
from typing import Any

from veneer.assistant.assistant import Assistant
from veneer.errors import ConfigError, DataError, VeneerError, listing, nearest
from veneer.evaluation.harness_measures import measures_of_samples
from veneer.evaluation.statistics.measures import Measure
from veneer.events import Event, Level, Note, Subscriber
from veneer.machine.out_of_memory import is_out_of_memory

HARNESS = "lm-eval:"
"""The prefix of the name of a suite that is a task of the harness."""
CHAT = "lm-eval-chat:"
"""The prefix if the chat template is to be used."""
FEWSHOT_SEED = 1234
"""The seed of the examples in prompts, which is that of the harness."""
MODEL = "veneer.evaluation.lm_eval"
"""The module with the model that the harness asks."""
YAML_SUFFIXES = (".yaml", ".yml")


def is_task(name: str) -> bool:
    """Whether the name of a suite is that of a task of the harness."""
    return name.startswith((HARNESS, CHAT))


def library(part: str) -> Any:
    """A module of lm-eval.

    Raises:
        ConfigError: lm-eval is not installed.
    """
    try:
        return import_module(part)
    except ImportError as error:
        raise ConfigError("tasks of lm-evaluation-harness need lm-eval: pip install 'veneer[lm-eval]'") from error


def check_tasks(names: Sequence[str]) -> None:
    """Refuse tasks that the harness does not know, before anything is loaded.

    Raises:
        ConfigError: there are such tasks (all are named), or the harness is not installed.
    """
    if not names:
        return
    specs = {name: _spec(name) for name in names}
    named = {name: spec for name, spec in specs.items() if not spec.endswith(YAML_SUFFIXES)}
    known = library("lm_eval.tasks").TaskManager().all_tasks if named else []
    problems = [f"{name}{nearest(spec, known)}" for name, spec in named.items() if spec not in known]
    problems += [
        f"{name}: no such file" for name, spec in specs.items() if name not in named and not Path(spec).is_file()
    ]
    if problems:
        raise ConfigError(f"--suite: lm-evaluation-harness has no task of that name:\n{listing(problems)}")


def _spec(name: str) -> str:
    return name.removeprefix(HARNESS).removeprefix(CHAT)


@dataclass(frozen=True, slots=True)
class HarnessSuite:
    """A task or group of the harness, loaded."""

    name: str
    summary: str
    tasks: tuple[Any, ...]
    """The harness's own objects, which build the prompts and score the answers."""
    limit: int | None
    """The number of rows of each task that are asked, from the first; None takes all."""

    @property
    def count(self) -> int:
        """The number of its rows."""
        sizes = [len(task.eval_docs) for task in self.tasks]
        return sum(size if self.limit is None else min(size, self.limit) for size in sizes)

    @property
    def primary(self) -> str | None:
        """The name of the suite's primary measure: the first that its task names."""
        return None

    @property
    def share_of(self) -> int | None:
        """The number of rows that the primary measure is a share of: None, since the measure is not known yet."""
        return None

    def measures(self, assistant: Assistant, *, base: bool, emit: Subscriber) -> list[Measure]:
        """The measures of the model on the tasks."""
        preparing = ExitStack()

        def heard(event: Event) -> None:
            # Prompts are written before the model is asked for anything; from here on the progress is veneer's own.
            preparing.close()
            emit(event)

        model = library(MODEL).VeneerLM(assistant, emit=heard)
        chat = self.name.startswith(CHAT)
        for task in self.tasks:
            # Set again for each model, so that all get the same examples.
            task.set_fewshot_seed(seed=FEWSHOT_SEED)
        # Not `simple_evaluate`, which inspects the system and seeds the random numbers of this process.
        with _of_task(self.name), preparing:
            preparing.enter_context(without_bars())
            found = library("lm_eval.evaluator").evaluate(
                lm=model,
                task_dict={"tasks": {task.task_name: task for task in self.tasks}},
                limit=self.limit,
                bootstrap_iters=0,
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
            )
        measures, left_out = measures_of_samples(self.tasks, found["samples"], found["results"])
        if left_out:
            who, lines = "the base" if base else "the adapter", listing(left_out)
            said = f"{self.name}: measures of {who} without an interval, as the harness computes them:\n{lines}"
            emit(Note(message=said, level=Level.WARNING))
        if not measures:
            raise DataError(f"{self.name}: the task has no measure with a value for each row:\n{listing(left_out)}")
        return measures


def open_task(name: str, limit: int | None) -> HarnessSuite:
    """Load a task. Its rows come from its files, or from the hub if it names a dataset there. The prompt of its first
    row is written before a model is asked for anything.

    Raises:
        ConfigError: the task cannot be loaded, or its prompts cannot be written.
    """
    spec = _spec(name)
    manager = library("lm_eval.tasks").TaskManager(include_defaults=not spec.endswith(YAML_SUFFIXES))
    with _of_task(name), without_bars():
        tasks = tuple(manager.load([spec])["tasks"].values())
        for task in tasks:
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=FEWSHOT_SEED)
            task.build_all_requests(limit=1)
    titles = ", ".join(task.task_name for task in tasks[:3]) + (f" and {len(tasks) - 3} more" if len(tasks) > 3 else "")
    return HarnessSuite(name, f"lm-evaluation-harness: {titles}", tasks, limit)


@contextmanager
def _of_task(name: str) -> Iterator[None]:
    """Turn exceptions of a task into an error that names the task, since a task is a program of templates and Python.
    Errors that veneer raises while the harness calls it, and out-of-memory errors, pass through.

    Raises:
        ConfigError: the task raised an exception.
    """
    try:
        yield
    except VeneerError:
        raise
    except Exception as error:
        frames = list(walk_tb(error.__traceback__))
        if is_out_of_memory(error) or any(frame.f_globals.get("__name__") == MODEL for frame, _ in frames):
            raise
        frame, line = frames[-1]
        told = f"{type(error).__name__}: {error} ({frame.f_code.co_filename}:{line})"
        raise ConfigError(
            f"{name}: lm-evaluation-harness cannot use the task, which raised {told}; correct the task or its data, "
            "or install what it needs"
        ) from error


BAR = re.compile(r"\d+%\||\d+(it|ex|examples|B)?/s\]|\?(it|ex| examples|B)/s\]|\d+ examples \[")
"""Matches lines of tqdm and no others."""


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep the progress bars of the harness and its libraries off standard error within the block. Other lines are
    written after it."""
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            yield
    finally:
        for line in re.split(r"[\r\n]+", told.getvalue()):
            if line.strip() and not BAR.search(line):
                print(line, file=sys.stderr)
