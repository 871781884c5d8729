"""Where transformers' rotary angles depend on a text's length, no text depends on those beside it or before it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from helpers.models.family_variants import longrope
from helpers.models.tiny_models import documents, largest_difference, saved, their_logits, tiny
from veneer.backends.load import load_hf
from veneer.generation.batch import generate
from veneer.generation.sampling import Sampling
from veneer.loading.how import Loading
from veneer.model.hf import HfModel
from veneer.model.hf_decoding import HfDecodingByLength
from veneer.model.hf_lengths import AnglesByLength, angles_by_length
from veneer.model.recompute import Recomputation

TRAINED = 32
LONG = {"original_max_position_embeddings": TRAINED, "rope_parameters": longrope(8)}
MSCALES = {"short_mscale": 1.0, "long_mscale": 1.3}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
STRETCHED = {"max_position_embeddings": TRAINED, "rope_parameters": DYNAMIC}
PLAIN = {"rope_type": "default", "rope_theta": 10_000.0}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "longrope": ("llama", LONG),
    "longrope scaled": ("phimoe", LONG | {"num_local_experts": 4, "rope_parameters": longrope(8) | MSCALES}),
    "dynamic": ("llama", STRETCHED),
    "dynamic in some layers": (
        "gemma3_text",
        STRETCHED
        | {"head_dim": 16, "layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8}
        | {"rope_parameters": {"full_attention": DYNAMIC, "sliding_attention": PLAIN}},
    ),
}
TEXTS = documents([30, 34, TRAINED, 12, 33, 28, 40], seed=3)


def ours(kind: str, path: Path) -> tuple[PreTrainedModel, HfModel]:
    name, changes = KINDS[kind]
    theirs = tiny(name, changes=changes)
    return theirs, load_hf(saved(theirs, path), Loading(dtype=torch.float32))


def alone(theirs: PreTrainedModel, text: Sequence[int]) -> Tensor:
    """Logits by a model that has met no other text."""
    return their_logits(copy.deepcopy(theirs), [text])


def packed(model: HfModel, texts: Sequence[Sequence[int]]) -> Tensor:
    tokens = torch.tensor([token for text in texts for token in text])
    positions = torch.cat([torch.arange(len(text)) for text in texts])
    return model.logits(model.documents(tokens, positions, [len(text) for text in texts]))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_packed_documents_have_the_scores_of_documents_by_themselves(kind: str, tmp_path: Path) -> None:
    theirs, model = ours(kind, tmp_path)
    assert model.spec.by_length
    expected = torch.cat([alone(theirs, text) for text in TEXTS])
    assert largest_difference(packed(model, TEXTS), expected) < 2e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_gradients_are_the_sums_of_those_of_documents_by_themselves(
    kind: str, recomputed: bool, tmp_path: Path
) -> None:
    theirs, model = ours(kind, tmp_path)
    model.requires_grad_().train()
    model.recompute(Recomputation(torch.Generator()) if recomputed else None)
    packed(model, TEXTS).square().sum().backward()
    expected = torch.zeros_like(theirs.get_input_embeddings().weight)
    for text in TEXTS:
        fresh = copy.deepcopy(theirs)
        their_logits(fresh, [text]).square().sum().backward()
        expected += fresh.get_input_embeddings().weight.grad
    found = model.embedding.weight.grad
    assert largest_difference(found, expected) < 2e-5 * float(expected.abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_answers_made_side_by_side_are_those_of_whole_texts_computed_anew(kind: str, tmp_path: Path) -> None:
    theirs, model = ours(kind, tmp_path)
    found = generate(model, TEXTS, sampling=Sampling(max_new_tokens=6), stop_ids=frozenset())
    for text, tokens in zip(TEXTS, found, strict=True):
        whole = list(text)
        for token in tokens:
            with torch.no_grad():
                assert int(alone(theirs, whole)[-1].argmax()) == token
            whole.append(token)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
@torch.no_grad()
def test_a_text_is_computed_anew_when_its_angles_change_while_rows_leave(kind: str, tmp_path: Path) -> None:
    theirs, model = ours(kind, tmp_path)
    lengths, rows = [30, 9, 31, 35], [0, 1, 2, 3]
    texts = documents([length + 5 for length in lengths])
    decoding = model.decoding(4, 48)
    assert isinstance(decoding, HfDecodingByLength)
    prompts = [text[:length] for text, length in zip(texts, lengths, strict=True)]
    found, anew = decoding.prefill(torch.tensor([token for prompt in prompts for token in prompt]), lengths), []
    for step in range(5):
        now = [lengths[row] + step for row in rows]
        expected = torch.stack([alone(theirs, texts[row][:length])[-1] for row, length in zip(rows, now, strict=True)])
        assert largest_difference(found, expected) < 2e-5 * max(1.0, float(expected.abs().max()))
        if step == 2:
            decoding.keep(torch.tensor([0, 2, 3]))
            rows.remove(1)
            now.pop(1)
        anew.append([row for row, width in zip(rows, decoding.widths(), strict=True) if width > 1])
        assert {width for width in decoding.widths() if width > 1} <= {length + 1 for length in now}
        found = decoding.step(torch.tensor([texts[row][length] for row, length in zip(rows, now, strict=True)]))
    once = [[], [2], [0], [], []]
    assert anew == (once if kind == "longrope" else [[3], [2, 3], [0, 2, 3], [0, 2, 3], [0, 2, 3]])


def test_bounds_are_read_under_every_name_and_for_every_kind_of_layer() -> None:
    def read(**values: Any) -> AnglesByLength:
        return angles_by_length(SimpleNamespace(**values))

    long, dynamic = AnglesByLength(outgrown=frozenset({8})), AnglesByLength(stretched=frozenset({64}))
    assert read(rope_parameters={"rope_type": "longrope", "original_max_position_embeddings": 8}) == long
    own = {"original_max_position_embeddings": 8, "max_position_embeddings": 64}
    assert read(rope_scaling={"type": "longrope"}, **own) == long
    assert read(rope_parameters={"rope_type": "longrope"}, max_position_embeddings=8) == long
    assert read(rope_scaling={"type": "dynamic"}, rope_parameters=None, max_position_embeddings=64) == dynamic
    layers = {"full": {"rope_type": "dynamic"}, "sliding": {"rope_type": "default"}, "none": None}
    assert read(rope_parameters=layers, max_position_embeddings=64) == dynamic
    for kind in ("default", "linear", "llama3", "yarn"):
        assert not read(rope_parameters={"rope_type": kind, **own}, max_position_embeddings=64).differ
    assert not read().differ


def test_texts_of_equal_angles_are_alike() -> None:
    assert AnglesByLength().alike([3, 9, 1]) == [[0, 1, 2]]
    assert AnglesByLength(outgrown=frozenset({4})).alike([3, 9, 4, 5]) == [[0, 2], [1, 3]]
    assert AnglesByLength(stretched=frozenset({4})).alike([3, 9, 4, 5, 9]) == [[0, 2], [1, 4], [3]]


def test_a_model_whose_angles_are_always_equal_keeps_one_cache(tmp_path: Path) -> None:
    model = load_hf(saved(tiny("llama"), tmp_path), Loading(dtype=torch.float32))
    assert not model.spec.by_length
    assert not isinstance(model.decoding(1, 8), HfDecodingByLength)
