"""Rules that need a model's pass over the rows; `veneer.evaluation.label_errors` and `veneer.data.lint.persons` find
their rows."""

from __future__ import annotations

from veneer.data.lint.rules import Cost, LintRule, Severity

LABEL_ERROR = LintRule(
    "likely-label-error",
    Severity.INFO,
    Cost.MODEL,
    "have a label unlike that of similar rows, according to a classifier on the model's hidden states",
    "look at them, the least likely first, and correct those that are wrong",
)
UNLIKELY_ANSWER = LintRule(
    "unlikely-answer",
    Severity.INFO,
    Cost.MODEL,
    "have an answer that the model finds far less likely than those of other rows",
    "look at them: the answer may belong to another question, be damaged, or be in another language",
)
PERSON_NAME = LintRule(
    "person-name",
    Severity.INFO,
    Cost.MODEL,
    "contain the name of a person, according to a spaCy pipeline",
    "replace it by an invented one if it is a real person's",
)
MODEL_RULES = (LABEL_ERROR, UNLIKELY_ANSWER, PERSON_NAME)
