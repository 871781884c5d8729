"""`evaluate` and `generate` on a cluster: tasks compute parts of the rows, and one more task joins them.

A part is computed without any communication with the others, so that a part can be repeated and no task waits for
another. A row's numbers do not depend on the rows next to it, so the joined result is that of a single process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from veneer.assistant.load import load_assistant
from veneer.assistant.request import AssistantRequest
from veneer.data.forms.turns import Message
from veneer.errors import VeneerError
from veneer.evaluation.report import Report
from veneer.evaluation.request import EvaluationRequest
from veneer.evaluation.run import contribute, run_evaluation
from veneer.events import Event, Note, Result, Stage, Subscriber
from veneer.generation.sampling import Sampling
from veneer.generation.share import Blank, nothing
from veneer.ray.cluster import Cluster, cluster


@dataclass(slots=True)
class Part:
    """Every W-th item, for one of W tasks that do not communicate meanwhile (`veneer.generation.share.Share`)."""

    number: int
    parts: int
    found: list[list[Any]] = field(default_factory=list)
    """The results, task by task."""
    first = False
    processes = 1

    def from_first(self, make: Callable[[], Any]) -> Any:
        """See `Share`; here every task makes its own."""
        return make()

    def own(self, items: int) -> Sequence[int]:
        """See `Share`."""
        return range(self.number, items, self.parts)

    def all(self, found: Sequence[Any], items: int, blank: Blank = nothing) -> list[Any]:
        """See `Share`."""
        self.found.append(list(found))
        whole = [blank(number) for number in range(items)]
        whole[self.number :: self.parts] = found
        return whole


@dataclass(slots=True)
class Joined:
    """The results of the parts, which replace computing them (`veneer.generation.share.Share`)."""

    parts: Sequence[Sequence[Sequence[Any]]]
    """The results of each part, task by task."""
    first = True
    processes = 1
    _tasks: int = 0

    def from_first(self, make: Callable[[], Any]) -> Any:
        """See `Share`."""
        return make()

    def own(self, items: int) -> Sequence[int]:
        """See `Share`."""
        return range(0)

    def all(self, found: Sequence[Any], items: int, blank: Blank = nothing) -> list[Any]:
        """See `Share`."""
        whole: list[Any] = [None] * items
        for number, part in enumerate(self.parts):
            whole[number :: len(self.parts)] = part[self._tasks]
        self._tasks += 1
        return whole


def evaluate_on(address: str, request: EvaluationRequest, emit: Subscriber) -> Report:
    """Evaluate like `veneer.evaluation.run.evaluate`, with the rows distributed over tasks on a cluster.

    Args:
        address: the address of the cluster (`veneer.ray.cluster.cluster`).
        request: the evaluation; all nodes see its files.
        emit: receives every event.

    Raises:
        VeneerError: an error of `evaluate`, or the cluster cannot be used.
    """
    with cluster(address) as nodes:
        parts = nodes.slots()
        work = [EvaluationPart(request, number, parts) for number in range(parts)]
        found = _all(nodes, contributed, work, "scoring rows", emit)
        whole = [Contributions(request, found)]
        ((report, events),) = _all(nodes, put_together, whole, "putting scores together", emit)
    for event in events:
        emit(event)
    return report  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to one question of several."""

    text: str
    warnings: tuple[str, ...]
    """Why the answer may be wrong (`Assistant.warnings`)."""


def answers_on(
    address: str,
    request: AssistantRequest,
    conversations: Sequence[Sequence[Message]],
    sampling: Sampling,
    emit: Subscriber,
) -> list[Answered]:
    """The assistant's next turn in every conversation, as a single process would decode them, distributed over tasks on
    a cluster.

    Args:
        address: the address of the cluster (`veneer.ray.cluster.cluster`).
        request: the model; all nodes see its files.
        conversations: the conversations to continue.
        sampling: how tokens are chosen.
        emit: receives every event.

    Raises:
        VeneerError: the model cannot be used, a conversation cannot be answered, or the cluster cannot be used.
    """
    with cluster(address) as nodes:
        parts = min(nodes.slots(), len(conversations))
        work = [QuestionPart(request, conversations, sampling, number, parts) for number in range(parts)]
        found = _all(nodes, answered, work, "answering", emit)
    for event in dict.fromkeys(event for _, _, events in found for event in events):
        emit(event)
    texts = Joined([[texts] for texts, _, _ in found]).all([], len(conversations))
    return [Answered(text, found[0][1]) for text in texts]


@dataclass(frozen=True, slots=True)
class EvaluationPart:
    """One part of an evaluation's rows."""

    request: EvaluationRequest
    number: int
    parts: int


def contributed(work: EvaluationPart) -> list[list[Any]]:
    """The results of a part of the rows, task by task. A task on a cluster."""
    part = Part(work.number, work.parts)
    contribute(work.request, part)
    return part.found


@dataclass(frozen=True, slots=True)
class Contributions:
    """An evaluation with the computed rows."""

    request: EvaluationRequest
    parts: Sequence[Sequence[Sequence[Any]]]


def put_together(work: Contributions) -> tuple[Report, list[Event]]:
    """The report of an evaluation, and its events. A task on a cluster, which runs metrics and a judge."""
    said: list[Event] = []
    report = run_evaluation(work.request, said.append, share=Joined(work.parts))
    return report, [event for event in said if isinstance(event, Note | Result)]


@dataclass(frozen=True, slots=True)
class QuestionPart:
    """One part of many questions."""

    request: AssistantRequest
    conversations: Sequence[Sequence[Message]]
    sampling: Sampling
    number: int
    parts: int


def answered(work: QuestionPart) -> tuple[list[str], tuple[str, ...], list[Event]]:
    """The answers to a part of the questions, the assistant's warnings, and the events. A task on a cluster."""
    said: list[Event] = []
    part = Part(work.number, work.parts)
    assistant = load_assistant(work.request, said.append, part)
    assistant.answers(work.conversations, work.sampling, subscribers=[said.append])
    return part.found[0], assistant.warnings, [event for event in said if isinstance(event, Note)]


def _all(nodes: Cluster, function: Any, work: Sequence[Any], doing: str, emit: Subscriber) -> list[Any]:
    """Call a function for each part on the cluster, and return the results in the order of the parts.

    Raises:
        VeneerError: the error of the first part that failed.
    """
    found: list[Any] = [None] * len(work)
    names = [f"part {number} of {len(work)}" for number in range(1, len(work) + 1)]
    with Stage(emit, f"{doing} on the cluster", total=len(work), unit="parts") as stage:

        def done(number: int, result: Any) -> None:
            if isinstance(result, VeneerError):
                raise result
            found[number] = result
            stage.advance(1, names[number])

        nodes.each(function, work, names, done)
    return found
