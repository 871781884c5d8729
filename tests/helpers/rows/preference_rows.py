"""Rows of pairs for the tiny model, and steps of them, laid in every way."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.models.tiny import run_config
from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.batches import MicroBatch
from veneer.data.micro_batches.packing import pack
from veneer.data.rows import Rows, load_rows
from veneer.enums import RowKind
from veneer.io.checkpoint import open_checkpoint
from veneer.io.tokenizer import from_directory
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM, plain_weight
from veneer.training.objectives.base import Means, Objective, StepObjective
from veneer.training.over_model import OverModel


def pairs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Different prompts, each with an answer of one field and one of two, of different lengths."""
    source = random.Random(seed)
    found = []
    for number in range(count):
        words = " ".join(source.choices(["parcel", "crate", "late", "blue", "the", "of"], k=source.randint(1, 9)))
        answer = {"count": number % 7}
        found.append(
            {
                "prompt": f"{number}: {words}?",
                "chosen": json.dumps(answer),
                "rejected": json.dumps(answer | {"word": source.choice(["late", "blue"]) * source.randint(1, 4)}),
            }
        )
    return found


def pair_rows(model: Path, file: Path) -> Rows:
    """The pairs of a file, encoded by our own path."""
    config = run_config(model, file, file.parent / "unused", "objective=dpo")
    return load_rows(config.data, from_directory(model), kind=RowKind.PAIRS)


def text(*tokens: int, prompt: int) -> Example:
    """A prompt of so many tokens with its answer."""
    return Example(np.array(tokens, dtype=np.int32), np.arange(len(tokens)) >= prompt, "f")


def trainable_model(path: Path, seed: int = 0) -> CausalLM:
    """The tiny model in float32, every weight with a gradient."""
    return load_model(open_checkpoint(path), Loading(form=WeightForm.TRAINABLE, dtype=torch.float32))


def wide_model(path: Path) -> CausalLM:
    """The model in float64, its weights and their gradients too."""
    return load_model(open_checkpoint(path), Loading(form=WeightForm.TRAINABLE, dtype=torch.float64)).double()


def step_gradients(
    model: CausalLM, objective: Objective, batches: Sequence[MicroBatch]
) -> tuple[Means, dict[str, Tensor]]:
    """The loss, metrics and gradients of a step that is cut into these micro-batches."""
    return gradients_over(model, OverModel(model, objective), batches)


def gradients_over(
    model: CausalLM, over: StepObjective, batches: Sequence[MicroBatch]
) -> tuple[Means, dict[str, Tensor]]:
    """What `step_gradients` gives, of an objective over the model: a step as the engine makes it."""
    model.zero_grad()
    prepared = over.prepared(batches)
    means = Means(over.weights(prepared))
    for batch in prepared:
        sums = over.sums(batch)
        sums.loss(means.weights).backward()
        means.add(sums)
    return means, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def full_logits(model: CausalLM, example: Example) -> tuple[Tensor, Tensor]:
    """Log-probabilities of all tokens of the vocabulary where a target follows, `[targets, vocab]`, and the targets.

    They are computed from the whole logits of a document alone, in float64 behind the head.
    """
    tokens = torch.tensor(example.tokens, dtype=torch.int64)
    hidden = model.documents(tokens, torch.arange(len(tokens)), [len(tokens)])
    weight = plain_weight(model.lm_head)
    assert weight is not None
    logits = hidden[:-1].double() @ weight.double().t()
    taken = torch.tensor(example.loss_mask[1:])
    return nn.functional.log_softmax(logits, dim=-1)[taken], tokens[1:][taken]


def answer_logps(model: CausalLM, example: Example) -> Tensor:
    """Log-probability of each target of a document, float64 `[targets]`."""
    table, targets = full_logits(model, example)
    return table.gather(1, targets[:, None])[:, 0]


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of two gradients, relative to the largest entry of each tensor or 1."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max() / other[name].abs().max().clamp_min(1.0)) for name in other)


def lora_factors(policy: nn.Module) -> dict[str, Tensor]:
    """A and B of PEFT's adapter, by the names that they have on veneer's model."""
    return {
        name.removeprefix("base_model.model.").replace(".default", ""): tensor.detach()
        for name, tensor in policy.named_parameters()
        if "lora_" in name
    }


def assert_any_split_is_the_same_step(model: CausalLM, objective: Objective, answers: list[Example]) -> None:
    """Every cut of a step into micro-batches, packed with shared beginnings or apart, has the same gradients."""
    whole, expected = step_gradients(model, objective, pack(answers, 10**6, together=2))
    for most in (1, 130, 200, 300):
        for share in (True, False):
            batches = pack(answers, most, share=share, together=2)
            assert most > 1 or len(batches) == len(answers) // 2, "a pair is never cut"
            means, found = step_gradients(model, objective, batches)
            assert largest_difference(found, expected) < 1e-6
            assert means.loss == pytest.approx(whole.loss, rel=1e-6)
            assert means.metrics == pytest.approx(whole.metrics, rel=1e-5, abs=1e-6)


def assert_splits_differ_by_rounding_alone(
    model: CausalLM, over: StepObjective, rows: list[Example], *, together: int = 1
) -> None:
    """In float64 every split of a step, in any order and packed or apart, has the gradients of the whole one: nothing
    on the way is summed or kept in a narrower dtype, and nothing depends on the split."""
    source, units = random.Random(len(rows)), len(rows) // together
    whole, expected = gradients_over(model, over, pack(rows, 10**6, together=together))
    assert max(float(tensor.abs().max()) for tensor in expected.values()) > 1e-3
    for most in (1, 150):
        order = source.sample(range(units), units)
        numbers = [unit * together + part for unit in order for part in range(together)]
        share = source.random() < 0.5
        batches = pack([rows[at] for at in numbers], most, share=share, together=together, numbers=numbers)
        means, found = gradients_over(model, over, batches)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert float((found[name] - tensor).abs().max()) <= 1e-12 * float(tensor.abs().max()), (name, most, share)
        assert means.loss == pytest.approx(whole.loss, rel=1e-12)
        assert means.metrics == pytest.approx(whole.metrics, rel=1e-10, abs=1e-12)


def assert_is_the_formula(
    model: CausalLM, objective: Objective, answers: list[Example], loss: Tensor, metrics: dict[str, float]
) -> None:
    """A step in several micro-batches has the loss, gradients and metrics of a formula on full logits."""
    model.zero_grad()
    loss.backward()
    gradients = {path: p.grad.clone() for path, p in model.named_parameters() if p.grad is not None}
    means, found = step_gradients(model, objective, pack(answers, 150, together=2))
    assert means.loss == pytest.approx(float(loss.detach()), rel=1e-6)
    assert metrics == pytest.approx({name: means.metrics[name] for name in metrics}, rel=1e-5, abs=1e-6)
    assert largest_difference(found, gradients) < 5e-6


@dataclass(frozen=True)
class Scored:
    """The log-probabilities of a pair's answers, with a gradient."""

    chosen: Tensor
    """Of each token, float64 `[tokens]`."""
    rejected: Tensor


def scored(model: CausalLM, answers: list[Example]) -> list[Scored]:
    """The pairs, each computed alone on full logits."""
    return [
        Scored(answer_logps(model, chosen), answer_logps(model, rejected))
        for chosen, rejected in zip(answers[::2], answers[1::2], strict=True)
    ]


def chosen_nll(pairs: list[Scored]) -> Tensor:
    """The mean cross-entropy of all tokens of the chosen answers."""
    return -torch.cat([pair.chosen for pair in pairs]).mean()
