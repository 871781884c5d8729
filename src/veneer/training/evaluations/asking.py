"""What a run asks its model besides its training steps: the evaluation rows, and the prompts of its samples."""

from __future__ import annotations

from collections.abc import Callable

from veneer.data.encoded.encoding import encoder_of
from veneer.events import Note, Subscriber
from veneer.generation.share import WHOLE_SHARE, Share
from veneer.model.language import LanguageModel
from veneer.processes.group_share import GroupShare
from veneer.training.evaluations.answers import MeasuredAnswers, asked_rows, metric_on, with_answers
from veneer.training.evaluations.best import best_by
from veneer.training.evaluations.held_out import evaluation
from veneer.training.evaluations.shown_prompts import ShownPrompts, named_prompts, row_prompts
from veneer.training.folder.progress import Progress
from veneer.training.objectives.base import Means, StepObjective
from veneer.training.parallel.lanes import Team
from veneer.training.run_inputs import RunInputs


def evaluation_of(
    inputs: RunInputs, model: LanguageModel, objective: StepObjective, emit: Subscriber, team: Team
) -> Callable[[], Means | None] | None:
    """A function that measures the losses of a run's evaluation rows, and answers the rows if evaluations are compared
    by answers. None if there are no such rows.

    Args:
        inputs: the run, with no choice left open.
        model: the run's model.
        objective: the run's objective over the model.
        emit: receives the progress of an evaluation, and how many rows are answered.
        team: the processes of the run.
    """
    if not len(inputs.data.rows.eval):
        return None
    losses = evaluation(model, inputs.data.packed.evaluation, objective, emit, team)
    answers = answers_of(inputs, model, emit, GroupShare(team.group, "answers/"))
    if answers is None:
        return losses
    metric = inputs.config.train.best_metric
    message = f"train.best_metric {metric}: every evaluation answers {len(answers.rows)} evaluation rows"
    emit(Note(message=message))
    return with_answers(losses, answers)


def answers_of(
    inputs: RunInputs, model: LanguageModel, emit: Subscriber, share: Share = WHOLE_SHARE
) -> MeasuredAnswers | None:
    """The object that answers evaluation rows; None unless evaluations are compared by answers. `share` says which of
    the rows this process answers. The other arguments are those of `evaluation_of`."""
    data, by = inputs.data, best_by(inputs.config)
    if not by.of_answers or not len(data.rows.eval):
        return None
    rows = asked_rows(data.rows.eval, data.tokenizer)
    return MeasuredAnswers(
        model=model,
        rows=rows,
        metric=metric_on(by, rows),
        tokenizer=data.tokenizer,
        stop_ids=inputs.stop_ids,
        room=int(inputs.config.compute.micro_batch_tokens),
        emit=emit,
        share=share,
    )


def shown_prompts_of(
    inputs: RunInputs, model: LanguageModel, emit: Subscriber
) -> Callable[[Progress, float], None] | None:
    """A function that makes the samples of a run; None if it makes none. The arguments are those of `evaluation_of`."""
    config, rows, tokenizer = inputs.config, inputs.data.rows, inputs.data.tokenizer
    if config.train.samples_every is None:
        return None
    if config.train.sample_prompts:
        prompts = named_prompts(config.train.sample_prompts, encoder_of(tokenizer))
    else:
        room = config.compute.micro_batch_tokens
        prompts = row_prompts(rows.eval if len(rows.eval) else rows.train, tokenizer, int(room))
    if not prompts:
        emit(Note(message="train.samples_every: no row has a prompt that is short enough; there are no samples"))
        return None
    return ShownPrompts(
        model=model,
        prompts=prompts,
        tokenizer=tokenizer,
        stop_ids=inputs.stop_ids,
        every=config.train.samples_every,
        last_step=inputs.data.steps.total,
        emit=emit,
    ).after_step
