"""The training loop: steps, evaluations, checkpoints, and a clean end whatever happens.

Everything that a step depends on follows from its number (rows, order, learning rate, dropout seed), the weights and
the optimiser's state, so that a resumed run is the run that was never interrupted. How a step's gradients are computed
is in `veneer.training.passes`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from veneer.data.micro_batches.batches import MicroBatch
from veneer.errors import AdapterError, CheckpointError, DataError, Diverged, Interrupted, OutOfMemory, RankLost
from veneer.event_log import EventLog
from veneer.events import CheckpointSaved, Evaluated, MicroBatchHalved, Note, RunFinished, StepDone, StepSkipped
from veneer.finite import all_finite
from veneer.machine.out_of_memory import out_of_memory_while
from veneer.machine.peak_memory import peak_memory_mb
from veneer.model.language import LanguageModel
from veneer.runtime.signals import stop_signalled
from veneer.training.bad_steps import IN_A_ROW, WINDOW, fault
from veneer.training.evaluations.best import BestBy
from veneer.training.folder.checkpoint import CheckpointStore
from veneer.training.folder.progress import Progress, ended
from veneer.training.loss_scale import lowered, overflowed
from veneer.training.memory_use.kept_weights import give_back_decoded
from veneer.training.memory_use.out_of_memory import MemoryFault, release_memory
from veneer.training.objectives.base import Means
from veneer.training.optim import RateSchedule, clip, drop_gradients, squared_norm, unscale
from veneer.training.optimizers.base import Optimizer
from veneer.training.parallel.lanes import Signalled, Team
from veneer.training.passes import Passes
from veneer.training.step_source import SourceStopped, StepBatches


@dataclass(kw_only=True, slots=True)
class Engine:
    """One run, from wherever it stands to its last step."""

    progress: Progress
    """Where the run stands."""
    model: LanguageModel
    passes: Passes
    optimizer: Optimizer
    schedule: RateSchedule
    clip: float
    evaluate: Callable[[], Means | None] | None
    """The evaluation loss and metrics of the model as it is; None where a signal ended the evaluation."""
    eval_every: int
    save_every: int
    checkpoints: CheckpointStore
    log: EventLog
    stop: Callable[[], bool]
    """A function that is asked after every step; true ends the run with a checkpoint."""
    skip_bad_steps: bool = False
    """Whether a bad step is left out, as long as there are not too many in a row."""
    best_by: BestBy = field(default_factory=BestBy)
    """What evaluations are compared by."""
    patience: int | None = None
    """The number of evaluations without a new best one after which the run ends; None never ends it."""
    sample: Callable[[Progress, float], None] | None = None
    """A function that is told after every step where the run stands and how many seconds it has taken, and answers
    prompts (`veneer.training.evaluations.shown_prompts`)."""
    signalled: Callable[[], bool] = stop_signalled
    """A function that is asked before every micro-batch; true gives up the step, and ends the run with a checkpoint."""
    _started: float = field(init=False, default=0.0)
    _stepping: bool = field(init=False, default=False)
    """Whether the optimiser is at work, or has failed at it: the weights are those of no step then."""
    _stopping: bool = field(init=False, default=False)
    """Whether `stop` was true and the other processes do not know it yet."""

    @property
    def team(self) -> Team:
        """The processes of the run."""
        return self.passes.team

    def run(self) -> None:
        """Train to the last step, or until patience is at its end.

        Raises:
            Diverged: a loss or gradient was not finite, or bad steps came in a row; the weights before are kept as a
                checkpoint. Or the evaluation loss was not finite; the weights that were evaluated are kept so, too.
            Interrupted: `stop` or a signal asked for it; the last step is kept as a checkpoint.
            OutOfMemory: not even smaller micro-batches fit; the last step is kept as a checkpoint.
            RankLost: another process of the run is gone; the last step is kept as a checkpoint.
            DataError: a reward ends the run; the last step is kept as a checkpoint.
        """
        try:
            self.start()
            while not self.done:
                begun = time.perf_counter()
                step, means = self._computed()
                self.complete(step, means, time.perf_counter() - begun)
        except OutOfMemory:
            self.end_without_memory()
            raise
        except (RankLost, DataError) as error:
            self.drop_gradients()
            self._keep_alone()
            self._finish("rank lost" if isinstance(error, RankLost) else "failed")
            raise
        self.finish()

    def start(self) -> None:
        """Start the run's clock, compute as in training, and do what a signal kept from being done after the last step.

        Raises:
            Diverged, Interrupted: see `run`.
        """
        self._started = time.perf_counter()
        self.model.train()
        if self.progress.evaluation_due:
            self.progress.evaluation_due = False
            self._after_step()

    @property
    def done(self) -> bool:
        """Whether no step is left to make."""
        return ended(self.progress, self.schedule.steps, self.patience)

    def rehearse(self, largest: Callable[[int | None], MicroBatch]) -> None:
        """Forward and backward of the run's largest micro-batch, to no effect: what does not fit fails before the first
        step, and the memory that the run needs is there from its start.

        Args:
            largest: gives the largest micro-batch of so many tokens at most, or of the run's.

        Raises:
            OutOfMemory: not even a smaller one fits.
        """
        progress = self.progress
        self.model.train()
        halvings = 0
        while True:
            fault = self.passes.rehearse(largest(progress.micro_batch_tokens(progress.step + 1)))
            self.drop_gradients()
            if fault is None:
                return
            try:
                halvings = self._make_room(fault, halvings)
            except OutOfMemory:
                self.end_without_memory()
                raise

    def prepare(self) -> StepBatches:
        """The next step's rows, with its random draws seeded."""
        progress, number = self.progress, self.progress.step + 1
        try:
            return self.passes.prepare(number, progress.micro_batch_tokens(number), progress.loss_scale(number))
        except SourceStopped:
            self.give_up()

    def _computed(self) -> tuple[StepBatches, Means]:
        """The next step with its gradients and loss; in smaller micro-batches where the memory is full."""
        step, halvings = self.prepare(), 0
        while isinstance(found := self._gradients(step), MemoryFault):
            halvings = self._make_room(found, halvings)
            step = self.prepare()
        return step, found

    def _gradients(self, step: StepBatches) -> Means | MemoryFault:
        found = self.passes.gradients(step, list(self.optimizer.parameters.values()), self._halted)
        if isinstance(found, Signalled):
            self.give_up()
        return found

    def _halted(self) -> bool:
        """Whether the step under way is given up."""
        return self._stopping or self.signalled()

    def _make_room(self, fault: MemoryFault, halvings: int) -> int:
        """Give back decoded weights that are kept, or else halve micro-batches; see `halve`.

        Returns:
            How often the micro-batches of this step were halved.

        Raises:
            OutOfMemory: they cannot be halved again.
        """
        self.drop_gradients()
        if give_back_decoded(self.model, self.log.emit):
            return halvings
        self.halve(fault, halvings)
        return halvings + 1

    def halve(self, fault: MemoryFault, halvings: int) -> None:
        """Take smaller micro-batches from the next step on. Gradients of a step that was begun are dropped.

        Args:
            fault: the micro-batch for which there was no memory.
            halvings: how often those of this step were halved before.

        Raises:
            OutOfMemory: they cannot be halved again.
        """
        self.drop_gradients()
        release_memory(self.model.device)
        number, tokens = self.progress.step + 1, fault.half(halvings)
        if tokens is None:
            raise fault.refusal(f"computing step {number}", halvings)
        self.progress.shrink(number, tokens)
        self.log.emit(MicroBatchHalved(step=number, before=len(fault.batch.tokens), tokens=tokens))

    def end_without_memory(self) -> None:
        """End the run where there is no memory for it, with a checkpoint of the last step that was made.

        Raises:
            OutOfMemory: there is none for the checkpoint either.
        """
        self.drop_gradients()
        release_memory(self.model.device)
        try:
            self._keep_alone()
        finally:
            self._finish("out of memory")

    def complete(self, step: StepBatches, means: Means, spent: float) -> None:
        """Use the gradients of a step that was prepared: the optimiser's step, and what is due after it. A step whose
        gradients overflow in float16 is not made, and stays the next one.

        Args:
            step: as `prepare` gave it.
            means: the loss and the metrics of the step; the parameters hold the gradients of the loss.
            spent: seconds that this took.

        Raises:
            Diverged, Interrupted: see `run`.
        """
        if not self._apply(step, means, spent):
            return
        self._after_step()
        if not self.done and self.stop():
            if not self.team.many:
                self.give_up()
            self._stopping = True

    def _after_step(self) -> None:
        """The evaluation and the checkpoint that are due after the last step that was made."""
        progress = self.progress
        if self.evaluate is not None and (progress.step == self.schedule.steps or progress.step % self.eval_every == 0):
            self._evaluate(self.evaluate)
        due = progress.step % self.save_every == 0 or progress.best_step == progress.step
        if due or self.done:
            self._save_due()
        if self.sample is not None:
            self.sample(progress, time.perf_counter() - self._started)

    def give_up(self) -> NoReturn:
        """End the run before its last step, with a checkpoint of the last step that was made. Gradients of a step that
        was begun are dropped.

        Raises:
            Interrupted: always.
        """
        progress = self.progress
        self.drop_gradients()
        self._keep()
        self._finish("interrupted")
        raise Interrupted(
            f"stopped after step {progress.step} of {self.schedule.steps}; "
            f"go on with --resume (checkpoint: {self.checkpoints.folder.checkpoint(progress.step)})"
            if progress.step > 0
            else "stopped before the first step was done; the same command starts again"
        )

    def finish(self) -> None:
        """Say that the run is complete, and if it ended before its last step, why."""
        progress = self.progress
        if progress.step < self.schedule.steps:
            ended = f"the run ends after step {progress.step} of {self.schedule.steps}, by train.patience"
            self.log.emit(Note(message=f"{ended}: {self.best_by.stale(progress)}"))
        self._finish("complete")

    def _apply(self, step: StepBatches, means: Means, spent: float) -> bool:
        """The optimiser's step, if the gradients can be used; whether the step is done, made or left out."""
        progress = self.progress
        begun = time.perf_counter()
        parameters = list(self.optimizer.parameters.values())
        # The loss and the norm come in one: it is the only time in a step that a GPU is waited for.
        norm = math.sqrt(self.team.added(means.read(squared_norm(parameters)))) / step.scale
        if overflowed(step.scale, means.loss, norm):
            self._scale_less(step, spent)
            return False
        if self.skip_bad_steps:
            bad = fault(progress.window, means.loss, norm)
            if bad is not None:
                self._skip(means.loss, norm, bad, spent)
                return True
            progress.bad_in_a_row = 0
            progress.window = [*progress.window[1 - WINDOW :], [means.loss, norm]]
        elif not (math.isfinite(means.loss) and math.isfinite(norm)):
            self._diverged(
                f"the loss is {means.loss} and the gradient norm {norm}; both must be finite",
                f"{'float16 has no number above 65,504. ' if progress.loss_scales else ''}Lower train.learning_rate, "
                "look at the rows of this step with compute.dtype=float32, or set train.skip_bad_steps.",
            )
        unscale(parameters, step.scale)
        clip(parameters, norm, self.clip)
        rate = self.schedule.at(step.number)
        self._stepping = True
        with out_of_memory_while(f"changing the weights in step {step.number}"):
            self.optimizer.step(rate)
            self.passes.trainable.changed()
        self._stepping = False
        tokens = sum(batch.document_tokens for batch in step.batches)
        seconds = spent + time.perf_counter() - begun
        progress.step, progress.tokens = step.number, progress.tokens + tokens
        progress.seconds += seconds
        self.log.emit(
            StepDone(
                step=step.number,
                epoch=self.passes.source.epoch(step.number),
                loss=means.loss,
                grad_norm=norm,
                learning_rate=rate,
                tokens=tokens,
                supervised=sum(batch.supervised for batch in step.batches),
                seconds=seconds,
                memory_mb=peak_memory_mb(self.model.device),
                metrics=means.metrics,
            )
        )
        return True

    def _scale_less(self, step: StepBatches, seconds: float) -> None:
        """Drop the gradients of a step that overflowed, which is made again with half the factor."""
        self.drop_gradients()
        self.progress.loss_scales = lowered(self.progress.loss_scales, step.number)
        self.progress.seconds += seconds
        overflow = f"step {step.number}: a gradient overflows float16"
        again = f"the step is made again with the loss times {self.progress.loss_scale(step.number):,}"
        self.log.emit(Note(message=f"{overflow}; {again}"))

    def drop_gradients(self) -> None:
        """Forget the gradients of a step that was begun."""
        if self.team.shards is not None:
            self.team.shards.drop_gradients()
        drop_gradients(self.optimizer.parameters.values())

    def _skip(self, loss: float, norm: float, bad: str, seconds: float) -> None:
        """Leave the next step out, unless it is the last of too many in a row."""
        progress = self.progress
        self.drop_gradients()
        if progress.bad_in_a_row + 1 == IN_A_ROW:
            self._diverged(
                f"{bad}. It is the {IN_A_ROW}rd bad step in a row, of {progress.skipped + 1} in all",
                "Lower train.learning_rate, or look at the rows of these steps.",
            )
        progress.step += 1
        progress.skipped += 1
        progress.bad_in_a_row += 1
        progress.seconds += seconds
        self.log.emit(
            StepSkipped(
                step=progress.step, loss=loss, grad_norm=norm, reason=bad, skipped=progress.skipped, seconds=seconds
            )
        )

    def _diverged(self, wrong: str, remedy: str, *, made: bool = False) -> NoReturn:
        """End the run in the step that was begun, or in the last that was `made`."""
        self.drop_gradients()
        kept = self._kept_before()
        self._finish("diverged")
        raise Diverged(f"step {self.progress.step + (not made)}: {wrong}. {remedy} {kept}")

    def _kept_before(self) -> str:
        """Write a checkpoint of the last step that was made, and say so. A step that made weights NaN or infinite is
        noticed by the loss of the next one, or of its evaluation: what it made cannot be kept."""
        step = self.progress.step
        if step == 0:
            return "Nothing was trained before it."
        try:
            self._keep()
        except (AdapterError, CheckpointError) as error:
            return f"The weights after step {step} are not kept: {error}"
        folder = self.checkpoints.folder.checkpoint(step)
        return f"The weights after step {step} are kept in {folder}."

    def _evaluate(self, evaluate: Callable[[], Means | None]) -> None:
        progress = self.progress
        begun = time.perf_counter()
        # As long as it is not made: a signal, want of memory or its loss may end it; whoever goes on makes it again.
        progress.evaluation_due = True
        found = evaluate()
        if found is None:
            self.give_up()
        loss = found.loss
        if not math.isfinite(loss):
            remedy = "Lower train.learning_rate, or look at the evaluation rows with compute.dtype=float32."
            self._diverged(f"the evaluation loss is {loss}; it must be finite", remedy, made=True)
        progress.evaluation_due = False
        best = self.best_by.note(found, progress)
        self.log.emit(
            Evaluated(
                step=progress.step,
                loss=loss,
                best=best,
                seconds=time.perf_counter() - begun,
                metrics=found.metrics,
                best_by=self.best_by.measure,
            )
        )

    def _keep(self) -> None:
        """Write a checkpoint of the last step that was made, if there is one."""
        if self.progress.step > 0 and not self._stepping:
            self._save()

    def _keep_alone(self) -> None:
        """`_keep` where the others cannot be waited for: the last checkpoint stays where they would have to write."""
        if self.team.apart:
            self._keep()

    def _save_due(self) -> None:
        try:
            self._save()
            self.team.await_first(f"saved/{self.progress.step}")  # a checkpoint of large weights takes many minutes
        except (AdapterError, CheckpointError):
            if all(all_finite(weight) for weight in self.optimizer.parameters.values()):
                raise
            self._diverged("the step made weights NaN or infinite", "Lower train.learning_rate.", made=True)

    def _save(self) -> None:
        if not self.team.first:
            self.checkpoints.follow(self.passes.trainable, self.optimizer)
            return
        begun = time.perf_counter()
        with out_of_memory_while(f"writing the checkpoint of step {self.progress.step}"):
            path = self.checkpoints.save(self.progress, self.passes.trainable, self.optimizer)
        size, spent = sum(one.stat().st_size for one in path.rglob("*") if one.is_file()), time.perf_counter() - begun
        self.log.emit(CheckpointSaved(step=self.progress.step, path=str(path), bytes=size, seconds=spent))

    def _finish(self, reason: str) -> None:
        progress = self.progress
        self.log.emit(
            RunFinished(
                step=progress.step,
                reason=reason,
                seconds=time.perf_counter() - self._started,
                memory_mb=peak_memory_mb(self.model.device),
                best_step=progress.best_step,
                best_loss=progress.best_loss,
                best_by=self.best_by.measure,
                best_value=self.best_by.reached(progress),
            )
        )
