"""The steps of a run follow from its rows and its settings alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.models.family_variants import longrope
from helpers.models.tiny import examples, run_config
from helpers.models.tiny_models import saved, tiny
from helpers.training.mean_losses import mean_loss
from veneer.backends.describe import describe_model
from veneer.backends.load import load_language_model
from veneer.config import RunConfig, TrainSection
from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.prompt_groups import by_prompt, laid_tokens
from veneer.data.rows import Rows
from veneer.enums import Backend
from veneer.evaluation.scoring import example_losses
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.how import Loading
from veneer.training.steps import COMPARED, PackedSteps, Packing, packing_of


def packed(rows: Rows, train: TrainSection, packing: Packing, most: int | None) -> PackedSteps:
    """Steps with micro-batches of so many tokens, as a run chooses them."""
    steps = PackedSteps(rows, train, packing)
    if most is not None:
        steps.cut_at(most)
    return steps


def steps_of(encoded: list[Example], config: RunConfig) -> PackedSteps:
    chosen = config.compute.micro_batch_tokens
    packing = Packing(share=True, evaluation_share=True, pad_to_multiple_of=16)
    return packed(Rows(encoded, []), config.train, packing, None if chosen == "auto" else chosen)


def test_each_row_is_trained_exactly_once_an_epoch(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    settings = ("train.epochs=3", "train.examples_per_step=3", "compute.micro_batch_tokens=1024")
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *settings)
    encoded = examples(tiny_model, tiny_data)
    seen: dict[int, Counter[tuple[int, ...]]] = {epoch: Counter() for epoch in range(3)}
    orders = []
    for step in range(1, steps_of(encoded, config).total + 1):
        source = steps_of(encoded, config)  # afresh, as after a resumption
        for batch in source.micro_batches(step):
            shared, *rest, _ = torch.split(batch.tokens, [batch.shared, *batch.lengths, batch.filler])
            for own in rest:
                seen[(step - 1) // 7][(*shared.tolist(), *own.tolist())] += 1
        orders.append([batch.tokens.tolist() for batch in source.micro_batches(step)])
    expected = Counter(tuple(row.tokens.tolist()) for row in encoded)
    assert all(counter == expected for counter in seen.values())
    assert orders[:7] != orders[7:14]


def test_the_number_of_steps_follows_from_epochs_or_is_given(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    encoded = examples(tiny_model, tiny_data)
    for assignments, steps in (
        ((), 3), (("train.epochs=2",), 6), (("train.epochs=0.5",), 2), (("train.epochs=1.01",), 4),
        (("train.steps=50",), 50), (("train.examples_per_step=100",), 1), (("train.examples_per_step=1",), 20),
        (("train.tokens_per_step=1000000", "train.epochs=2"), 2),
    ):  # fmt: skip
        source = steps_of(encoded, run_config(tiny_model, tiny_data, tmp_path, *assignments))
        assert source.total == steps, assignments
        assert source.epoch(source.total) > 0
    whole = steps_of(encoded, run_config(tiny_model, tiny_data, tmp_path, "train.epochs=2"))
    assert [whole.epoch(step) for step in range(1, 7)] == pytest.approx([n / 3 for n in range(1, 7)])


def test_labelled_answers_to_one_prompt_share_it_in_the_steps_of_a_run(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Of all prompts that could be laid once, nine tenths are; each row is trained once an epoch, and no micro-batch is
    larger than the plan is told."""
    source = np.random.default_rng(4)
    rows = []
    for _ in range(40):
        prompt = source.integers(1, 90, int(source.integers(20, 60))).tolist()
        for _ in range(2):
            tokens = np.array(prompt + source.integers(1, 90, int(source.integers(3, 30))).tolist(), dtype=np.int32)
            rows.append(Example(tokens, np.arange(len(tokens)) >= len(prompt), "f:1"))
    config = run_config(tiny_model, tiny_data, tmp_path / "run", "objective=kto", "train.epochs=1",
                        "train.examples_per_step=16")  # fmt: skip
    description = describe_model(open_checkpoint(tiny_model), Backend.AUTO)
    packing = replace(packing_of(config, description), pad_to_multiple_of=1)
    assert packing.prompts
    for most, lanes in ((10**6, 1), (300, 1), (300, 3)):
        train = config.train.model_copy(update={"lanes": lanes})
        steps = packed(Rows(rows, [], labels=(True,) * len(rows)), train, packing, most)
        batches = [batch for step in range(1, steps.total + 1) for batch in steps.micro_batches(step)]
        assert sorted(number for batch in batches for number in batch.numbers) == list(range(len(rows)))
        assert steps.batch_shape(most).tokens == len(steps.largest().tokens) == max(len(b.tokens) for b in batches)
        apart, laid = sum(len(row.tokens) for row in rows), sum(len(batch.tokens) for batch in batches)
        once = sum(laid_tokens([rows[place] for place in group]) for group in by_prompt(rows))
        assert apart - laid >= 0.9 * (apart - once)


def test_the_fullest_micro_batch_of_pairs_is_the_one_that_lays_most(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Pairs behind long prompts have more tokens than those behind short ones, and lay fewer."""
    rows = []
    for number in range(COMPARED + 1):
        prompt, answer = (5, 44) if number == 7 else (60, 5)
        for part in range(2):
            tokens = np.full(prompt + answer, number + 1, dtype=np.int32)
            tokens[prompt:] = 70 + part
            rows.append(Example(tokens, np.arange(len(tokens)) >= prompt, "f:1"))
    config = run_config(tiny_model, tiny_data, tmp_path / "run", "objective=dpo", "train.epochs=1",
                        "train.examples_per_step=1")  # fmt: skip
    packing = Packing(share=True, evaluation_share=True, pad_to_multiple_of=1)
    steps = packed(Rows(rows, [], together=2), config.train, packing, 130)
    most = max(len(batch.tokens) for step in range(1, steps.total + 1) for batch in steps.micro_batches(step))
    assert steps.batch_shape(130).tokens == len(steps.largest().tokens) == most == 5 + 2 * 44


@pytest.mark.parametrize(("backend", "dropout"), [(Backend.VENEER, 0.0), (Backend.VENEER, 0.1), (Backend.HF, 0.0)])
def test_the_evaluation_loss_of_texts_whose_angles_depend_on_their_length(
    backend: Backend, dropout: float, tmp_path: Path
) -> None:
    """LongRoPE turns the tokens of a text of more than 32 by other angles: two such texts have no beginning that could
    be laid once, with dropout as without."""
    changes = {"original_max_position_embeddings": 32, "rope_parameters": longrope(8)}
    model = load_language_model(saved(tiny("phi3", 4, changes), tmp_path), backend, Loading(dtype=torch.float32))
    source = np.random.default_rng(5)
    common = source.integers(3, 96, 20)
    rows = []
    for length in (30, 64):  # on both sides of the 32
        tokens = np.concatenate((common, source.integers(3, 96, length - len(common)))).astype(np.int32)
        rows.append(Example(tokens, np.arange(length) >= 10, "f:1"))
    config = run_config(tmp_path, tmp_path, tmp_path / "run", f"lora.dropout={dropout}", "train.steps=1",
                        f"backend={backend.value}")  # fmt: skip
    packing = packing_of(config, describe_model(open_checkpoint(tmp_path), backend))
    found = mean_loss(model, packed(Rows(rows, rows), config.train, packing, 512).evaluation())
    expected = example_losses(model, rows)
    assert found == pytest.approx(sum(loss for loss, _ in expected) / sum(count for _, count in expected), rel=1e-6)


@pytest.mark.parametrize("most", [1, 100, 10**6])
def test_a_plan_knows_the_largest_micro_batch_of_the_evaluation_however_small_the_steps_are(
    most: int, tiny_model: Path, tiny_data: Path
) -> None:
    encoded = examples(tiny_model, tiny_data)
    apart = Packing(share=False, evaluation_share=False, pad_to_multiple_of=1)
    steps = PackedSteps(Rows(encoded[:1], encoded), TrainSection(examples_per_step=1, steps=1), apart)
    longest, total = (function(len(one.tokens) for one in encoded) for function in (max, sum))
    assert 1 < longest < 100 < total < 10**6
    found = [sum(batch.lengths) for batch in steps.evaluation(most)]
    assert max(found) <= steps.batch_shape(most).evaluated == {1: longest, 100: 100}.get(most, total)


def test_a_plan_knows_the_longest_row_beside_larger_micro_batches_of_short_ones() -> None:
    lengths = [70] + [25] * 12
    rows = [Example(np.arange(1, size + 1, dtype=np.int32), np.arange(size) > 1, "f:1") for size in lengths]
    apart = Packing(share=False, evaluation_share=False, pad_to_multiple_of=1)
    steps = PackedSteps(Rows(rows, []), TrainSection(examples_per_step=13, steps=1), apart)
    shape = steps.batch_shape(75)
    assert (shape.tokens, shape.documents, shape.longest) == (75, 3, 70)
