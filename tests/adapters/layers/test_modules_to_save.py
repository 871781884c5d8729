from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from helpers.models.random_weights import RandomWeights
from helpers.models.tiny_models import largest_difference
from veneer.adapters.layers.modules_to_save import SavedModule, TrainedNormBias, trainable_copy
from veneer.adapters.module import ModulePlace
from veneer.errors import AdapterError
from veneer.model.leaves import DenseLinear, Embedding, WideNorm, make_norm
from veneer.model.shape import Norm
from veneer.quant.four_bit import QuantLinear

X = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))


def modules() -> dict[str, nn.Module]:
    weights = RandomWeights(dtype=torch.bfloat16)
    plain = weights.parameter("q", (8, 12))
    return {
        "a.q_proj": DenseLinear(plain, weights.parameter("b", (8,))),
        "a.o_proj": QuantLinear.from_weight(torch.randn(8, 12)),
        "lm_head": DenseLinear(weights.parameter("h", (20, 12))),
        "embed_tokens": Embedding(weights.parameter("e", (20, 12))),
        **{f"{kind.name}.norm": make_norm(kind, weights, f"{kind.name}.norm", (12,), 1e-5) for kind in Norm},
    }


def computed(module: nn.Module) -> Tensor:
    found: Tensor = module(torch.tensor([3, 0, 3]), torch.float32) if isinstance(module, Embedding) else module(X)
    return found


@pytest.mark.parametrize("path", modules())
def test_a_copy_computes_the_same_in_float32_and_shares_nothing(path: str) -> None:
    base = modules()[path]
    own = trainable_copy(base, path)
    assert all(p.requires_grad and p.dtype is torch.float32 for p in own.parameters())
    assert {p.data_ptr() for p in own.parameters()} & {p.data_ptr() for p in base.parameters()} == set()
    assert largest_difference(computed(own), computed(base)) < 2e-2 * float(computed(base).abs().max())
    (grad, *_) = torch.autograd.grad(computed(own).square().sum(), list(own.parameters()))
    assert bool(grad.any())


def test_what_holds_no_weights_of_its_own_is_refused_by_its_path() -> None:
    with pytest.raises(AdapterError, match=r"a\.mlp is a ModuleList and has no weights of its own; name"):
        trainable_copy(nn.ModuleList(), "a.mlp")


def in_a_model(path: str = "lm_head", *, tied: bool = False) -> tuple[nn.Module, SavedModule]:
    model = nn.Module()
    model.lm_head = modules()[path]
    return model, SavedModule(
        ModulePlace.of(model, "lm_head"), model.lm_head, trainable_copy(model.lm_head, path), tied=tied
    )


def test_the_copy_is_in_place_while_it_is_enabled() -> None:
    model, saved = in_a_model()
    assert model.lm_head is saved.own
    saved.enabled = False
    assert model.lm_head is saved.base
    saved.enabled = True
    saved.load({"weight": torch.full((20, 12), 0.5)})
    assert torch.equal(computed(model.lm_head), X @ torch.full((20, 12), 0.5).t())
    tensors = {"weight": torch.zeros(20, 12, dtype=torch.float64)}
    saved.merge_into(tensors)
    assert torch.equal(tensors["weight"], torch.full((20, 12), 0.5, dtype=torch.float64))


def test_a_tied_copy_is_saved_and_trained_by_another() -> None:
    _, saved = in_a_model(tied=True)
    assert saved.trained() == {}
    assert list(saved.tensors()) == ["weight"]


def test_a_larger_vocabulary_makes_room_for_its_rows() -> None:
    _, saved = in_a_model("embed_tokens")
    before = saved.own.get_parameter("weight")
    saved.resize(20)
    assert saved.own.get_parameter("weight") is before
    saved.resize(23)
    assert saved.tensors()["weight"].shape == (23, 12)


def test_only_the_bias_of_a_norm_is_trained() -> None:
    model = nn.Module()
    model.norm = make_norm(Norm.LAYER_BIAS, RandomWeights(dtype=torch.float32), "norm", (12,), 1e-5)
    base = model.norm
    assert isinstance(base, WideNorm)
    assert base.bias is not None
    saved = TrainedNormBias(ModulePlace.of(model, "norm"), base)
    assert list(saved.trained()) == list(saved.tensors()) == ["bias"]
    saved.trained()["bias"].data.add_(1)
    assert largest_difference(computed(model.norm), computed(base) + 1) < 1e-5
    assert not saved.whole
