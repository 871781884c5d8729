"""Loading holds weights as asked, and refuses what does not fit with every reason at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.models.damaged_checkpoints import Watched, linears, retensor, rewrite
from helpers.models.tiny_models import documents, largest_difference, packed_logits, saved, their_logits, tiny_llama
from veneer.config import QuantSection
from veneer.errors import ConfigError, ModelError
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.leaves import DenseLinear
from veneer.quant.four_bit import QuantLinear
from veneer.quant.schemes import pack


def test_frozen_weights_are_in_the_compute_dtype_and_still(tmp_path: Path) -> None:
    theirs = tiny_llama(changes={"attention_bias": True})
    checkpoint = saved(theirs, tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        model = load_model(checkpoint, Loading(dtype=dtype))
        assert model.dtype == dtype
        state = theirs.state_dict()
        for name, parameter in model.named_parameters():
            assert not parameter.requires_grad
            assert torch.equal(parameter, state[name].to(dtype))
        assert {name for name, _ in model.named_parameters()} == set(state)


def test_trainable_weights_are_float32_whatever_is_computed_in(tmp_path: Path) -> None:
    theirs = tiny_llama()
    model = load_model(saved(theirs, tmp_path), Loading(form=WeightForm.TRAINABLE, dtype=torch.bfloat16))
    assert model.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())
    assert all(torch.equal(p, theirs.state_dict()[name]) for name, p in model.named_parameters())
    assert packed_logits(model, documents([4])).dtype == torch.bfloat16


SCHEMES: dict[str, dict[str, Any]] = {
    "default": {},
    "plain": {"block": 32, "double_quant": False},
    "fp4": {"scheme": "fp4", "block": 128},
    "int8": {"scheme": "int8"},
    "skipping": {"skip_modules": ("down_proj", "model.layers.1.self_attn.q_proj", "lm_head")},
}


@pytest.mark.parametrize("settings", SCHEMES.values(), ids=SCHEMES)
def test_quantised_layers_are_those_of_the_weight_and_nothing_else_is(settings: dict[str, Any], tmp_path: Path) -> None:
    theirs = tiny_llama(changes={"attention_bias": True})
    checkpoint = saved(theirs, tmp_path)
    quant = QuantSection.model_validate(settings)
    model = load_model(checkpoint, Loading(form=WeightForm.QUANTIZED, dtype=torch.bfloat16, quant=quant))
    assert len(linears(model)) == 2 * 7
    dense = {name for name, layer in linears(model).items() if isinstance(layer, DenseLinear)}
    kept = ("down_proj", "model.layers.1.self_attn.q_proj") if quant.skip_modules else ()
    assert dense == {name for name in linears(model) if name.endswith(kept) and kept}
    for name, layer in linears(model).items():
        weight = checkpoint.read(f"{name}.weight", torch.bfloat16)
        reference = pack(weight, None, quant)
        expected = weight.float() if name in dense else reference.dequantize(torch.float32)
        assert name in dense or type(layer) is type(reference)
        assert torch.equal(layer.dequantize(torch.float32), expected)  # type: ignore[operator]
        bias = layer.bias
        assert (bias is None) == (".mlp." in name)
        assert bias is None or torch.equal(bias, theirs.state_dict()[f"{name}.bias"].bfloat16())  # type: ignore[arg-type]
    rest = {name: p for name, p in model.named_parameters() if name.rpartition(".")[0] not in dense}
    assert set(rest) == {name for name in theirs.state_dict() if "norm" in name or "embed" in name or "head" in name}
    assert all(p.dtype == torch.bfloat16 and not p.requires_grad for p in rest.values())


def test_layers_to_skip_that_there_are_not_are_all_named(tmp_path: Path) -> None:
    checkpoint = Watched(saved(tiny_llama(), tmp_path))
    quant = QuantSection(skip_modules=("dwn_proj", "v_proj", "layers.7"))
    with pytest.raises(ConfigError, match=r"(?s)'dwn_proj' \(did you mean 'down_proj'\?\).*'layers.7'") as caught:
        load_model(checkpoint, Loading(form=WeightForm.QUANTIZED, quant=quant))
    assert "'v_proj'" not in str(caught.value)
    assert checkpoint.reads == []


def test_a_quantised_model_is_the_model_of_its_decoded_weights(tmp_path: Path) -> None:
    theirs = tiny_llama()
    model = load_model(saved(theirs, tmp_path), Loading(form=WeightForm.QUANTIZED, dtype=torch.float32))
    for name, layer in linears(model).items():
        assert isinstance(layer, QuantLinear)
        theirs.get_submodule(name).weight.data = layer.dequantize(torch.float32)  # type: ignore[union-attr]
    texts = documents([9, 14])
    with torch.no_grad():
        assert largest_difference(packed_logits(model, texts), their_logits(theirs, texts)) < 1e-4


def test_layers_are_quantised_from_the_dtype_that_is_asked_for_and_all_else_is_in_the_compute_dtype(
    tmp_path: Path,
) -> None:
    checkpoint = saved(tiny_llama(changes={"attention_bias": True}), tmp_path)
    asked: dict[str, Any] = {"form": WeightForm.QUANTIZED, "quant": QuantSection(skip_modules=("down_proj",))}
    trained = linears(load_model(checkpoint, Loading(dtype=torch.bfloat16, **asked)))
    exact = linears(load_model(checkpoint, Loading(dtype=torch.float32, **asked)))
    model = load_model(checkpoint, Loading(dtype=torch.float32, quantised_from=torch.bfloat16, **asked))
    differ = 0
    for name, layer in linears(model).items():
        if isinstance(layer, QuantLinear):
            held = layer.dequantize(torch.float32)
            assert torch.equal(held, trained[name].dequantize(torch.float32))  # type: ignore[operator]
            differ += not torch.equal(held, exact[name].dequantize(torch.float32))  # type: ignore[operator]
        else:
            assert torch.equal(layer.weight.float(), checkpoint.read(f"{name}.weight", torch.float32))  # type: ignore[operator]
        if layer.bias is not None:
            assert torch.equal(layer.bias, checkpoint.read(f"{name}.bias", torch.float32))  # type: ignore[arg-type]
    assert differ
    embedding = "model.embed_tokens.weight"
    assert torch.equal(model.get_parameter(embedding), checkpoint.read(embedding, torch.float32))


def test_a_tied_head_is_the_embedding(tmp_path: Path) -> None:
    model = load_model(
        saved(tiny_llama(changes={"tie_word_embeddings": True}), tmp_path), Loading(form=WeightForm.TRAINABLE)
    )
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head.weight" not in dict(model.named_parameters())


def test_an_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    saved(tiny_llama(), tmp_path)
    with pytest.raises(ModelError, match=r"'gpt_neox'.*supported: .*llama"):
        load_model(rewrite(tmp_path, model_type="gpt_neox"))


def test_a_weight_that_cannot_be_quantised_is_refused(tmp_path: Path) -> None:
    saved(tiny_llama(), tmp_path)
    broken = torch.zeros(64, 64)
    broken[3, 5] = float("nan")
    checkpoint = retensor(tmp_path, {"model.layers.1.self_attn.o_proj.weight": broken})
    with pytest.raises(ModelError, match=r"1 of the 4,096 values of model\.layers\.1\.self_attn\.o_proj\.weight"):
        load_model(checkpoint, Loading(form=WeightForm.QUANTIZED))
