"""`veneer.lint`: the checks of the rows of a data file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from veneer.arguments import check_types, names_given
from veneer.data.files.given_names import GIVEN_EVAL_ROWS
from veneer.data.files.in_memory import RowSource, file_for_now
from veneer.data.lint.report import LintReport
from veneer.data.lint.run import LintOptions
from veneer.enums import Column, ObjectiveName, choice
from veneer.evaluation.columns import named_columns
from veneer.evaluation.lint_request import LintRequest, run_lint
from veneer.events import Subscriber, broadcast


def lint(
    data: RowSource,
    *,
    model: str | Path | None = None,
    eval_data: RowSource | None = None,
    max_length: int | None = None,
    columns: Mapping[Column, str] | Mapping[str, str] | None = None,
    objective: ObjectiveName | str | None = None,
    group: str | None = None,
    ignore: str | Sequence[str] = (),
    label_errors: bool = False,
    names: str | None = None,
    processes: int = 1,
    subscribers: Sequence[Subscriber] = (),
) -> LintReport:
    """Check every row of a data file. The command is `veneer data`; in Python this name is the package that reads rows.

    Args:
        data: the rows to train on, a file or dictionaries, as in `train`.
        model: a directory, GGUF file or hub id, whose tokenizer and chat template the rows are checked with. Without it
            no check of tokens is made.
        eval_data: the evaluation rows; they are checked too, also for overlap with the training rows.
        max_length: the largest number of tokens in a row; None sets no limit.
        columns: maps veneer's names of columns or keys (a `Column` or its name) to those of the data, where they differ
            (`data.columns`).
        objective: the objective that the rows are for. They are read as a run of that objective reads them, and what it
            would refuse or leave out is an error. With None, the keys of each row say whether it is a pair or an
            answer.
        group: the column whose equal values must not be on both sides of training and evaluation.
        ignore: names (or one) of the rules that are not reported.
        label_errors: whether the model itself reads the training rows, to find likely label errors.
        names: a pipeline of spaCy that looks for names of persons in the training rows.
        processes: the number of processes that check rows.
        subscribers: receive every event.

    Raises:
        DataError: the rows cannot be read at all, or there are none.
        ConfigError: a rule to ignore or the objective is not known, or something that `label_errors` or `names` needs
            is missing.
        ModelError: the model has no usable tokenizer.

    >>> report = veneer.lint(data, model=model)
    >>> report.failed
    False
    >>> veneer.lint([{"prompt": "1 + 1?", "reference": "2"}], objective="grpo").failed
    False
    """
    check_types(lint, locals())
    emit = broadcast(subscribers)
    with ExitStack() as files:
        request = LintRequest(
            data=files.enter_context(file_for_now(data, emit)),
            model=model,
            eval_data=None
            if eval_data is None
            else files.enter_context(file_for_now(eval_data, emit, GIVEN_EVAL_ROWS)),
            max_length=max_length,
            columns=named_columns(columns),
            objective=None if objective is None else choice(ObjectiveName, objective, "objective"),
            options=LintOptions(ignore=frozenset(names_given(ignore)), group=group, processes=processes),
            label_errors=label_errors,
            names=names,
        )
        request.refuse_unreadable("label_errors", "model")
        return run_lint(request, emit)
