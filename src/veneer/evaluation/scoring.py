"""The scores of one model on each row.

Each row is scored twice: by the loss of its supervised tokens, and by greedy generation of its last answer. An answer
is *exact* if it equals the reference. If the reference is a JSON object, they are compared as JSON, so spacing does not
matter; otherwise as text without surrounding white space. The way in which accents are stored makes no difference: many
tokenizers compose them (NFC), so a model could never give the answer of a file that does not. If the references are
JSON objects, *fields* is the share of a reference's keys whose value the answer gives exactly; an answer that is not
JSON has none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from unicodedata import normalize

import numpy as np
import torch

from veneer.assistant.assistant import Assistant
from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.batches import MicroBatch
from veneer.data.micro_batches.packing import pack
from veneer.events import Stage, Subscriber
from veneer.generation.batch import generate
from veneer.generation.cohort import Router
from veneer.generation.sampling import Sampling
from veneer.generation.share import WHOLE_SHARE, Share
from veneer.losses.module_head import token_losses
from veneer.model.language import LanguageModel
from veneer.model.mode import evaluation_mode

PASS_TOKENS = 2048
"""The number of tokens of rows that are computed together; a longer row is computed alone."""
NO_LOSS = (0.0).hex()
"""The placeholder for the loss of a row that another process computes."""


@dataclass(frozen=True, slots=True)
class Question:
    """One row to answer: the tokens of the prompt, and the reference."""

    prompt: tuple[int, ...]
    reference: str


@dataclass(frozen=True, slots=True)
class RowScore:
    """The scores of one model on one row."""

    loss_sum: float
    """The loss in nats, summed over the supervised tokens."""
    supervised: int
    answer: str | None
    """The model's answer; None if the row has no answer to generate (plain text)."""
    exact: float | None
    """Whether the answer is exact: 1 or 0; in a mean over several models, the share of exact answers."""
    fields: float | None
    """The share of the reference's fields that are right; None if the reference is not a JSON object, or is empty."""
    bytes: int = 0
    """The UTF-8 bytes of the supervised text, without control tokens; 0 if they were not counted."""


@torch.no_grad()
def example_losses(
    model: LanguageModel,
    examples: Sequence[Example],
    *,
    on_done: Callable[[int], None] = lambda rows: None,
    router: Router | None = None,
    share: Share = WHOLE_SHARE,
) -> list[tuple[float, int]]:
    """The sum of losses and the number of supervised tokens of every example, in order.

    `on_done` gets the number of rows that have been computed, as they are. If the rows use several adapters, `router`
    says which one a row uses, by its index. `share` is the part of the rows that this process computes; it must be all
    of them if there is a router.
    """
    groups = grouped(examples)
    # A row's loss depends on its group, in the last bits, so whole groups are shared out.
    places = np.cumsum([0, *map(len, groups)]).tolist()
    own: list[list[str]] = []
    with evaluation_mode(model):
        for number in share.own(len(groups)):
            batches = groups[number]
            if router is not None:
                router.lay(range(places[number], places[number + 1]), [len(batch.tokens) for batch in batches])
            losses = _losses(model, batches)
            borders = np.cumsum([0, *(batch.supervised for batch in batches)])
            # As text, since a loss may be NaN, which JSON does not have.
            own.append([float(losses[a:b].sum()).hex() for a, b in pairwise(borders)])
            on_done(len(batches))
    every = share.all(own, len(groups), lambda number: [NO_LOSS] * len(groups[number]))
    sums = [float.fromhex(text) for group in every for text in group]
    return list(zip(sums, (batch.supervised for group in groups for batch in group), strict=True))


def grouped(examples: Sequence[Example]) -> list[list[MicroBatch]]:
    """The examples in order, in groups of at most `PASS_TOKENS` tokens; each example is its own micro-batch."""
    groups: list[list[Example]] = []
    tokens = PASS_TOKENS
    for example in examples:
        if tokens + len(example.tokens) > PASS_TOKENS:
            groups.append([])
            tokens = 0
        groups[-1].append(example)
        tokens += len(example.tokens)
    # One example per call of `pack` keeps the order of rows; the pack of the group is their concatenation.
    return [[pack([example], PASS_TOKENS)[0] for example in group] for group in groups]


def _losses(model: LanguageModel, batches: Sequence[MicroBatch]) -> torch.Tensor:
    hidden, targets = target_states(model, batches)
    return token_losses(hidden, model.logits, targets).double().cpu()


def target_states(model: LanguageModel, batches: Sequence[MicroBatch]) -> tuple[torch.Tensor, torch.Tensor]:
    """The hidden states that predict the targets of micro-batches, `[targets, dim]`, and the targets, `[targets]`."""
    device = model.device
    lengths = [len(batch.tokens) for batch in batches]
    offsets = np.cumsum([0, *lengths[:-1]])
    # The padding after an example may pass for its end, unless the model asks how long a text is.
    texts = [length for batch in batches for length in batch.segments] if model.spec.by_length else lengths
    hidden = model.documents(
        torch.cat([batch.tokens for batch in batches]).to(device),
        torch.cat([batch.positions for batch in batches]).to(device),
        texts,
    )
    rows = torch.cat([batch.rows + int(offset) for batch, offset in zip(batches, offsets, strict=True)])
    targets = torch.cat([batch.targets for batch in batches])
    return hidden[rows.to(device)], targets.to(device)


def score(
    assistant: Assistant,
    examples: Sequence[Example],
    questions: Sequence[Question | None],
    *,
    max_new_tokens: int,
    emit: Subscriber,
    who: str,
) -> list[RowScore]:
    """Score an assistant in its present state on every row.

    Args:
        assistant: the model, with its share of the rows.
        examples: the rows as they would be trained.
        questions: the same rows as prompts; None for a row without an answer.
        max_new_tokens: the longest answer, in tokens.
        emit: receives the progress of the two stages: losses and answers.
        who: the assistant's name in the progress.
    """
    model, share = assistant.model, assistant.share
    with Stage(emit, f"computing losses of the {who}", total=len(examples), unit="rows") as stage:
        losses = example_losses(model, examples, on_done=stage.advance, share=share)
    asked = [index for index, question in enumerate(questions) if question is not None]
    every = [question.prompt for question in questions if question is not None]
    own = share.own(len(every))
    with Stage(emit, f"answering with the {who}", total=len(own), unit="rows") as stage:
        outputs = generate(
            model,
            [every[number] for number in own],
            sampling=Sampling(max_new_tokens=max_new_tokens),
            stop_ids=assistant.stop_ids,
            on_progress=stage.advance_side_by_side,
            streams=own,
        )
    texts = share.all([assistant.text_of(tokens) for tokens in outputs], len(every), lambda number: "")
    answers = dict(zip(asked, texts, strict=True))
    scores = []
    for index, ((loss_sum, supervised), question) in enumerate(zip(losses, questions, strict=True)):
        answer = answers.get(index)
        if question is None or answer is None:
            scores.append(RowScore(loss_sum, supervised, None, None, None))
            continue
        exact, fields = compare_answer(answer, question.reference)
        scores.append(RowScore(loss_sum, supervised, answer, float(exact), fields))
    return scores


def compare_answer(answer: str, reference: str) -> tuple[bool, float | None]:
    """Whether an answer is exact, and the share of the reference's fields that are right in it."""
    expected = json_object(reference)
    if expected is None:
        return composed(answer) == composed(reference), None
    given = json_object(answer)
    if not expected:
        return given == expected, None
    if given is None:
        return False, 0.0
    right = sum(key in given and same_json(given[key], value) for key, value in expected.items())
    return same_json(given, expected), right / len(expected)


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text contains, or None if it is not a JSON object."""
    value = json_value(text)
    return value if isinstance(value, dict) else None


def composed(text: str) -> str:
    """A text in its form for comparison: in NFC, without the white space around it."""
    return normalize("NFC", text).strip()


def json_value(text: str) -> Any:
    """The JSON value of a text, with its strings and keys in NFC; None if the text is not JSON."""
    try:
        return _composed_json(json.loads(text))
    except (ValueError, RecursionError):
        return None


def _composed_json(value: Any) -> Any:
    """A JSON value with its strings and keys in NFC, since escapes may have spelled the parts of a character."""
    if isinstance(value, str):
        return normalize("NFC", value)
    if isinstance(value, list):
        return [_composed_json(one) for one in value]
    if isinstance(value, dict):
        return {normalize("NFC", key): _composed_json(one) for key, one in value.items()}
    return value


def same_json(left: Any, right: Any) -> bool:
    """Whether two values are equal as JSON: of the same types, in any order of keys."""
    # Compared as JSON text, since in Python True == 1 and 1 == 1.0.
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
