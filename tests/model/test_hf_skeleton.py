from __future__ import annotations

import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from helpers.models.hf_models import OTHERS, SHAPES, tiny_hf
from veneer.errors import ModelError
from veneer.model.hf_skeleton import find_linears, make_skeleton

KINDS = [*SHAPES, *OTHERS]


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_those_of_the_model_and_no_large_weight_takes_memory(kind: str) -> None:
    theirs = tiny_hf(kind)
    skeleton = make_skeleton(theirs.config.to_dict(), torch.float32)
    tables = [parameter for name, parameter in skeleton.module.named_parameters() if parameter.ndim > 1]
    # Norms, and what state-space layers begin with, are filled with numbers; they are small.
    filled = [parameter.numel() for parameter in tables if parameter.device.type != "meta"]
    assert sum(filled) < 0.02 * sum(parameter.numel() for parameter in tables)
    spec = skeleton.spec
    assert spec.weights == sum(parameter.numel() for parameter in theirs.parameters())
    assert spec.vocab_size == theirs.get_input_embeddings().weight.shape[0]
    assert spec.tied_head is (theirs.get_output_embeddings().weight is theirs.get_input_embeddings().weight)
    assert theirs.get_submodule(spec.head) is theirs.get_output_embeddings()
    head_is_decoder = kind == "modernbert-decoder"
    assert theirs.get_submodule(spec.base) is (theirs.base_model if head_is_decoder else theirs.get_decoder())
    elements = 0
    for linear in spec.linears:
        layer = theirs.get_submodule(linear.path)
        weight = layer.get_parameter("weight")
        shape = (linear.inputs, linear.outputs) if linear.transposed else (linear.outputs, linear.inputs)
        assert tuple(weight.shape) == shape
        assert (layer.bias is not None) is linear.bias
        elements += weight.numel()
    assert spec.others == spec.weights - elements


def test_a_class_whose_configuration_has_no_width_of_its_own_is_refused() -> None:
    small = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": 96, "model_type": "persimmon"}
    with pytest.raises(ModelError, match="FuyuForCausalLM has no embedding, head and body of the kind"):
        make_skeleton({"model_type": "fuyu", "text_config": text, "patch_size": 2}, torch.float32)


@pytest.mark.parametrize(
    ("kind", "changes", "context"),
    [
        ("gpt_neox", {"max_position_embeddings": 48}, 48),
        ("gpt2", {"n_positions": 48, "n_ctx": 24}, 48),
        ("mpt", {"max_seq_len": 48}, 48),
        ("bloom", {"seq_length": 48}, 48),
        ("mamba", {}, 2**20),
        ("roberta", {"max_position_embeddings": 48, "pad_token_id": 3}, 44),
        ("camembert", {"max_position_embeddings": 48, "pad_token_id": 1}, 46),
    ],
)
def test_the_context_is_read_under_every_name_that_configurations_have_for_it(
    kind: str, changes: dict[str, int], context: int
) -> None:
    config = tiny_hf(kind).config.to_dict() | changes
    assert make_skeleton(config, torch.float32).spec.max_positions == context


@pytest.mark.parametrize("kind", ["gpt_neox", "falcon", "phi", "llama", "opt"])
def test_linear_layers_are_those_that_peft_means_by_all_linear(kind: str) -> None:
    theirs = tiny_hf(kind)
    config = theirs.config.to_dict()
    adapted = get_peft_model(theirs, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    names = [name.removeprefix("base_model.model.") for name in adapted.state_dict() if ".lora_A." in name]
    expected = {name.partition(".lora_A.")[0] for name in names}
    assert {linear.path for linear in make_skeleton(config, torch.float32).spec.adaptable} == expected


def test_a_layer_that_derives_from_linear_counts_if_it_computes_the_same() -> None:
    class Same(nn.Linear):
        pass

    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    class Routed(nn.Linear):
        def forward(self, x: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * scores

    layers = {"same": Same(4, 3), "doubled": Doubled(4, 3), "routed": Routed(4, 3), "head": nn.Linear(4, 9)}
    assert [linear.path for linear in find_linears(nn.ModuleDict(layers), "head")] == ["same"]


def test_dropout_is_left_out_and_numbers_that_json_lacks_are_read() -> None:
    config = tiny_hf("gpt2").config.to_dict() | {"attn_pdrop": 0.3, "resid_pdrop": 0.2, "embd_pdrop": 0.1}
    module = make_skeleton(config, torch.float32).module
    assert {part.p for part in module.modules() if isinstance(part, nn.Dropout)} == {0.0}
    config = tiny_hf("gpt_neox").config.to_dict() | {"limits": [0.0, {"__float__": "Infinity"}]}
    assert make_skeleton(config, torch.float32).module.config.limits == [0.0, float("inf")]


def test_an_architecture_that_nobody_knows_is_refused_and_code_of_a_repository_is_never_run() -> None:
    with pytest.raises(ModelError, match="'nonesuch' is known neither to veneer's own decoder nor to transformers"):
        make_skeleton({"model_type": "nonesuch"}, torch.float32)
    with pytest.raises(ModelError, match=r"auto_map\), but veneer never runs such code; trust_remote_code is never"):
        make_skeleton({"model_type": "nonesuch", "auto_map": {"AutoConfig": "code.Config"}}, torch.float32)
    with pytest.raises(ModelError, match="'clip' is not a causal language model"):
        make_skeleton({"model_type": "clip"}, torch.float32)


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"model_type 'gpt2' .* not installed: pip install 'veneer\[hf\]'"):
        make_skeleton({"model_type": "gpt2"}, torch.float32)
