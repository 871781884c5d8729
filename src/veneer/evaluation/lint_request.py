"""The check of rows that `veneer data` and `veneer.lint` make: by rules, by a model, and by a search for names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from veneer.data.lint.persons import person_pass
from veneer.data.lint.report import LintReport
from veneer.data.lint.row import LintSetting
from veneer.data.lint.run import LintOptions, lint
from veneer.enums import Column, ObjectiveName, RowKind
from veneer.errors import ConfigError
from veneer.evaluation.label_errors import model_pass
from veneer.events import Subscriber
from veneer.io.checkpoint import read_model_config


@dataclass(frozen=True, kw_only=True, slots=True)
class LintRequest:
    """A check of rows, with its options."""

    data: str
    """The rows to train on: a file, a pattern or a dataset, as `data.file` names them."""
    model: str | Path | None = None
    """The model whose tokenizer and chat template the rows are checked with; None skips the checks of tokens."""
    eval_data: str | None = None
    """The evaluation rows. They are checked too, and searched for rows that are also in the training rows."""
    max_length: int | None = None
    """The length limit of a row, in tokens; None sets no limit."""
    columns: Mapping[Column, str] = field(default_factory=dict)
    """Maps veneer's name of a column or key to the file's name, if they differ."""
    objective: ObjectiveName | None = None
    """The objective that the rows are to train; None derives the kind of each row from its keys."""
    options: LintOptions = field(default_factory=LintOptions)
    """The rules, with their settings."""
    label_errors: bool = False
    """Whether the model itself reads the rows to find likely label errors."""
    names: str | None = None
    """The spaCy pipeline that looks for names of persons."""

    def refuse_unreadable(self, label_errors: str, model: str) -> None:
        """Refuse a search for label errors if no model can judge the rows.

        Args:
            label_errors, model: the caller's names of these two options.

        Raises:
            ConfigError: there is no model to read the rows, or they are prompts, which have no answers to judge.
        """
        if self.label_errors and self.model is None:
            raise ConfigError(f"{label_errors} needs a model that reads the rows; name one with {model}")
        if self.label_errors and self.objective is not None and self.objective.rows is RowKind.PROMPTS:
            raise ConfigError(
                f"{label_errors} judges answers, but rows of objective grpo are prompts without answers; leave it out"
            )


def run_lint(request: LintRequest, emit: Subscriber) -> LintReport:
    """Check the rows of a request.

    Raises:
        DataError: the rows cannot be read at all, or there are none.
        ConfigError: a rule is unknown, the column of groups does not exist, or spaCy or its pipeline is not installed.
        ModelError: the model has no usable tokenizer.
    """
    kind = None if request.objective is None else request.objective.rows
    passes = []
    if request.label_errors and request.model is not None:
        passes.append(model_pass(str(request.model), request.data, request.columns, kind))
    if request.names is not None:
        passes.append(person_pass(request.names, request.data, request.columns, kind))
    tokenizer = None if request.model is None else read_model_config(request.model).tokenizer()
    setting = LintSetting(tokenizer, request.max_length, request.columns, request.objective)
    return lint(request.data, setting, eval_file=request.eval_data, options=request.options, passes=passes, emit=emit)
