from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.models.tiny_models import packed_logits
from veneer.assistant.assistant import Assistant
from veneer.config import QuantSection
from veneer.exports.base import MergeBase, TrainingBase
from veneer.exports.certificate import LISTED
from veneer.exports.prompts import chosen
from veneer.exports.veneer_reader import folder, live, own, reference, steps_of, vocabulary_texts
from veneer.io.checkpoint import open_checkpoint
from veneer.quant.four_bit import QuantLinear
from veneer.quant.packed import PackedLinear

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def assistant(tiny_model: Path) -> Assistant:
    return folder(tiny_model, CPU)


def test_distributions_list_the_likeliest_tokens_in_order() -> None:
    logits = torch.randn(3, 200, generator=torch.Generator().manual_seed(1))
    for row, step in zip(logits.double(), steps_of(logits), strict=True):
        exact = row - row.exp().sum().log()
        order = exact.argsort(descending=True)[:LISTED]
        assert step.ids == tuple(order.tolist())
        assert torch.allclose(torch.tensor(step.logprobs, dtype=torch.float64), exact[order], atol=1e-12)
    assert len(steps_of(logits[:, :5])[0].ids) == 5


@torch.no_grad()
def test_the_reference_chooses_greedily_and_shows_every_distribution(assistant: Assistant) -> None:
    prompts = chosen(assistant, None, 5, 6)
    output, asked = reference(assistant, prompts)
    assert asked.answers == output.answers
    for prompt, answer in zip(prompts.prompts, output.answers, strict=True):
        logits = packed_logits(assistant.model, [[*prompt.tokens, *answer.tokens]])[len(prompt.tokens) - 1 :]
        assert [step.ids[0] for step in answer.steps] == logits.argmax(-1).tolist()
        assert [step.ids[0] for step in answer.steps[: len(answer.tokens)]] == list(answer.tokens)
        assert len(answer.tokens) == 6 or answer.steps[-1].ids[0] in assistant.stop_ids
        assert assistant.tokenizer.decode(answer.tokens) == answer.text


def test_the_same_model_read_again_gives_the_same_output(assistant: Assistant) -> None:
    output, asked = reference(assistant, chosen(assistant, None, 5, 6))
    again = own(assistant, asked, "live adapter")
    assert again == output
    moved = own(assistant, asked, before_head=lambda hidden: 1.1 * hidden)
    assert moved.answers[0].steps != output.answers[0].steps


def test_texts_are_written_behind_the_opening_or_composed_where_asked(assistant: Assistant) -> None:
    prompts = chosen(assistant, None, 5, 2)
    _, plain = reference(assistant, prompts)
    _, opened = reference(assistant, prompts, opened=True)
    _, composed = reference(assistant, prompts, composed=True)
    opening = assistant.tokenizer.opening
    count = len(prompts.texts) + len(vocabulary_texts(assistant.tokenizer))
    assert opened.texts[:count] == tuple(opening + text for text in plain.texts[:count])
    assert any("e\u0301" in text for text in plain.texts)
    assert not any("e\u0301" in text for text in composed.texts)


def test_every_printable_ascii_token_is_in_a_text(assistant: Assistant) -> None:
    texts = "\n".join(vocabulary_texts(assistant.tokenizer))
    for token, index in assistant.tokenizer.backend.get_vocab(with_added_tokens=False).items():
        said = assistant.tokenizer.decode([index])
        if said.isascii() and said.isprintable() and said.strip():
            assert said in texts, token


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_live_qlora_adapter_stands_on_its_codes_and_all_else_is_in_float32(
    dtype: torch.dtype, tiny_model: Path, qlora: Path
) -> None:
    """The codes are made from the weights in the dtype that training made them from."""
    checkpoint = open_checkpoint(tiny_model)
    found = live(checkpoint, qlora, MergeBase.DEQUANTISED, TrainingBase(True, QuantSection(), dtype), CPU)
    path, norm = "model.layers.0.mlp.up_proj", "model.layers.0.input_layernorm.weight"
    assert found.adapter is not None
    base = found.adapter.base_of(path)
    assert isinstance(base, PackedLinear)
    codes = QuantLinear.from_weight(checkpoint.read(f"{path}.weight", dtype))
    assert torch.equal(base.dequantize(torch.float32), codes.dequantize(torch.float32))
    assert found.model.dtype is torch.float32
    held = dict(found.model.named_parameters())[norm]  # type: ignore[attr-defined]
    assert torch.equal(held, checkpoint.read(norm, torch.float32))
