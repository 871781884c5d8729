"""The cross-entropy of supervised tokens: the mean over all of a step, however it is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.models.tiny import examples
from helpers.rows.preference_rows import answer_logps, largest_difference, step_gradients, trainable_model
from veneer.data.micro_batches.packing import pack
from veneer.training.objectives.sft import CROSS_ENTROPY, SupervisedCrossEntropy


@pytest.mark.parametrize("most", [1, 150, 10**6])
def test_it_is_the_mean_over_the_supervised_tokens_of_the_step(most: int, tiny_model: Path, tiny_data: Path) -> None:
    model, rows = trainable_model(tiny_model), examples(tiny_model, tiny_data)[:6]
    loss = -torch.cat([answer_logps(model, row) for row in rows]).mean()
    loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    batches, objective = pack(rows, most), SupervisedCrossEntropy()
    assert objective.weights(batches) == {CROSS_ENTROPY: sum(row.supervised for row in rows)}
    means, found = step_gradients(model, objective, batches)
    assert means.loss == pytest.approx(float(loss.detach()), rel=1e-6)
    assert largest_difference(found, expected) < 5e-6
