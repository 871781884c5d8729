"""Log-probabilities of answers: the sum of those of their own tokens, wherever they are laid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.models.tiny import write_rows
from helpers.rows.preference_rows import answer_logps, pair_rows, pairs, trainable_model
from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.packing import pack
from veneer.losses.linear_head import row_losses
from veneer.training.objectives.documents import answer_tokens, log_probabilities
from veneer.training.over_model import hidden_states


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


def test_a_target_that_answers_have_in_common_is_scored_once(tiny_model: Path, tmp_path: Path) -> None:
    """Answers that begin alike share their beginning with the prompt. Its gradient is the sum of theirs."""
    answers = pair_rows(tiny_model, write_rows(tmp_path / "pairs.jsonl", pairs(3))).train
    model = trainable_model(tiny_model)
    (batch,) = pack(answers, 10**6, together=2)
    scored: list[int] = []
    weights = torch.linspace(-1, 2, len(answers), dtype=torch.float64)

    def head_gradient(share: bool) -> torch.Tensor:
        (laid,) = pack(answers, 10**6, share=share, together=2)
        model.zero_grad()
        found = log_probabilities(hidden_states(model, laid), model.lm_head, model.spec.scores, laid)
        (found * weights).sum().backward()
        gradient = model.embedding.weight.grad
        assert isinstance(gradient, torch.Tensor)
        return gradient.clone()

    def note(*args: Any, **kwargs: Any) -> torch.Tensor:
        scored.append(len(args[2]))
        return row_losses(*args, **kwargs)

    distinct = set(zip(batch.rows.tolist(), batch.targets.tolist(), strict=True))
    assert len(distinct) < batch.supervised - 3, "the answers begin alike"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("veneer.training.objectives.head.row_losses", note)
        together = head_gradient(share=True)
    assert scored == [len(distinct)]
    apart = head_gradient(share=False)
    # Terms of an element cancel in some places, where rounding is large beside the element and not beside the terms.
    assert float((together - apart).abs().max()) < 1e-6 * float(apart.abs().max())
