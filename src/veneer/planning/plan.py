"""The plan of a run: micro-batch, memory, time and disk space, and its text for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from veneer.config import ComputeSection
from veneer.planning.batch_shape import StepSizes
from veneer.planning.choose import Limit, MicroBatchChoice, choose
from veneer.planning.memory import MB
from veneer.planning.setup import Setup
from veneer.planning.time import Disk, Rate, disk, operations, step_seconds
from veneer.text.counting import count_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Memory, time and disk space of a run, before it starts."""

    setup: Setup
    choice: MicroBatchChoice
    limit: Limit
    rate: Rate
    steps: int
    seconds: float
    """Seconds of an average step."""
    disk: Disk
    refusal: str | None
    """Why the run is refused; None if it fits."""

    @property
    def micro_batch_tokens(self) -> int:
        """The most tokens of a micro-batch."""
        return self.choice.micro_batch_tokens

    @property
    def recompute(self) -> bool:
        """Whether backward computes the layers again."""
        return self.choice.recompute

    @property
    def share(self) -> float:
        """The share of the rate of products that a step reaches."""
        work = operations(self.setup, self.choice.batch, recompute=self.recompute)
        return work / (self.seconds * self.setup.spread.at_once * self.rate.flops)

    def lines(self) -> list[str]:
        """The plan in two sentences, and one more if there are several processes."""
        choice = self.choice
        kept = "layers computed again in backward" if choice.recompute else "activations kept"
        source = "" if self.rate.measured else " (estimated from the data sheet)"
        spread = self.setup.spread
        parts = f", with a part of every tensor ({self._in_parts / MB:,.1f} MB in total)" if spread.in_parts else ""
        sent = f"{self.sent / MB:,.1f} MB"
        limit = "" if self.limit.known is None else f", of {self.limit.bytes / MB:,.0f} MB allowed"
        each = [f"plan: {spread.processes} processes, each as follows{parts}; {sent} sent by each in a step"]
        return [
            *(each if spread.processes > 1 else []),
            f"plan: {choice.memory.peak / MB:,.0f} MB at the peak{limit} ({self.limit.source}); micro-batches of up to "
            f"{choice.micro_batch_tokens:,} tokens, {kept}",
            f"plan: about {spoken(self.seconds)} a step{source}, {spoken(self.seconds * self.steps)} for "
            f"{count_of(self.steps, 'step')} without evaluation",
        ]

    @property
    def _in_parts(self) -> int:
        """Bytes of a process's parts of weights, gradients and optimiser state."""
        memory = self.choice.memory
        return memory.base + memory.gradients + memory.optimizer

    @property
    def sent(self) -> int:
        """Bytes that each process sends in a step."""
        setup, spread = self.setup, self.setup.spread
        if not spread.in_parts:
            return spread.sent(4 * setup.trained_weights)
        ends = 4 * setup.end_weights
        passes = max(1.0, self.choice.batch.micro_batches / spread.at_once)
        return spread.gathered(4 * setup.trained_weights - ends, ends, passes, recompute=self.recompute)

    def to_json(self) -> dict[str, Any]:
        """Every number, for programs. Sizes are in bytes."""
        memory = self.choice.memory
        return {
            "peak": memory.peak,
            "limit": self.limit.known,
            "fits": self.refusal is None,
            "components": asdict(memory),
            "phases": memory.phases,
            "micro_batch_tokens": self.choice.micro_batch_tokens,
            "recompute": self.choice.recompute,
            "cut": asdict(self.choice.batch),
            "lanes": self.setup.spread.lanes,
            "processes": self.setup.spread.processes,
            "sharded": self.setup.spread.in_parts,
            "sent_per_step": self.sent,
            "steps": self.steps,
            "seconds_per_step": self.seconds,
            "rate": asdict(self.rate),
            "share": self.share,
            "disk": asdict(self.disk),
        }


def make_plan(
    setup: Setup,
    compute: ComputeSection,
    steps: StepSizes,
    limit: Limit,
    *,
    rate: Callable[[Setup], Rate],
    start: int,
) -> Plan:
    """Choose a micro-batch and estimate time and disk space. See `veneer.planning.choose.choose` for the arguments."""
    choice, refusal = choose(setup, compute, steps, limit, start=start)
    found = rate(setup)
    seconds = step_seconds(setup, choice.batch, found, recompute=choice.recompute) / setup.spread.at_once
    return Plan(
        setup=setup,
        choice=choice,
        limit=limit,
        rate=found,
        steps=steps.total,
        seconds=seconds,
        disk=disk(setup),
        refusal=refusal,
    )


def spoken(seconds: float) -> str:
    """A duration in words, with two digits, since it is an estimate."""
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * size:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    return f"{float(f'{seconds:.2g}'):g} s"
