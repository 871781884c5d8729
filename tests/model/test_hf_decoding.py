from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from helpers.models.hf_models import LIKE_ROBERTA, OTHERS, SHAPES, tiny_hf
from helpers.models.tiny_models import documents, largest_difference, their_logits
from veneer.backends.load import load_hf
from veneer.errors import ModelError
from veneer.generation.batch import generate
from veneer.generation.sampling import Sampling
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.how import Loading
from veneer.model.hf import HfModel
from veneer.model.hf_decoding import HfCachedDecoding, HfUncachedDecoding, call_body

UNCACHED = ("roformer", "roberta", "mamba", "falcon_mamba", "minimax")
"""Kinds that do not continue from a cache what the whole text gives: positions by columns or not from 0, states that
saw padding, a cache that raises an error when a row is dropped."""
TEXTS = documents([5, 19, 1, 30, 7], seed=3)


def ours(kind: str, path: Path) -> tuple[PreTrainedModel, HfModel]:
    theirs = tiny_hf(kind)
    theirs.save_pretrained(path)
    return theirs, load_hf(open_checkpoint(path), Loading(dtype=torch.float32))


@pytest.mark.parametrize("kind", ["gpt2", "opt", "biogpt", "roformer", "roberta"])
def test_a_row_that_ends_at_the_last_learned_position_stays_there_beside_others(kind: str, tmp_path: Path) -> None:
    # RoBERTa's first positions are no token's: those up to the padding token's id, which is 0.
    most = 33 if kind == "roberta" else 32
    changes = {"n_positions" if kind == "gpt2" else "max_position_embeddings": most}
    tiny_hf(kind, changes=changes).save_pretrained(tmp_path)
    model = load_hf(open_checkpoint(tmp_path), Loading(dtype=torch.float32))
    texts, settings = documents([28, 5, 6, 7, 8]), Sampling(max_new_tokens=32)
    found = generate(model, texts, sampling=settings, stop_ids=frozenset(), context=32)
    assert [len(text) + len(tokens) for text, tokens in zip(texts, found, strict=True)] == [32] * 5
    for text, tokens in zip(texts, found, strict=True):
        assert generate(model, [text], sampling=settings, stop_ids=frozenset(), context=32) == [tokens]


@pytest.mark.parametrize(
    ("kind", "decoder"),
    [(kind, HfUncachedDecoding if kind in UNCACHED else HfCachedDecoding) for kind in (*SHAPES, *OTHERS)],
)
@torch.no_grad()
def test_prompts_and_steps_equal_whole_texts_while_rows_leave(kind: str, decoder: type, tmp_path: Path) -> None:
    theirs, model = ours(kind, tmp_path)
    texts, lengths, rows = documents([13, 29, 11, 9]), [9, 25, 7, 5], [0, 1, 2, 3]
    decoding = model.decoding(4, 32)
    assert isinstance(decoding, decoder)
    prompts = [text[:length] for text, length in zip(texts, lengths, strict=True)]
    found = decoding.prefill(torch.tensor([token for prompt in prompts for token in prompt]), lengths)
    for step in range(4):
        whole = [texts[row][: lengths[row] + step] for row in rows]
        expected = torch.stack([their_logits(theirs, [text])[-1] for text in whole])
        assert largest_difference(found, expected) < 2e-5 * max(1.0, float(expected.abs().max()))
        if step == 2:
            decoding.keep(torch.tensor([0, 2, 3]))
            rows.remove(1)
        again = decoder is HfUncachedDecoding
        assert decoding.widths() == [lengths[row] + step + 1 if again else 1 for row in rows]
        found = decoding.step(torch.tensor([texts[row][lengths[row] + step] for row in rows]))


def test_a_class_that_counts_positions_by_columns_computes_each_step_anew(tmp_path: Path) -> None:
    theirs, model = ours("roformer", tmp_path)
    assert not model._caches
    found = generate(model, TEXTS, sampling=Sampling(max_new_tokens=6), stop_ids=frozenset())
    for text, tokens in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            scores = theirs(input_ids=torch.tensor([[*text, *tokens]])).logits[0, len(text) - 1 : -1]
        assert scores.argmax(-1).tolist() == tokens


@pytest.mark.parametrize("kind", LIKE_ROBERTA)
@torch.no_grad()
def test_a_class_that_counts_positions_from_its_padding_answers_as_it_was_trained(kind: str, tmp_path: Path) -> None:
    theirs = tiny_hf(kind, changes={"pad_token_id": 3})
    theirs.save_pretrained(tmp_path)
    model = load_hf(open_checkpoint(tmp_path), Loading(dtype=torch.float32))
    found = generate(model, TEXTS, sampling=Sampling(max_new_tokens=6), stop_ids=frozenset())
    for text, tokens in zip(TEXTS, found, strict=True):
        scores = theirs(input_ids=torch.tensor([[*text, *tokens]])).logits[0, len(text) - 1 : -1]
        assert scores.argmax(-1).tolist() == tokens


def test_rows_that_end_leave_the_batch_and_change_nothing_for_the_others(tmp_path: Path) -> None:
    _, model = ours("gpt2", tmp_path)
    free = generate(model, TEXTS, sampling=Sampling(max_new_tokens=10), stop_ids=frozenset())
    stop = free[1][2]
    found = generate(model, TEXTS, sampling=Sampling(max_new_tokens=10), stop_ids=frozenset({stop}))
    for before, after in zip(free, found, strict=True):
        end = before.index(stop) if stop in before else len(before)
        assert after == before[:end]


def test_a_text_beyond_the_learned_positions_is_refused_with_both_numbers() -> None:
    theirs = tiny_hf("gpt2", changes={"n_positions": 16})
    with pytest.raises(ModelError, match=r"has 16 positions, but a row has 17 tokens or more.*data\.max_length"):
        call_body(theirs.transformer, {"input_ids": torch.zeros(1, 17, dtype=torch.int64)})


def test_a_row_that_outgrows_the_learned_positions_is_refused_with_its_whole_length(tmp_path: Path) -> None:
    theirs = tiny_hf("gpt2", changes={"n_positions": 16})
    theirs.save_pretrained(tmp_path)
    decoding = load_hf(open_checkpoint(tmp_path), Loading(dtype=torch.float32)).decoding(2, 32)
    decoding.prefill(torch.arange(20), [5, 15])
    decoding.step(torch.tensor([3, 4]))
    with pytest.raises(ModelError, match="has 16 positions, but a row has 17 tokens or more"):
        decoding.step(torch.tensor([3, 4]))


def test_a_body_that_reads_a_weight_by_itself_is_refused_with_the_line_that_does() -> None:
    class Body(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Identity()
            self.config = tiny_hf("gpt2").config

        def forward(self, input_ids: torch.Tensor, return_dict: bool) -> torch.Tensor:
            return input_ids @ self.layer.weight

    with pytest.raises(ModelError, match=r"in `return input_ids @ self\.layer\.weight`.*lora\.exclude_modules"):
        call_body(Body(), {"input_ids": torch.zeros(1, 3)})
