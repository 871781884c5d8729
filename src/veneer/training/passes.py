"""The passes of a step: forward and backward of its micro-batches, lane by lane, which leave its gradients in the
parameters.

A step's loss is the sum over its supervised tokens divided by their number in the whole step, which is known before the
first micro-batch runs; how the step is cut into micro-batches only affects memory. Rows and random draws follow from
the number of the step. Nothing here changes a weight: `veneer.training.engine` uses the gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from veneer.data.micro_batches.batches import MicroBatch
from veneer.machine.out_of_memory import KINDS
from veneer.training.memory_use.out_of_memory import MemoryFault, fault_of, prepared_by
from veneer.training.objectives.base import Means, StepObjective, Sums
from veneer.training.parallel.lanes import LaneSum, Outcome, Signalled, Team
from veneer.training.step_source import StepBatches, StepSource
from veneer.training.trainable import Trainable

DOING = "computing a step"
LANE_SEED = 1_000_000_007
"""The distance between the seeds of a step's lanes: a prime far above the numbers of steps."""


@dataclass(kw_only=True, slots=True)
class Passes:
    """Forward and backward passes of a run's steps, over the lanes of this process."""

    trainable: Trainable
    objective: StepObjective
    source: StepSource
    seed: int
    team: Team = field(default_factory=Team)
    """The processes of the run, of which the first writes, and the lanes that are distributed among them."""

    def prepare(self, number: int, most: int | None, scale: int) -> StepBatches:
        """The rows of a step, with its random draws seeded.

        Args:
            number: the step's number; the first is 1.
            most: the most tokens of a micro-batch; None for the run's own limit.
            scale: the factor of the step's loss (`veneer.training.loss_scale`).

        Raises:
            SourceStopped: a signal came while the rows were made.
            OutOfMemory, RankLost: see `gradients`.
        """
        lanes = self.source.lanes(number, most)
        batches = [batch for lane in lanes for batch in lane]
        with self.team.passing():
            prepared = prepared_by(self.objective, batches, DOING, apart=self.team.apart)
        self._seed(number, 0)
        weights = self.objective.weights(batches)  # the same for prepared ones, which may be made on demand
        if isinstance(prepared, MemoryFault):
            return StepBatches(number, lanes, weights, scale, prepared)
        following = iter(prepared)
        return StepBatches(number, [[next(following) for _ in lane] for lane in lanes], weights, scale)

    def gradients(
        self, step: StepBatches, parameters: Sequence[nn.Parameter], halted: Callable[[], bool]
    ) -> Means | MemoryFault | Signalled:
        """Run forward and backward of a whole step.

        Args:
            step: the step that `prepare` returned last.
            parameters: the trained parameters; they hold the gradients of the step's loss afterwards.
            halted: called before every micro-batch; true gives up the step.

        Returns:
            The loss and the metrics of the step. Or what prevented a process from its part: gradients that exist then
            are those of a part, and must be dropped.

        Raises:
            OutOfMemory: there was no memory, and processes compute together, so that none can halve its part.
            RankLost: another process is gone.
        """
        lane_sum = self.team.sum(parameters, step)
        with self.team.passing():
            outcome = step.fault or self._own_lanes(step, lane_sum, halted)
        return lane_sum.total(outcome)

    def seed_rehearsal(self) -> None:
        """Start the random draws of a pass that belongs to no step."""
        self.trainable.seed_step(self.seed)

    def rehearse(self, batch: MicroBatch) -> MemoryFault | None:
        """Run forward and backward of a single micro-batch. Gradients that exist afterwards must be dropped.

        Returns:
            The fault, if a process had no memory for it.

        Raises:
            OutOfMemory, RankLost: see `gradients`.
        """
        self.seed_rehearsal()
        with self.team.passing():
            tried = self._attempt(batch, lambda sums: sums.total)
        fault = self.team.agree(tried if isinstance(tried, MemoryFault) else None, [batch])
        return fault if isinstance(fault, MemoryFault) else None

    def _seed(self, step: int, lane: int) -> None:
        """Start the random draws of a lane, which are the same wherever it is computed."""
        self.trainable.seed_step(self.seed * 1_000_003 + step + lane * LANE_SEED)

    def _own_lanes(self, step: StepBatches, lane_sum: LaneSum, halted: Callable[[], bool]) -> Outcome:
        """Run forward and backward of this process's lanes. The result says what prevented it, if anything did."""
        for lane in self.team.own:
            means = Means(step.weights)
            if lane > 0:
                self._seed(step.number, lane)
            for batch in step.lanes[lane]:
                if self.team.apart and halted():
                    return Signalled()
                sums = self._attempt(batch, step.loss)
                if isinstance(sums, MemoryFault):
                    return sums
                means.add(sums)
            lane_sum.add(lane, means)
        for batch in self.team.idle(step.lanes):
            self._attempt(batch, lambda sums: 0.0 * sums.loss(step.weights))
        # A process whose lanes are empty gets signals as well.
        return Signalled() if self.team.many and halted() else None

    def _attempt(self, batch: MicroBatch, loss: Callable[[Sums], Tensor]) -> Sums | MemoryFault:
        """Run forward and backward of a micro-batch, or return the fault, so that nothing holds its tensors."""
        try:
            sums = self.objective.sums(batch)
            loss(sums).backward()
        except KINDS as error:
            return fault_of(error, [batch], DOING, apart=self.team.apart)
        return sums
