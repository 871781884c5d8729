"""What only a model's pass over the rows finds; which rows these are, `veneer.evaluation.label_errors` and
`veneer.data.lint.persons` say."""

from __future__ import annotations

from veneer.data.lint.rules import Cost, LintRule, Severity

LABEL_ERROR = LintRule(
    "likely-label-error",
    Severity.INFO,
    Cost.MODEL,
    "have a label that others of their kind do not have, as a classifier on the model's hidden states sees it",
    "look at them, the least likely first, and mend those that are wrong",
)
UNLIKELY_ANSWER = LintRule(
    "unlikely-answer",
    Severity.INFO,
    Cost.MODEL,
    "are answered in a way that the model finds far less likely than the answers of others",
    "look at them: the answer may belong to another question, be damaged, or be in another language",
)
PERSON_NAME = LintRule(
    "person-name",
    Severity.INFO,
    Cost.MODEL,
    "hold the name of a person, as a pipeline of spaCy sees it",
    "replace it by an invented one if it is a real person's",
)
MODEL_RULES = (LABEL_ERROR, UNLIKELY_ANSWER, PERSON_NAME)
