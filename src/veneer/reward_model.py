"""Loads reward models, and measures how often they are right about pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from veneer.adapters.files.origin import BaseCheck
from veneer.adapters.files.store import read_any_spec
from veneer.arguments import check_least, check_types
from veneer.assistant.load import load_base_model
from veneer.assistant.memory import enough_memory
from veneer.assistant.request import AssistantRequest, assistant_request, backend_of
from veneer.config import ComputeSection, DataSection
from veneer.data.files.in_memory import RowSource, file_for_now
from veneer.data.sides import read_pairs
from veneer.enums import Column, Method, Task
from veneer.errors import DataError
from veneer.evaluation.columns import named_columns
from veneer.evaluation.statistics.shares import wilson
from veneer.events import Level, Note, Result, Subscriber, broadcast
from veneer.io.checkpoint import open_checkpoint
from veneer.run_folder import recorded_run
from veneer.training.rewarding.reward_model import RewardModel, with_reward_adapter


def is_reward_adapter(folder: Path) -> bool:
    """Whether an adapter is that of a reward model.

    Raises:
        AdapterError: the adapter cannot be read.
    """
    return read_any_spec(folder).task is Task.SEQ_CLS


def open_reward_model(
    model: str | Path,
    adapter: str | Path,
    *,
    method: Method | str | None = None,
    compute: ComputeSection | None = None,
    revision: str | None = None,
    subscribers: Sequence[Subscriber] = (),
) -> RewardModel:
    """Load a base and the adapter of a reward model on it.

    Args:
        model: directory, GGUF file or hub id.
        adapter: folder of the adapter, from veneer or PEFT (`task_type: SEQ_CLS`, one label).
        method: the form of the base in memory, as for `veneer.open_assistant`.
        compute: device, dtype and products.
        revision: branch, tag or commit of a hub id.
        subscribers: receive every event, which shows the progress of loading.

    Raises:
        ModelError, AdapterError, ConfigError: model, adapter or settings cannot be used.
        OutOfMemory: there is not enough memory.
    """
    check_types(open_reward_model, locals())
    request = assistant_request(model, adapter, method, compute, revision=revision)
    return load_reward_model(request, broadcast(subscribers))


def load_reward_model(request: AssistantRequest, emit: Subscriber) -> RewardModel:
    """Carry out a request, as `open_reward_model` says."""
    assert request.adapter is not None, "a reward model has an adapter"
    run, checkpoint = recorded_run(request.adapter), open_checkpoint(request.model, revision=request.revision)
    with enough_memory(request, f"loading {request.model}"):
        loaded = load_base_model(request, checkpoint, backend_of(request, run), run, emit)
    problem = BaseCheck(request.adapter, request.model, checkpoint.files()).problem()
    if problem is not None:
        emit(Note(message=problem, level=Level.WARNING))
    return with_reward_adapter(loaded, request.adapter, checkpoint.tokenizer())


@dataclass(frozen=True, kw_only=True, slots=True)
class PairAccuracy:
    """How often a reward model is right about pairs."""

    pairs: int
    accuracy: float
    """The share of pairs whose chosen answer has the higher score."""
    interval: tuple[float, float]
    """The 95 % interval of that share (Wilson, 1927)."""
    chosen: float
    """The mean score of chosen answers."""
    rejected: float
    """The mean score of rejected answers."""

    @property
    def margin(self) -> float:
        """The mean score of chosen answers minus that of rejected ones."""
        return self.chosen - self.rejected


def pair_accuracy(
    model: RewardModel,
    data: RowSource,
    *,
    limit: int | None = None,
    columns: Mapping[Column, str] | Mapping[str, str] | None = None,
    subscribers: Sequence[Subscriber] = (),
) -> PairAccuracy:
    """How often a reward model gives the chosen answer of a pair the higher score.

    Args:
        model: the reward model.
        data: the pairs: a file, or dictionaries.
        limit: the number of pairs to score, from the start; None scores all.
        columns: maps veneer's names of columns (a `Column` or its name) to those of the rows, where they differ.
        subscribers: receive every event; the last one holds the result.

    Raises:
        DataError: rows are not pairs, or there are none.
    """
    check_types(pair_accuracy, locals())
    check_least(1, {"limit": limit})
    emit = broadcast(subscribers)
    with file_for_now(data, emit) as file:
        pairs = read_pairs(DataSection(file=file, columns=named_columns(columns)), emit)[:limit]
    if not pairs:
        raise DataError("there are no pairs to score")
    scores = model.scores_of([record for pair in pairs for record in pair.records], emit)
    chosen, rejected = scores[::2], scores[1::2]
    right = sum(one > other for one, other in zip(chosen, rejected, strict=True))
    low, high = wilson(right, len(pairs))
    found = PairAccuracy(
        pairs=len(pairs),
        accuracy=right / len(pairs),
        interval=(float(low), float(high)),
        chosen=sum(chosen) / len(pairs),
        rejected=sum(rejected) / len(pairs),
    )
    emit(Result(verb="evaluate", values=asdict(found)))
    return found
