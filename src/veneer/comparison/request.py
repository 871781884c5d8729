"""The settings of a comparison, and the checks of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from veneer.arguments import check_least, repeats
from veneer.config.values import flat, given_twice, override, read_assignment, refuse_two_values
from veneer.enums import Method, ObjectiveName, RowKind
from veneer.errors import ConfigError, listing

SOURCES = "data.sources"
SPLIT = "data.split"
ROW_SETTINGS = (SOURCES, "data.columns", "data.bad_rows", SPLIT)
"""Settings that determine the rows. They apply to all methods, since all methods have the same rows."""
OWN_KEYS = ("model", "output", "method", "data.file", "data.eval_file", "data.held_out", "train.seed")
"""Settings that a comparison sets for its runs itself."""
SFT = ObjectiveName.SFT.value
METHODS = (Method.FULL, Method.LORA, Method.QLORA)
HELD_OUT = 0.1
"""The share of the rows that is scored and not trained if no rows to score are given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareRequest:
    """The settings of a comparison."""

    model: str
    data: str | None = None
    """The rows to train on; None if `assignments` have `data.sources`."""
    output: str
    methods: tuple[Method, ...] = METHODS
    seeds: int = 3
    eval_data: str | None = None
    """The rows to score. Without them a share of `data` is scored and not trained, the same rows for all runs."""
    held_out: float = HELD_OUT
    limit: int | None = None
    """The number of evaluation rows to score, drawn once."""
    max_new_tokens: int | None = None
    metrics: tuple[str, ...] = ()
    """Metrics of the task by name, the primary one first; if empty, those that fit the rows."""
    assignments: tuple[str, ...] = ()
    """`key=value` settings of the runs, as in `veneer train --set`; all methods get the same."""
    more: Mapping[Method, tuple[str, ...]] = field(default_factory=dict)
    """Settings of single methods, which override those of all."""
    preference: ObjectiveName | None = None
    """An objective of pairs. `data` are then pairs: every method is fine-tuned on the chosen answers, and its adapter
    is trained further with this objective on the pairs. If None, `data` are answers, and there is only fine-tuning."""


def key_of(assignment: str) -> str:
    """The setting that an assignment sets."""
    return assignment.partition("=")[0].strip()


def keys_of(assignment: str) -> list[str]:
    """The individual settings of an assignment: `train={seed: 7}` sets `train.seed`.

    Raises:
        ConfigError: the text is not an assignment.
    """
    return list(flat(override({}, [assignment])))


def _is_under(key: str, settings: tuple[str, ...]) -> bool:
    """Whether a key is one of these settings, or a part of one of them."""
    return any(key == setting or key.startswith(f"{setting}.") for setting in settings)


def check_question(request: CompareRequest) -> None:
    """Refuse settings that contradict each other, and those that a comparison sets itself.

    Raises:
        ConfigError: there are such settings; they are named.
    """
    check_least(1, {"seeds": request.seeds, "limit": request.limit, "max_new_tokens": request.max_new_tokens})
    _check_repeats(request)
    every = (request.assignments, *request.more.values())
    assignments = [text for texts in every for text in texts]
    given = [key for text in assignments for key in keys_of(text)]
    taken = [key for key in given if _is_under(key, OWN_KEYS)]
    if taken:
        raise ConfigError(f"a comparison sets these for its runs itself; leave them out:\n{listing(taken)}")
    own = [key for texts in request.more.values() for text in texts for key in keys_of(text)]
    apart = [key for key in own if _is_under(key, ROW_SETTINGS)]
    if apart:
        raise ConfigError(f"all methods have the same rows; give these settings to all of them:\n{listing(apart)}")
    if any(override({}, texts).get("objective", SFT) != SFT for texts in every):
        raise ConfigError(
            "a comparison trains with objective sft, on rows with answers, by which it is measured; for pairs, name an "
            "objective that continues from fine-tuning (--preference dpo), or train adapters by `veneer train` and "
            "compare them by `veneer evaluate`"
        )
    _check_preference(request)
    if (request.data is None) == (SOURCES not in given):
        raise ConfigError("a comparison trains on a file of rows (--data) or on data.sources; give one of them")
    if not request.methods:
        raise ConfigError("a comparison needs at least one method")
    if not 0 < request.held_out < 1:
        raise ConfigError(f"the held-out share is {request.held_out}; it must lie between 0 and 1")


def _check_repeats(request: CompareRequest) -> None:
    """Refuse names that are given more than once, one of which would be ignored."""
    names = repeats({"methods": [one.value for one in request.methods], "metrics": request.metrics})
    if names:
        raise ConfigError(f"these are given more than once; give each once:\n{listing(names)}")
    refuse_two_values(
        [
            f"--set {line}"
            for texts in (request.assignments, *request.more.values())
            for line in given_twice(map(read_assignment, texts))
        ]
    )


def _check_preference(request: CompareRequest) -> None:
    objective = request.preference
    if objective is None:
        return
    if objective.rows is not RowKind.PAIRS or objective is ObjectiveName.REWARD:
        raise ConfigError(f"--preference needs an objective of pairs that continues fine-tuning, not {objective.value}")
    if Method.FULL in request.methods:
        raise ConfigError(f"{objective.value} continues from an adapter, and full makes none; give methods lora, qlora")
    if request.data is None:
        raise ConfigError("a comparison of preferences trains on a file of pairs (--data), not on data.sources")
