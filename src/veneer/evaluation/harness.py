"""Tasks of lm-evaluation-harness as suites: its prompts and scores of every row, with veneer's statistics.

`lm-eval:NAME` is a task or group by its name, or a YAML file that describes one; `lm-eval-chat:NAME` asks through the
chat template, examples as turns. The harness scores each row, and its own aggregation says what a measure's rows sum up
to: a mean, or a perplexity or bits per byte. Rows of all tasks of a group are taken together. Measures that the harness
computes of all rows at once (corpus BLEU, a correlation) have no value for a row and are left out, which a note says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from veneer.assistant import Assistant
from veneer.errors import ConfigError, DataError, listing, nearest
from veneer.evaluation.statistics.measures import LOWER_IS_BETTER, Measure, exp_quotient, quotient
from veneer.events import Level, Note, Subscriber

HARNESS = "lm-eval:"
"""What the name of a suite begins with that is a task of the harness."""
CHAT = "lm-eval-chat:"
"""The beginning where the chat template is to be used."""
FEWSHOT_SEED = 1234
"""The seed of the examples in prompts: that of the harness."""
YAML_SUFFIXES = (".yaml", ".yml")


def is_task(name: str) -> bool:
    """Whether the name of a suite is that of a task of the harness."""
    return name.startswith((HARNESS, CHAT))


def library(part: str) -> Any:
    """A module of lm-eval. Raises ConfigError where it is not installed."""
    try:
        return import_module(part)
    except ImportError as error:
        raise ConfigError("tasks of lm-evaluation-harness need lm-eval: pip install 'veneer[lm-eval]'") from error


def check_tasks(names: Sequence[str]) -> None:
    """Refuse tasks that the harness does not know, before anything is loaded.

    Raises:
        ConfigError: naming all of them; or the harness is not installed.
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
    """Rows of each task that are asked, from the first; None takes all."""

    @property
    def count(self) -> int:
        """The number of its rows."""
        sizes = [len(task.eval_docs) for task in self.tasks]
        return sum(size if self.limit is None else min(size, self.limit) for size in sizes)

    @property
    def primary(self) -> str | None:
        """The measure that stands for the suite: the first that its task names."""
        return None

    @property
    def shares(self) -> bool:
        """Whether that measure is a share of rows: not known before it is computed."""
        return False

    def measures(self, assistant: Assistant, *, base: bool, emit: Subscriber) -> list[Measure]:
        """What the model does on the tasks."""
        model = library("veneer.evaluation.lm_eval").VeneerLM(assistant, emit=emit)
        chat = self.name.startswith(CHAT)
        for task in self.tasks:
            # Anew for each model, so that all get the same examples.
            task.set_fewshot_seed(seed=FEWSHOT_SEED)
        # Not `simple_evaluate`, which looks through the system, and seeds this process's random numbers.
        found = library("lm_eval.evaluator").evaluate(
            lm=model,
            task_dict={"tasks": {task.task_name: task for task in self.tasks}},
            limit=self.limit,
            bootstrap_iters=0,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
        measures, left_out = measures_of_samples(self.tasks, found["samples"])
        if left_out and base:
            lines = listing(left_out)
            emit(Note(message=f"{self.name}: measures without a value for each row:\n{lines}", level=Level.WARNING))
        if not measures:
            raise DataError(f"{self.name}: the task has no measure with a value for each row:\n{listing(left_out)}")
        return measures


def open_task(name: str, limit: int | None) -> HarnessSuite:
    """Load a task: its rows come from its files, or from the hub where it names a dataset there.

    Raises:
        ConfigError: it cannot be loaded.
    """
    spec = _spec(name)
    manager = library("lm_eval.tasks").TaskManager(include_defaults=not spec.endswith(YAML_SUFFIXES))
    try:
        tasks = tuple(manager.load([spec])["tasks"].values())
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ConfigError(f"{name}: lm-evaluation-harness cannot load it: {type(error).__name__}: {error}") from error
    for task in tasks:
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
    titles = ", ".join(task.task_name for task in tasks[:3]) + (f" and {len(tasks) - 3} more" if len(tasks) > 3 else "")
    return HarnessSuite(name, f"lm-evaluation-harness: {titles}", tasks, limit)


def measures_of_samples(
    tasks: Sequence[Any], samples: Mapping[str, Sequence[Mapping[str, Any]]]
) -> tuple[list[Measure], list[str]]:
    """The measures of what the harness has scored, in the order in which the tasks name them.

    Args:
        tasks: of the harness.
        samples: what `simple_evaluate` gives, by task.

    Returns:
        The measures, each with one row for each row of the tasks; and the names of those that have none.
    """
    places: dict[tuple[str, int], int] = {}
    values: dict[str, dict[int, tuple[float, float]]] = {}
    forms: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for task in tasks:
        aggregations, upward = task.aggregation(), task.higher_is_better()
        for sample in samples[task.task_name]:
            place = places.setdefault((task.task_name, sample["doc_id"]), len(places))
            for metric in sample["metrics"]:
                name = metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
                form = aggregations[metric].__name__
                read = READERS.get(form)
                if read is None or not _readable(sample[metric], form):
                    left_out[name] = f"{name}: aggregated by {form}"
                elif upward.get(metric) is False and metric not in LOWER_IS_BETTER:
                    left_out[name] = f"{name}: less is better of it, and veneer does not know its kind"
                else:
                    values.setdefault(name, {})[place] = read(sample[metric])
                    forms[name] = form
    measures = [_measure(name, forms[name], rows, len(places)) for name, rows in values.items() if name not in left_out]
    return measures, list(left_out.values())


def _mean(value: Any) -> tuple[float, float]:
    return float(value), 1.0


def _weighted(value: Any) -> tuple[float, float]:
    return -float(value[0]), float(value[1])


def _bits(value: Any) -> tuple[float, float]:
    return -float(value[0]) / math.log(2), float(value[1])


READERS: dict[str, Callable[[Any], tuple[float, float]]] = {
    "mean": _mean,
    "perplexity": lambda value: (-float(value), 1.0),
    "weighted_perplexity": _weighted,
    "bits_per_byte": _bits,
}
"""What a row adds to a measure (a sum and its weight), by the name of the harness's aggregation."""
EXPONENTIALS = ("perplexity", "weighted_perplexity")


def _readable(value: Any, form: str) -> bool:
    if form in ("weighted_perplexity", "bits_per_byte"):
        return isinstance(value, tuple | list) and len(value) == 2
    return isinstance(value, int | float | np.number)


def _measure(name: str, form: str, rows: Mapping[int, tuple[float, float]], count: int) -> Measure:
    counts = np.zeros((count, 2))
    for place, sums in rows.items():
        counts[place] = sums
    value = exp_quotient if form in EXPONENTIALS else quotient
    numbers = counts[counts[:, 1] > 0, 0]
    bounded = form == "mean" and bool(((numbers >= 0) & (numbers <= 1)).all())
    return Measure(name, counts, value, bounded)
