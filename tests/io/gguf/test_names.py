from __future__ import annotations

import gguf
import pytest
import torch

from helpers.gguf.models import CASES, random_model
from helpers.models.tiny_models import largest_difference
from veneer.io.gguf.config import completed, family_of
from veneer.io.gguf.names import EMBEDDING, OUTPUT, Head, interleaved, pieces, row_order


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_of_the_model_is_in_one_piece_with_its_shape(case: str) -> None:
    """Mixtures hold their experts under names of their own (`veneer.io.experts`)."""
    config = CASES[case]()
    theirs = {name: tuple(tensor.shape) for name, tensor in random_model(config).state_dict().items()}
    family = family_of(config.to_dict())
    found = pieces(family.names, completed(config.to_dict()))
    assert len({piece.name for piece in found}) == len(found)
    sources = [name for piece in found for name in piece.sources]
    plain = {name for name in theirs if ".mlp.experts." not in name}
    if config.tie_word_embeddings:
        plain.discard("lm_head.weight")
        assert sources.count(EMBEDDING) == (2 if family.names.head is Head.ALWAYS else 1)
    assert {name for name in sources if ".mlp.experts." not in name} == plain
    for piece in found:
        if not piece.stacked:
            assert piece.shape == theirs[piece.sources[0]], piece.name
        elif ".experts." not in piece.sources[0]:
            assert piece.shape == (len(piece.sources), *theirs[piece.sources[0]]), piece.name


@pytest.mark.parametrize("case", CASES)
def test_names_are_those_that_the_gguf_package_has_for_the_architecture(case: str) -> None:
    config = CASES[case]()
    family = family_of(config.to_dict())
    names = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}
    known = gguf.get_tensor_name_map(names[family.architecture], config.num_hidden_layers)
    assert known is not None
    allowed = {gguf.TENSOR_NAMES[kind] for kind in gguf.MODEL_TENSORS[names[family.architecture]]}
    for piece in pieces(family.names, completed(config.to_dict())):
        stem = piece.name.rpartition(".")[0]
        parts = stem.split(".")
        form = ".".join(["blk", "{bid}", *parts[2:]]) if parts[0] == "blk" else stem
        assert form in allowed or piece.name == OUTPUT, piece.name


@pytest.mark.parametrize(("heads", "dim"), [(1, 4), (3, 8), (4, 16)])
def test_rows_of_a_head_alternate_between_its_halves(heads: int, dim: int) -> None:
    weight = torch.randn(heads * dim, 5, generator=torch.Generator().manual_seed(1))
    places = [(head, pair, half) for head in range(heads) for pair in range(dim // 2) for half in (0, 1)]
    slow = torch.stack([weight[head * dim + half * dim // 2 + pair] for head, pair, half in places])
    assert torch.equal(interleaved(weight, heads), slow)
    order = row_order(heads * dim, heads)
    assert sorted(order.tolist()) == list(range(heads * dim))
    back = torch.empty_like(weight)
    back[order] = interleaved(weight, heads)
    assert largest_difference(back, weight) == 0.0
