"""The evaluation loss of a run. A signal ends the evaluation between two micro-batches, and it adapts to the memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from veneer.data.lazy_sequence import items_at
from veneer.data.micro_batches.batches import MicroBatch
from veneer.events import Note, Stage, Subscriber
from veneer.machine.out_of_memory import KINDS
from veneer.model.language import LanguageModel
from veneer.model.mode import evaluation_mode
from veneer.processes.group import Group
from veneer.runtime.signals import stop_signalled
from veneer.training.memory_use.kept_weights import give_back_decoded
from veneer.training.memory_use.out_of_memory import MemoryFault, fault_of, prepared_by, release_memory
from veneer.training.objectives.base import Means, StepObjective
from veneer.training.parallel.lanes import Outcome, Signalled, Team

DOING = "evaluating"


class _SignalCame(Exception):
    """A signal came between two micro-batches."""


def evaluation(
    model: LanguageModel,
    batches_for: Callable[[int | None], Sequence[MicroBatch]],
    objective: StepObjective,
    emit: Subscriber,
    team: Team,
) -> Callable[[], Means | None]:
    """A function that measures the evaluation loss and metrics of the current model, and reports its progress. It
    returns None if a signal ended it.

    If the memory is full, it starts again without the decoded weights that were kept, or else with smaller
    micro-batches, which have the same loss up to rounding. Every evaluation starts with the run's own size, so that a
    resumed run finds the same loss.

    Args:
        model: the model.
        batches_for: packs the evaluation rows into micro-batches of at most so many tokens, or of the run's size for
            None.
        objective: the objective over the model.
        emit: receives the progress.
        team: the processes of the run. Each evaluates a part, and all of them get the loss that a single process would
            find.
    """

    def evaluate() -> Means | None:
        batches = batches_for(None)
        halvings = 0
        while isinstance(outcome := _attempt(model, batches, objective, emit, team), MemoryFault):
            if give_back_decoded(model, emit):
                continue
            release_memory(model.device)
            tokens = outcome.half(halvings)
            if tokens is None:
                raise outcome.refusal(DOING, halvings)
            emit(Note(message=f"the memory is full: evaluating in micro-batches of up to {tokens:,} tokens"))
            batches = batches_for(tokens)
            halvings += 1
        return outcome

    return evaluate


def _attempt(
    model: LanguageModel, batches: Sequence[MicroBatch], objective: StepObjective, emit: Subscriber, team: Team
) -> Means | MemoryFault | None:
    world = team.group.ranks.world
    own = range(team.group.ranks.rank, len(batches), world)
    # If the weights are in parts, each process computes as many micro-batches as the first.
    idle = 0 if team.apart else -(-len(batches) // world) - len(own)
    means: list[Means] = []
    outcome: Outcome
    with team.passing():
        prepared = prepared_by(objective, batches, DOING, apart=team.apart)
        weights = objective.weights(batches)
        if isinstance(prepared, MemoryFault):
            outcome = prepared
        else:
            computed = items_at(prepared, [*own, *range(idle)])
            means, outcome = _own_means(model, computed, objective, weights, emit, team.apart)
    if team.shards is not None:
        team.shards.let_go()
    agreed = team.agree(outcome, batches)
    if isinstance(agreed, Signalled):
        return None
    if agreed is not None:
        return agreed
    whole = Means(weights)
    for part in _everybodys(means[: len(own)], len(batches), weights, team.group):
        whole = whole.joined(part)
    return whole


def _own_means(
    model: LanguageModel,
    batches: Sequence[MicroBatch],
    objective: StepObjective,
    weights: Mapping[str, float],
    emit: Subscriber,
    apart: bool,
) -> tuple[list[Means], Outcome]:
    """What each of this process's micro-batches adds to the means, or what prevented that. A process that is not
    `apart` from the others computes to the end."""
    own: list[Means] = []
    try:
        with (
            Stage(emit, DOING, total=len(batches), unit="micro-batches") as stage,
            torch.no_grad(),
            evaluation_mode(model),
        ):
            for batch in batches:
                own.append(Means(weights))
                own[-1].add(objective.sums(batch))
                stage.advance()
                if apart and stop_signalled():
                    raise _SignalCame
        return own, None if apart or not stop_signalled() else Signalled()
    except _SignalCame:
        return [], Signalled()
    except KINDS as error:
        return [], fault_of(error, batches, DOING, apart=apart)


def _everybodys(own: Sequence[Means], count: int, weights: Mapping[str, float], group: Group) -> list[Means]:
    """What each of all micro-batches adds to the means; of W ranks each has computed every W-th one.

    Args:
        own: the means of this rank.
        count: the number of all micro-batches.
        weights: the weights of the terms and metrics.
        group: the processes of the run.
    """
    world, width = group.ranks.world, 1 + 2 * len(weights)
    numbers = torch.zeros(-(-count // world), width, dtype=torch.float64)
    for place, means in enumerate(own):
        numbers[place] = means.numbers()
    every = group.gather(numbers.view(-1)).view(world, *numbers.shape)
    return [Means.of_numbers(weights, every[at % world, at // world]) for at in range(count)]
