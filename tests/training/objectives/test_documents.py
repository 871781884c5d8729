"""Log-probabilities of answers: the sum of those of their own tokens, wherever they are laid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from preference_rows import answer_logps, pair_rows, pairs, trainable_model
from tiny import write_rows
from veneer.data.batches import pack
from veneer.data.chat import Example
from veneer.training.objective import hidden_states
from veneer.training.objectives.documents import answer_tokens, log_probabilities


@pytest.mark.parametrize("share", [True, False])
def test_every_answer_has_the_sum_over_its_own_tokens(share: bool, tiny_model: Path, tmp_path: Path) -> None:
    answers = pair_rows(tiny_model, write_rows(tmp_path / "pairs.jsonl", pairs(5))).train
    model = trainable_model(tiny_model)
    for batch in pack(answers, 200, share=share, together=2):
        hidden = hidden_states(model, batch)
        found = log_probabilities(hidden, model.lm_head, model.spec.scores, batch)
        expected = torch.stack([answer_logps(model, answers[number]).sum() for number in batch.numbers])
        assert found.dtype == torch.float64
        assert torch.allclose(found, expected, rtol=1e-6)
        assert answer_tokens(batch, found).tolist() == [answers[number].supervised for number in batch.numbers]


def test_masked_tokens_count_neither_in_the_sum_nor_in_the_number(tiny_model: Path, tmp_path: Path) -> None:
    (first, second, *_) = pair_rows(tiny_model, write_rows(tmp_path / "pairs.jsonl", pairs(2))).train
    model = trainable_model(tiny_model)
    mask, last = first.loss_mask.copy(), np.flatnonzero(first.loss_mask)[-3:]
    mask[last] = False
    (batch,) = pack([Example(first.tokens, mask, first.where), second], 10**6, together=2)
    found = log_probabilities(hidden_states(model, batch), model.lm_head, model.spec.scores, batch)
    assert float(found[0].detach()) == pytest.approx(float(answer_logps(model, first)[:-3].sum().detach()), rel=1e-6)
    assert batch.counts == (first.supervised - 3, second.supervised)
