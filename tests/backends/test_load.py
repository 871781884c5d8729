from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from helpers.models.hf_models import SHAPES, tiny_hf
from helpers.models.tiny_models import documents, largest_difference, ours, packed_logits, their_logits, tiny_llama
from veneer.backends.load import load_hf, load_language_model
from veneer.enums import Backend, Products
from veneer.errors import AdapterError, ConfigError
from veneer.io.checkpoint import SafetensorsCheckpoint, open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.model.decoder import CausalLM
from veneer.model.hf import HfModel
from veneer.model.leaves import Embedding

TEXTS = documents([5, 19, 1, 30, 7], seed=3)


def packed(texts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    tokens = torch.tensor([token for text in texts for token in text])
    return tokens, torch.cat([torch.arange(len(text)) for text in texts]), [len(text) for text in texts]


@torch.no_grad()
def test_both_who_can_compute_a_llama_compute_the_same(tmp_path: Path) -> None:
    own = ours(tiny_llama(3), tmp_path)
    by = {
        wanted: load_language_model(open_checkpoint(tmp_path), wanted, Loading(dtype=torch.float32))
        for wanted in Backend
    }
    assert isinstance(by[Backend.AUTO], CausalLM)
    assert isinstance(by[Backend.VENEER], CausalLM)
    assert isinstance(by[Backend.HF], HfModel)
    expected = packed_logits(own, TEXTS)
    for model in by.values():
        assert largest_difference(model.logits(model.documents(*packed(TEXTS))), expected) < 1e-4


@pytest.mark.parametrize("kind", SHAPES)
def test_in_bfloat16_weights_and_buffers_are_those_that_transformers_loads(kind: str, tmp_path: Path) -> None:
    tiny_hf(kind).save_pretrained(tmp_path)
    model = load_hf(open_checkpoint(tmp_path), Loading(dtype=torch.bfloat16))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    turned = {f"{line.path}.weight" for line in model.spec.linears if line.transposed}
    own = {}
    for path, module in model.named_modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            own[f"{path}.{name}"] = tensor
    for name, tensor in [*theirs.named_parameters(), *theirs.named_buffers()]:
        found = own[name].t() if name in turned else own[name]
        assert found.dtype == tensor.dtype, name
        assert torch.equal(found, tensor), name


@pytest.mark.parametrize("kind", SHAPES)
@torch.no_grad()
def test_a_quantised_base_is_the_model_with_its_linear_layers_rounded(kind: str, tmp_path: Path) -> None:
    theirs = tiny_hf(kind)
    theirs.save_pretrained(tmp_path)
    model = load_hf(open_checkpoint(tmp_path), Loading(form=WeightForm.QUANTIZED, dtype=torch.float32))
    for line in model.spec.linears:
        weight = model.get_submodule(line.path).dequantize(torch.float32)  # type: ignore[operator]
        own = theirs.get_submodule(line.path).get_parameter("weight")
        change = largest_difference(weight, own.t() if line.transposed else own)
        assert 0.0 < change < 0.2
        own.copy_(weight.t() if line.transposed else weight)
    found = model.logits(model.documents(*packed(TEXTS)))
    assert largest_difference(found, their_logits(theirs, TEXTS)) < 2e-5


class Watched(SafetensorsCheckpoint):
    """Notes how many bytes of matrices that it has handed out are held at each reading."""

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        tensor = super().read(name, dtype)
        self.alive = [*vars(self).get("alive", []), weakref.ref(tensor)]
        living = [reference() for reference in self.alive]
        self.most = max(
            vars(self).get("most", 0), sum(one.nbytes for one in living if one is not None and one.ndim == 2)
        )
        return tensor


@pytest.mark.parametrize("kind", SHAPES)
def test_a_quantised_base_is_never_held_in_full_precision(kind: str, tmp_path: Path) -> None:
    theirs = tiny_hf(kind, changes={"num_hidden_layers": 6, "n_layer": 6})
    theirs.save_pretrained(tmp_path)
    watched = Watched(tmp_path)
    model = load_hf(watched, Loading(form=WeightForm.QUANTIZED, dtype=torch.float32))
    largest = max(4 * line.inputs * line.outputs for line in model.spec.linears)
    inputs, outputs = theirs.get_input_embeddings(), theirs.get_output_embeddings()
    tables = inputs.weight.nbytes + (0 if outputs.weight is inputs.weight else outputs.weight.nbytes)
    # Learned positions and routers stay; beside them one layer at a time, and its parts for an expert.
    rest = sum(p.nbytes for name, p in theirs.named_parameters() if "wpe" in name or "gate.weight" in name)
    experts = 3 * 8 * 48 * 64 * 4 if kind == "deepseek_v3" else 0
    assert watched.most <= tables + rest + 2 * largest + experts
    assert watched.most < sum(p.nbytes for p in theirs.parameters()) / 2


def test_what_the_own_decoder_alone_does_is_refused(tmp_path: Path) -> None:
    tiny_hf("gpt2").save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(ConfigError, match="method full works only with veneer's own decoder"):
        load_language_model(checkpoint, how=Loading(form=WeightForm.TRAINABLE))
    with pytest.raises(ConfigError, match=r"compute\.products int8 works only with veneer's own decoder"):
        load_language_model(checkpoint, how=Loading(products=Products.INT8))
    model = load_language_model(checkpoint, Backend.AUTO)
    with pytest.raises(AdapterError, match="the vocabulary cannot be changed"):
        model.set_embeddings(Embedding(torch.nn.Parameter(torch.zeros(99, 64))), model.lm_head, 99)
