"""Finds likely label errors by a model's pass over the rows.

If answers are labels (short and few), each row's prompt is represented by the mean of the model's last hidden states. A
linear classifier on these finds labels that are likely to be wrong, by confident learning (`confident_learning.py`).

If answers are longer texts, and for plain texts, a row is reported if its mean loss is more than five median deviations
above the median.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from veneer.assistant.assistant import Assistant
from veneer.assistant.load import load_assistant
from veneer.assistant.request import AssistantRequest
from veneer.data.encoded.chat import Trace, split_for_evaluation
from veneer.data.forms.record import Record
from veneer.data.forms.turns import Message
from veneer.data.kind_rows import numbered_rows
from veneer.data.lint.checks.by_model import LABEL_ERROR, UNLIKELY_ANSWER
from veneer.data.lint.labels import LONGEST_LABEL_CHARS
from veneer.data.lint.run import PassResult, RowPass
from veneer.enums import Column, RowKind
from veneer.errors import DataError
from veneer.evaluation.confident_learning import FOLDS, Numbers, folded_probabilities, likely_errors
from veneer.evaluation.scoring import example_losses
from veneer.events import Stage, Subscriber, ignore
from veneer.model.language import LanguageModel
from veneer.model.mode import evaluation_mode
from veneer.text.counting import count_of

ROWS_A_LABEL = 4
"""The fewest rows per label, on average, for answers to count as labels."""
FEWEST = 20
"""The fewest rows for a report. With fewer, a classifier or a median means nothing."""
MOST_TOKENS = 2048
"""The most tokens of a prompt that are used, counted from its end, and the most tokens of a pass."""
MOST_PROBABILITIES = 100_000_000
"""The most rows times labels for a classifier: about 3 GB of probabilities, scores and their gradients."""
MOST_FEATURES = 1_000_000_000
"""The most rows times the model's width for a classifier: about 8 GB of features, including those of a fold."""
DEVIATIONS = 5.0
"""The number of median deviations, scaled to a normal distribution's standard deviation, above which a loss is
reported."""
SMALLEST_DEVIATION = 1e-3
"""The least median deviation. If most rows are equal, theirs is 0, and mere rounding of a loss would be reported."""


@dataclass(frozen=True, slots=True)
class _Row:
    number: int
    """The index of the row among all rows of the file."""
    record: Record
    prompt: tuple[Message, ...]
    """The turns before the answer; empty for a plain text."""
    answer: str
    """The answer, or the whole of a plain text."""


def model_pass(model: str, file: Path | str, columns: Mapping[Column, str], kind: RowKind | None = None) -> RowPass:
    """The pass of `veneer.data.lint.run.lint` for `model_findings`. It loads the model when it is called.

    Args:
        model: a directory, GGUF file or hub id.
        file, columns, kind: see `model_findings`.
    """

    def run(emit: Subscriber) -> PassResult:
        assistant = load_assistant(AssistantRequest(model=model), emit)
        return model_findings(assistant, file, columns, emit, kind)

    return run


def model_findings(
    assistant: Assistant,
    file: Path | str,
    columns: Mapping[Column, str],
    emit: Subscriber = ignore,
    kind: RowKind | None = None,
) -> PassResult:
    """The findings of a model's pass over the rows of a file, and the checks that were not done because there are too
    few rows or too many labels.

    Args:
        assistant: the model.
        file: the rows.
        columns: maps veneer's name of a column or key to the file's name, if they differ.
        emit: receives the progress.
        kind: the kind as which the rows are read; None derives it from the keys of each row, a pair or an answer. The
            chosen answer of a pair is judged.

    Raises:
        DataError: the file cannot be read.
    """
    rows = list(_answered(file, columns, kind))
    answered = [row for row in rows if row.record.text is None]
    if not are_labels([row.answer for row in answered]):
        return _by_loss(assistant, rows, emit)
    found = _by_folds(assistant, answered, emit)
    # A plain text has no prompt from which a label could be predicted.
    texts = [row for row in rows if row.record.text is not None]
    if not texts:
        return found
    unlikely = _by_loss(assistant, texts, emit)
    return PassResult([*found.findings, *unlikely.findings], (*found.undone, *unlikely.undone))


def _answered(file: Path | str, columns: Mapping[Column, str], kind: RowKind | None) -> Iterator[_Row]:
    for number, row in numbered_rows(file, columns, kind):
        record = row.records[0]
        split = split_for_evaluation(record)
        if split is not None:
            yield _Row(number, record, split[0], split[1].strip())
        elif record.text is not None:
            yield _Row(number, record, (), record.text)


def are_labels(answers: Sequence[str]) -> bool:
    """Whether answers are labels: nearly all of them are short, and each occurs in several rows on average."""
    short = sum(len(answer) <= LONGEST_LABEL_CHARS for answer in answers)
    kinds = len(set(answers))
    return short >= 0.99 * len(answers) and 2 <= kinds <= len(answers) / ROWS_A_LABEL


def _too_few(looked_for: str, readable: int, rows: int) -> str:
    return (
        f"{looked_for}, since the model can read {readable} of {count_of(rows, 'row')} with an answer, and at least "
        f"{FEWEST} are needed"
    )


def _by_folds(assistant: Assistant, rows: Sequence[_Row], emit: Subscriber) -> PassResult:
    kinds = len({row.answer for row in rows})
    if len(rows) * kinds > MOST_PROBABILITIES:
        reason = (
            f"likely label errors, since {count_of(len(rows), 'row')} with {count_of(kinds, 'label')} need "
            f"{len(rows) * kinds:,} probabilities, but at most {MOST_PROBABILITIES:,} are held; give a file with fewer "
            "rows or labels"
        )
        return PassResult(undone=(reason,))
    width = assistant.model.spec.hidden_size
    if len(rows) * width > MOST_FEATURES:
        reason = (
            f"likely label errors, since {count_of(len(rows), 'row')} with {width:,} features of the model each need "
            f"{len(rows) * width:,} numbers, but at most {MOST_FEATURES:,} are held; give a file with fewer rows or a "
            "narrower model"
        )
        return PassResult(undone=(reason,))
    kept, prompts = _prompts(assistant, rows)
    if len(kept) < FEWEST:
        return PassResult(undone=(_too_few("likely label errors", len(kept), len(rows)),))
    names = sorted({row.answer for row in kept})
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[row.answer] for row in kept], dtype=np.int64)
    with Stage(emit, "reading prompts for label errors", total=len(prompts), unit="rows") as stage:
        features = prompt_features(assistant.model, prompts, stage)
    with Stage(emit, "looking for label errors", total=FOLDS, unit="folds") as stage:
        probabilities = folded_probabilities(features, labels, len(names), stage)
    found = []
    for place, likelier in zip(*likely_errors(probabilities, labels), strict=True):
        own, other = probabilities[place, labels[place]], probabilities[place, likelier]
        detail = f"{names[labels[place]]!r} ({own:.2f}), where {names[likelier]!r} is likelier ({other:.2f})"
        found.append((kept[place].number, LABEL_ERROR.found(detail)))
    return PassResult(found)


def _prompts(assistant: Assistant, rows: Sequence[_Row]) -> tuple[list[_Row], list[Sequence[int]]]:
    """The rows whose prompts can be encoded, and the tokens of these prompts."""
    kept: list[_Row] = []
    prompts: list[Sequence[int]] = []
    for row in rows:
        try:
            tokens = assistant.encoder.prompt_tokens(row.prompt, row.record.tools)
        except DataError:
            continue  # the rule `refused-by-template` reports it
        if tokens:
            kept.append(row)
            prompts.append(array("i", tokens[-MOST_TOKENS:]))
    return kept, prompts


@torch.no_grad()
def prompt_features(model: LanguageModel, prompts: Sequence[Sequence[int]], stage: Stage) -> Tensor:
    """The mean of the last hidden states of each prompt, float32 [prompts, dim]; `stage` counts them."""
    found = torch.empty(len(prompts), model.spec.hidden_size)
    done = 0
    with evaluation_mode(model):
        for group in _groups(prompts):
            lengths = [len(prompt) for prompt in group]
            tokens = torch.tensor([token for prompt in group for token in prompt], device=model.device)
            positions = torch.cat([torch.arange(length, device=model.device) for length in lengths])
            hidden = model.documents(tokens, positions, lengths).float()
            for place, part in enumerate(torch.split(hidden, lengths), start=done):
                found[place] = part.mean(dim=0)
            done += len(group)
            stage.advance(len(group))
    return found


def _groups(prompts: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    group: list[Sequence[int]] = []
    tokens = 0
    for prompt in prompts:
        if group and tokens + len(prompt) > MOST_TOKENS:
            yield group
            group, tokens = [], 0
        group.append(prompt)
        tokens += len(prompt)
    if group:
        yield group


def _by_loss(assistant: Assistant, rows: Sequence[_Row], emit: Subscriber) -> PassResult:
    kept: list[_Row] = []
    losses: list[float] = []
    with Stage(emit, "reading rows for unlikely answers", total=len(rows), unit="rows") as stage:
        pairs = zip(rows, assistant.encoder.traces(row.record for row in rows), strict=True)
        for chunk in _chunks((row, trace) for row, trace in pairs if isinstance(trace, Trace)):
            examples = [trace.example for _, trace in chunk]
            for (row, _), (total, targets) in zip(chunk, example_losses(assistant.model, examples), strict=True):
                if targets:
                    kept.append(row)
                    losses.append(total / targets)
            stage.advance(len(chunk))
    if len(losses) < FEWEST:
        return PassResult(undone=(_too_few("unlikely answers", len(losses), len(rows)),))
    values = np.array(losses)
    limit = unlikely_from(values)
    typical = float(np.median(values))
    return PassResult(
        [
            (
                kept[place].number,
                UNLIKELY_ANSWER.found(f"{values[place]:.2f} nats a token, where {typical:.2f} is typical"),
            )
            for place in np.flatnonzero(values > limit).tolist()
        ]
    )


def _chunks(pairs: Iterator[tuple[_Row, Trace]]) -> Iterator[list[tuple[_Row, Trace]]]:
    chunk: list[tuple[_Row, Trace]] = []
    for row, trace in pairs:
        if len(trace.example.tokens) <= MOST_TOKENS:
            chunk.append((row, trace))
        if len(chunk) == 64:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def unlikely_from(losses: Numbers) -> float:
    """The loss above which a row is reported."""
    middle = float(np.median(losses))
    return middle + DEVIATIONS * 1.4826 * max(float(np.median(np.abs(losses - middle))), SMALLEST_DEVIATION)
