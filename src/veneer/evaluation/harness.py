"""Tasks of lm-evaluation-harness as suites: its prompts and scores of every row, with veneer's statistics.

`lm-eval:NAME` is a task or group by its name, or a YAML file that describes one; `lm-eval-chat:NAME` asks through the
chat template, examples as turns. The harness scores each row, and its own aggregation says what a measure's rows sum up
to: a mean, or a perplexity or bits per byte. Rows of all tasks of a group are taken together. Of the measures that the
harness computes of all rows at once, BLEU, chrF, F1 and Matthews' correlation follow from sums over rows
(`veneer.evaluation.corpus_measures`). Others (a median, TER) are told as the harness computes them, without an
interval.
"""

from __future__ import annotations

import io
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from veneer.assistant import Assistant
from veneer.errors import ConfigError, DataError, listing, nearest
from veneer.evaluation.corpus_measures import CORPUS
from veneer.evaluation.metrics.base import expanded
from veneer.evaluation.statistics.measures import LOWER_IS_BETTER, Measure, exp_quotient, quotient
from veneer.events import Event, Level, Note, Subscriber

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
        """Whether the primary measure is a share of rows: false, since it is not known before it is computed."""
        return False

    def measures(self, assistant: Assistant, *, base: bool, emit: Subscriber) -> list[Measure]:
        """What the model does on the tasks."""
        preparing = ExitStack()

        def heard(event: Event) -> None:
            # Prompts are written before the model is asked for anything: from here on the progress is veneer's own.
            preparing.close()
            emit(event)

        model = library("veneer.evaluation.lm_eval").VeneerLM(assistant, emit=heard)
        chat = self.name.startswith(CHAT)
        for task in self.tasks:
            # Anew for each model, so that all get the same examples.
            task.set_fewshot_seed(seed=FEWSHOT_SEED)
        # Not `simple_evaluate`, which looks through the system, and seeds this process's random numbers.
        with preparing:
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
    """Load a task: its rows come from its files, or from the hub where it names a dataset there.

    Raises:
        ConfigError: it cannot be loaded.
    """
    spec = _spec(name)
    manager = library("lm_eval.tasks").TaskManager(include_defaults=not spec.endswith(YAML_SUFFIXES))
    try:
        with without_bars():
            tasks = tuple(manager.load([spec])["tasks"].values())
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ConfigError(f"{name}: lm-evaluation-harness cannot load it: {type(error).__name__}: {error}") from error
    for task in tasks:
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
    titles = ", ".join(task.task_name for task in tasks[:3]) + (f" and {len(tasks) - 3} more" if len(tasks) > 3 else "")
    return HarnessSuite(name, f"lm-evaluation-harness: {titles}", tasks, limit)


BAR = re.compile(r"\d+%\||\d+(it|ex|examples|B)?/s\]|\?(it|ex| examples|B)/s\]|\d+ examples \[")
"""What a line of tqdm has, and no other."""


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep the bars of the harness and its libraries from standard error within the block; other lines come after
    it."""
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            yield
    finally:
        for line in re.split(r"[\r\n]+", told.getvalue()):
            if line.strip() and not BAR.search(line):
                print(line, file=sys.stderr)


def measures_of_samples(
    tasks: Sequence[Any],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    results: Mapping[str, Mapping[str, Any]],
) -> tuple[list[Measure], list[str]]:
    """The measures of what the harness has scored, in the order in which the tasks name them.

    Args:
        tasks: of the harness.
        samples: what `simple_evaluate` gives, by task.
        results: what it has computed of all rows, by task.

    Returns:
        The measures, each with one row for each row of the tasks; and of those that have none, what the harness has
        computed.
    """
    places: dict[tuple[str, int], int] = {}
    values: dict[str, dict[int, tuple[float, float]]] = {}
    forms: dict[str, str] = {}
    items: dict[str, dict[int, Any]] = {}
    left_out: dict[str, str] = {}
    for task in tasks:
        aggregations, upward = task.aggregation(), task.higher_is_better()
        for sample in samples[task.task_name]:
            place = places.setdefault((task.task_name, sample["doc_id"]), len(places))
            for metric in sample["metrics"]:
                name = metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
                form = aggregations[metric].__name__
                read = READERS.get(form)
                if form in CORPUS:
                    items.setdefault(name, {})[place] = sample[metric]
                    forms[name] = form
                elif read is None or not _readable(sample[metric], form):
                    left_out.setdefault(name, f"{name}: {_computed(results, tasks, name)} (aggregated by {form})")
                elif upward.get(metric) is False and metric not in LOWER_IS_BETTER:
                    why = "less is better of it, and veneer does not know its kind"
                    left_out.setdefault(name, f"{name}: {_computed(results, tasks, name)} ({why})")
                else:
                    values.setdefault(name, {})[place] = read(sample[metric])
                    forms[name] = form
    measures = []
    for name, form in forms.items():
        if name in left_out:
            continue
        if name in values:
            measures.append(_measure(name, form, values[name], len(places)))
        elif (found := CORPUS[form](list(items[name].values()))) is not None:
            measures.append(replace(expanded(found, list(items[name]), len(places)), name=name))
        else:
            left_out[name] = f"{name}: {_computed(results, tasks, name)} (aggregated by {form})"
    return measures, list(left_out.values())


def _computed(results: Mapping[str, Mapping[str, Any]], tasks: Sequence[Any], name: str) -> str:
    """What the harness has computed of all rows of each task."""
    key = name if "," in name else f"{name},none"
    values = [results.get(task.task_name, {}).get(key) for task in tasks]
    return ", ".join(f"{value:.4g}" for value in values if isinstance(value, int | float | np.number)) or "no number"


def _mean(value: Any) -> tuple[float, float]:
    return float(value), 1.0


def _weighted(value: Any) -> tuple[float, float]:
    return -float(value[0]), float(value[1])


def _bits(value: Any) -> tuple[float, float]:
    return -float(value[0]) / math.log(2), float(value[1])


def _no_nan(value: Any) -> tuple[float, float]:
    return (0.0, 0.0) if math.isnan(value) else (float(value), 1.0)


def _brier(value: Any) -> tuple[float, float]:
    right, shares = value
    return float(((np.asarray(shares) - (np.arange(len(shares)) == right)) ** 2).sum()), 1.0


READERS: dict[str, Callable[[Any], tuple[float, float]]] = {
    "mean": _mean,
    "nanmean": _no_nan,
    "brier_score": _brier,
    "perplexity": lambda value: (-float(value), 1.0),
    "weighted_perplexity": _weighted,
    "bits_per_byte": _bits,
}
"""What a row adds to a measure (a sum and its weight), by the name of the harness's aggregation."""
EXPONENTIALS = ("perplexity", "weighted_perplexity")


def _readable(value: Any, form: str) -> bool:
    if form in ("weighted_perplexity", "bits_per_byte", "brier_score"):
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
