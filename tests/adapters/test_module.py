from __future__ import annotations

from typing import Any

import pytest
import torch

from helpers.models.tiny_models import documents, ours, packed_logits, tiny_llama
from veneer.adapters.inject import inject
from veneer.adapters.layers.embedding import LoraEmbedding, TokenEmbedding, TokenHead
from veneer.adapters.layers.linear import TrainedBias
from veneer.adapters.layers.modules_to_save import SavedModule
from veneer.adapters.module import copy_tensors
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import EMBEDDING, HEAD
from veneer.enums import Bias, Variant

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"variant": Variant.DORA},
    "embedding": {"target_modules": ("embed_tokens", "q_proj")},
    "biases": {"bias": Bias.LORA_ONLY},
    "saved": {"modules_to_save": ("norm", "lm_head")},
    "tokens": {"trainable_tokens": {EMBEDDING: (3, 5), HEAD: (3, 5)}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_module_keeps_what_is_promised_of_it(kind: str, tmp_path: Any) -> None:
    """Disabled it computes as its base; what it saves comes back; what it trains is among what it saves."""
    model = ours(tiny_llama(0, {"attention_bias": True}), tmp_path)
    texts = documents([9, 20])
    with torch.no_grad():
        before = packed_logits(model, texts)
    adapter = inject(model, LoraSpec(**({"rank": 4, "alpha": 8.0} | KINDS[kind])))
    modules = [part for _, part in adapter.modules]
    met = {
        "embedding": LoraEmbedding,
        "biases": TrainedBias,
        "saved": SavedModule,
        "tokens": (TokenEmbedding, TokenHead),
    }
    assert kind not in met or any(isinstance(part, met[kind]) for part in modules)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        changed = packed_logits(model, texts)
        assert not torch.equal(changed, before)
        saved = [{name: tensor.clone() for name, tensor in part.tensors().items()} for part in modules]
        for part, tensors in zip(modules, saved, strict=True):
            assert part.trained().keys() <= tensors.keys()
            for tensor in part.trained().values():
                tensor.zero_()
        for part, tensors in zip(modules, saved, strict=True):
            part.load(tensors)
        assert torch.equal(packed_logits(model, texts), changed)
        for part in modules:
            part.enabled = False
        assert torch.equal(packed_logits(model, texts), before)


def test_tensors_are_copied_into_their_place_and_others_are_not_looked_at() -> None:
    own = {"a": torch.zeros(2), "b": torch.zeros(3)}
    places = {name: tensor.data_ptr() for name, tensor in own.items()}
    copy_tensors(own, {"a": torch.ones(2), "b": torch.full((3,), 2.0), "c": torch.ones(9)})
    assert {name: tensor.tolist() for name, tensor in own.items()} == {"a": [1.0] * 2, "b": [2.0] * 3}
    assert {name: tensor.data_ptr() for name, tensor in own.items()} == places
    with pytest.raises(KeyError):
        copy_tensors(own, {"a": torch.ones(2)})
