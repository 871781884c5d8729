from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.models.family_variants import longrope
from helpers.models.tiny_models import (
    BACKENDS,
    documents,
    largest_difference,
    ours,
    packed_logits,
    tiny,
    tiny_llama,
    use_backend,
)
from veneer.model.decoder import CausalLM


@pytest.fixture(autouse=True, params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    use_backend(request.param, monkeypatch)
    return str(request.param)


def last_logits(model: CausalLM, texts: list[list[int]]) -> Tensor:
    """Logits of each text's last token, computed from the whole text."""
    return torch.stack([packed_logits(model, [text])[-1] for text in texts])


@torch.no_grad()
def decode(model: CausalLM, lengths: list[int], steps: int, dropped: dict[int, int]) -> list[list[int]]:
    """Compare every step with whole texts, and drop a row before the steps that `dropped` names.

    Returns the widths that each step announced.
    """
    texts = documents([length + steps for length in lengths])
    rows = list(range(len(texts)))
    decoding = model.decoding(len(texts), max(lengths) + steps)
    prompts = [text[:length] for text, length in zip(texts, lengths, strict=True)]
    found = decoding.prefill(torch.tensor([token for prompt in prompts for token in prompt]), lengths)
    assert largest_difference(found, last_logits(model, prompts)) < 1e-4
    widths = []
    for step in range(steps):
        if step in dropped:
            kept = [place for place, row in enumerate(rows) if row != dropped[step]]
            decoding.keep(torch.tensor(kept))
            rows = [rows[place] for place in kept]
        widths.append(decoding.widths())
        ends = [lengths[row] + step + 1 for row in rows]
        found = decoding.step(torch.tensor([texts[row][end - 1] for row, end in zip(rows, ends, strict=True)]))
        expected = last_logits(model, [texts[row][:end] for row, end in zip(rows, ends, strict=True)])
        assert largest_difference(found, expected) < 1e-4
    return widths


def test_prompts_and_steps_equal_whole_texts_while_rows_leave(tmp_path: Path) -> None:
    model = ours(tiny_llama(3), tmp_path)
    widths = decode(model, [1, 17, 4, 16], 8, {3: 1, 6: 0})
    assert widths == [[1] * 4] * 3 + [[1] * 3] * 3 + [[1] * 2] * 2


def test_a_text_that_outgrows_its_trained_context_is_computed_again_once(tmp_path: Path) -> None:
    """LongRoPE turns a text of more than 32 tokens by other angles; the widths announce what that step costs."""
    changes = {"original_max_position_embeddings": 32, "rope_parameters": longrope(8)}
    model = ours(tiny("phi3", 4, changes), tmp_path)
    widths = decode(model, [30, 3, 32, 40], 5, {4: 2})
    # Row 2 has its 33rd token in the first step, and row 0 in the third.
    assert widths == [[31, 4, 33, 41], [1] * 4, [33, 6, 35, 43], [1] * 4, [1] * 3]


def test_a_model_has_a_compiled_step_where_there_are_kernels(tmp_path: Path, backend: str) -> None:
    step = ours(tiny_llama(3), tmp_path).compiled_step(8)
    assert (step is None) is (backend == "torch")
