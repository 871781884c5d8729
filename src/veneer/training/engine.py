"""The training loop: steps, evaluations, checkpoints, and a clean end whatever happens.

Everything that a step depends on follows from its number (rows, order, learning rate, dropout seed), the weights and
the optimiser's state. So a resumed run is the same as an uninterrupted one. How a step's gradients are computed is in
`veneer.training.passes`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from veneer.config import TrainSection
from veneer.data.micro_batches.batches import MicroBatch
from veneer.errors import AdapterError, CheckpointError, DataError, Diverged, Interrupted, OutOfMemory, RankLost
from veneer.event_log import EventLog
from veneer.events import CheckpointSaved, Evaluated, MicroBatchHalved, Note, RunEnd, RunFinished, StepDone, StepSkipped
from veneer.finite import all_finite
from veneer.machine.out_of_memory import out_of_memory_while
from veneer.machine.peak_memory import peak_memory_mb
from veneer.model.language import LanguageModel
from veneer.runtime.signals import stop_signalled
from veneer.training.bad_steps import IN_A_ROW, WINDOW, why_bad
from veneer.training.evaluations.best import BestBy
from veneer.training.folder.checkpoint import CheckpointStore
from veneer.training.folder.progress import Progress, ended
from veneer.training.gradients import clip, drop_gradients, squared_norm, unscale
from veneer.training.loss_scale import lowered, overflowed
from veneer.training.memory_use.kept_weights import give_back_decoded
from veneer.training.memory_use.out_of_memory import MemoryFault, release_memory
from veneer.training.objectives.base import Means
from veneer.training.optimizers.base import Optimizer
from veneer.training.parallel.lanes import Signalled, Team
from veneer.training.passes import Passes
from veneer.training.rate_schedule import RateSchedule
from veneer.training.step_source import SourceStopped, StepBatches


@dataclass(kw_only=True, slots=True)
class Engine:
    """One run, from its current step to its last."""

    progress: Progress
    """The position of the run."""
    model: LanguageModel
    passes: Passes
    optimizer: Optimizer
    schedule: RateSchedule
    train: TrainSection
    """The settings of clipping, bad steps and patience, and the steps between evaluations and between checkpoints."""
    evaluate: Callable[[], Means | None] | None
    """Measures the evaluation loss and metrics of the current model; returns None if a signal ended the evaluation."""
    checkpoints: CheckpointStore
    log: EventLog
    stop: Callable[[], bool]
    """Called after every step; true ends the run with a checkpoint."""
    best_by: BestBy = field(default_factory=BestBy)
    """The number that evaluations are compared by."""
    sample: Callable[[Progress, float], None] | None = None
    """Called after every step with the position of the run and the seconds that it has taken; answers prompts
    (`veneer.training.evaluations.shown_prompts`)."""
    signalled: Callable[[], bool] = stop_signalled
    """Called before every micro-batch; true gives up the step, and ends the run with a checkpoint."""
    _started: float = field(init=False, default=0.0)
    _stepping: bool = field(init=False, default=False)
    """Whether the optimiser is running or has failed: the weights then belong to no step."""
    _stopping: bool = field(init=False, default=False)
    """Whether `stop` returned true and the other processes do not know it yet."""

    @property
    def team(self) -> Team:
        """The processes of the run."""
        return self.passes.team

    def run(self) -> None:
        """Train to the last step, or until patience runs out.

        Raises:
            Diverged: a loss or gradient was not finite, or bad steps came in a row; the weights before them are kept as
                a checkpoint. Or the evaluation loss was not finite; the evaluated weights are kept as a checkpoint.
            Interrupted: `stop` or a signal ended the run; the last step is kept as a checkpoint.
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
            self._finish(RunEnd.RANK_LOST if isinstance(error, RankLost) else RunEnd.FAILED)
            raise
        self.finish()

    def start(self) -> None:
        """Start the run's clock, put the model into training mode, and do what a signal prevented after the last step.

        Raises:
            Diverged, Interrupted: see `run`.
        """
        self._started = time.perf_counter()
        self.model.train()
        if self.progress.evaluation_due:
            self._after_step()
            if self.team.first:
                self.checkpoints.keep_evaluated(self.progress)

    @property
    def done(self) -> bool:
        """Whether no step is left."""
        return ended(self.progress, self.schedule.steps, self.train.patience)

    def rehearse(self, largest: Callable[[int | None], MicroBatch]) -> None:
        """Run forward and backward of the run's largest micro-batch, to no effect. So a batch that does not fit fails
        before the first step, and the memory that the run needs is reserved from its start.

        Args:
            largest: returns the largest micro-batch of at most so many tokens; None stands for the run's own size.

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
        """The next step with its gradients and loss; computed in smaller micro-batches if the memory is full."""
        step, halvings = self.prepare(), 0
        while isinstance(outcome := self._gradients(step), MemoryFault):
            halvings = self._make_room(outcome, halvings)
            step = self.prepare()
        return step, outcome

    def _gradients(self, step: StepBatches) -> Means | MemoryFault:
        outcome = self.passes.gradients(step, list(self.optimizer.parameters.values()), self._halted)
        if isinstance(outcome, Signalled):
            self.give_up()
        return outcome

    def _halted(self) -> bool:
        """Whether the step under way has to be given up."""
        return self._stopping or self.signalled()

    def _make_room(self, fault: MemoryFault, halvings: int) -> int:
        """Give back decoded weights that are kept, or else halve the micro-batches; see `halve`.

        Returns:
            How often the micro-batches of this step have been halved.

        Raises:
            OutOfMemory: they cannot be halved again.
        """
        self.drop_gradients()
        if give_back_decoded(self.model, self.log.emit):
            return halvings
        self.halve(fault, halvings)
        return halvings + 1

    def halve(self, fault: MemoryFault, halvings: int) -> None:
        """Use smaller micro-batches from the next step on. The caller has dropped the gradients of the unfinished step.

        Args:
            fault: the micro-batch that did not fit into the memory.
            halvings: how often the micro-batches of this step were halved before.

        Raises:
            OutOfMemory: they cannot be halved again.
        """
        release_memory(self.model.device)
        number, tokens = self.progress.step + 1, fault.half(halvings)
        if tokens is None:
            raise fault.refusal(f"computing step {number}", halvings)
        self.progress.shrink(number, tokens)
        self.log.emit(MicroBatchHalved(step=number, before=len(fault.batch.tokens), tokens=tokens))

    def end_without_memory(self) -> None:
        """End the run because of a lack of memory, with a checkpoint of the last completed step.

        Raises:
            OutOfMemory: there is not enough memory for the checkpoint either.
        """
        self.drop_gradients()
        release_memory(self.model.device)
        try:
            self._keep_alone()
        finally:
            self._finish(RunEnd.OUT_OF_MEMORY)

    def complete(self, step: StepBatches, means: Means, spent: float) -> None:
        """Use the gradients of a step that was prepared: make the optimiser's step, and do what is due after it. If
        gradients overflow in float16, the step is not made and remains the next one.

        Args:
            step: the step that `prepare` returned.
            means: the loss and the metrics of the step; the parameters hold the gradients of the loss.
            spent: how many seconds the gradients took.

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
        """The evaluation and the checkpoint that are due after the last completed step."""
        progress, steps = self.progress, self.schedule.steps
        # No interval, as in a run without evaluation rows, is one of the whole run.
        evaluate_every, save_every = self.train.eval_every or steps, self.train.save_every or steps
        due = progress.evaluation_due or progress.step == steps or progress.step % evaluate_every == 0
        if self.evaluate is not None and due:
            self._evaluate(self.evaluate)
        if progress.step % save_every == 0 or progress.best_step == progress.step or self.done:
            self._save_due()
        if self.sample is not None:
            self.sample(progress, time.perf_counter() - self._started)

    def give_up(self) -> NoReturn:
        """End the run before its last step, with a checkpoint of the last completed step. Gradients of an unfinished
        step are dropped.

        Raises:
            Interrupted: always.
        """
        progress = self.progress
        self.drop_gradients()
        self._keep()
        self._finish(RunEnd.INTERRUPTED)
        raise Interrupted(
            f"stopped after step {progress.step} of {self.schedule.steps}; "
            f"continue with --resume (checkpoint: {self.checkpoints.folder.checkpoint(progress.step)})"
            if progress.step > 0
            else "stopped before the first step was done; the same command starts again"
        )

    def finish(self) -> None:
        """Report that the run is complete and, if it ended before its last step, why."""
        progress = self.progress
        if progress.step < self.schedule.steps:
            early = f"the run ends after step {progress.step} of {self.schedule.steps}, by train.patience"
            self.log.emit(Note(message=f"{early}: {self.best_by.stale(progress)}"))
        self._finish(RunEnd.COMPLETE)

    def _apply(self, step: StepBatches, means: Means, spent: float) -> bool:
        """Make the optimiser's step if the gradients can be used. Returns whether the step is done, made or skipped."""
        progress = self.progress
        begun = time.perf_counter()
        parameters = list(self.optimizer.parameters.values())
        # The loss and the norm are read together: this is the only time in a step that the program waits for a GPU.
        norm = math.sqrt(self.team.added(means.read(squared_norm(parameters)))) / step.scale
        if overflowed(step.scale, means.loss, norm):
            self._scale_less(step, spent)
            return False
        if self.train.skip_bad_steps:
            bad = why_bad(progress.window, means.loss, norm)
            if bad is not None:
                self._skip(means.loss, norm, bad, spent)
                return True
            progress.bad_in_a_row = 0
            progress.window = [*progress.window[1 - WINDOW :], [means.loss, norm]]
        elif not (math.isfinite(means.loss) and math.isfinite(norm)):
            self._diverged(
                step.number,
                f"the loss is {means.loss} and the gradient norm {norm}; both must be finite",
                f"{'float16 has no number above 65,504. ' if progress.loss_scales else ''}Lower train.learning_rate, "
                "look at the rows of this step with compute.dtype=float32, or set train.skip_bad_steps.",
            )
        unscale(parameters, step.scale)
        clip(parameters, norm, self.train.clip)
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
        """Drop the gradients of a step that overflowed; the step is made again with half the factor."""
        self.drop_gradients()
        self.progress.loss_scales = lowered(self.progress.loss_scales, step.number)
        self.progress.seconds += seconds
        overflow = f"step {step.number}: a gradient overflows float16"
        again = f"the step is made again with the loss multiplied by {self.progress.loss_scale(step.number):,}"
        self.log.emit(Note(message=f"{overflow}; {again}"))

    def drop_gradients(self) -> None:
        """Drop the gradients of an unfinished step."""
        if self.team.shards is not None:
            self.team.shards.drop_gradients()
        drop_gradients(self.optimizer.parameters.values())

    def _skip(self, loss: float, norm: float, bad: str, seconds: float) -> None:
        """Skip the next step, unless it is the last of too many in a row."""
        progress = self.progress
        self.drop_gradients()
        if progress.bad_in_a_row + 1 == IN_A_ROW:
            self._diverged(
                progress.step + 1,
                f"{bad}. There were {IN_A_ROW} bad steps in a row, and {progress.skipped + 1} in total",
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

    def _diverged(self, step: int, wrong: str, remedy: str) -> NoReturn:
        """End the run because of what a step has shown, whether it was completed or not."""
        self.drop_gradients()
        kept = self._kept_before()
        self._finish(RunEnd.DIVERGED)
        raise Diverged(f"step {step}: {wrong}. {remedy} {kept}")

    def _kept_before(self) -> str:
        """Write a checkpoint of the last completed step, and report it. A step that makes weights NaN or infinite shows
        in the loss of the next step or of its evaluation: its weights cannot be kept."""
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
        # Set until it is done: a signal, a lack of memory or its loss may stop it, and the resumed run repeats it.
        progress.evaluation_due = True
        means = evaluate()
        if means is None:
            self.give_up()
        loss = means.loss
        if not math.isfinite(loss):
            remedy = "Lower train.learning_rate, or look at the evaluation rows with compute.dtype=float32."
            self._diverged(progress.step, f"the evaluation loss is {loss}; it must be finite", remedy)
        progress.evaluation_due = False
        best = self.best_by.note(means, progress)
        self.log.emit(
            Evaluated(
                step=progress.step,
                loss=loss,
                best=best,
                seconds=time.perf_counter() - begun,
                metrics=means.metrics,
                best_by=self.best_by.measure,
            )
        )

    def _keep(self) -> None:
        """Write a checkpoint of the last completed step, if there is one."""
        if self.progress.step > 0 and not self._stepping:
            self._save()

    def _keep_alone(self) -> None:
        """`_keep` without waiting for other processes: if they have to write too, the last checkpoint stays."""
        if self.team.apart:
            self._keep()

    def _save_due(self) -> None:
        try:
            self._save()
            self.team.await_first(f"saved/{self.progress.step}")  # a checkpoint of large weights takes many minutes
        except (AdapterError, CheckpointError):
            if all(all_finite(weight) for weight in self.optimizer.parameters.values()):
                raise
            self._diverged(self.progress.step, "the step made weights NaN or infinite", "Lower train.learning_rate.")

    def _save(self) -> None:
        if not self.team.first:
            self.checkpoints.follow(self.passes.trainable, self.optimizer)
            return
        begun = time.perf_counter()
        with out_of_memory_while(f"writing the checkpoint of step {self.progress.step}"):
            path = self.checkpoints.save(self.progress, self.passes.trainable, self.optimizer)
        spent = time.perf_counter() - begun
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        self.log.emit(CheckpointSaved(step=self.progress.step, path=str(path), bytes=size, seconds=spent))

    def _finish(self, reason: RunEnd) -> None:
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
