"""Which layers carry an adapter, and what is refused with every reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tiny_models import documents, ours, packed_logits, tiny_llama
from veneer.adapters.adapter import Adapter, remove
from veneer.adapters.inject import inject, linear_paths
from veneer.adapters.linear import LoraLinear
from veneer.adapters.spec import DECOMPOSING, LoraSpec
from veneer.adapters.targets import resolve_targets
from veneer.enums import Init
from veneer.errors import AdapterError
from veneer.load import WeightForm
from veneer.model.decoder import CausalLM

LEAVES = [
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
]
PATHS = [f"model.layers.{layer}.{leaf}" for layer in range(2) for leaf in LEAVES]


@pytest.fixture
def model(tmp_path: Path) -> CausalLM:
    return ours(tiny_llama(), tmp_path)


def test_the_layers_of_a_model_in_its_order(model: CausalLM) -> None:
    assert linear_paths(model) == PATHS


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("all-linear", PATHS),
        (["q_proj"], [p for p in PATHS if p.endswith("q_proj")]),
        (["down_proj", "k_proj"], [p for p in PATHS if p.endswith(("k_proj", "down_proj"))]),
        (["self_attn.q_proj", "mlp.up_proj"], [p for p in PATHS if p.endswith(("q_proj", "up_proj"))]),
        (["layers.1.mlp.up_proj"], ["model.layers.1.mlp.up_proj"]),
        (["model.layers.0.self_attn.v_proj"], ["model.layers.0.self_attn.v_proj"]),
        (["q_proj", "self_attn.q_proj", "q_proj"], [p for p in PATHS if p.endswith("q_proj")]),
        (r".*\.(q|v)_proj", [p for p in PATHS if p.endswith(("q_proj", "v_proj"))]),
        (r"model\.layers\.1\..*", [p for p in PATHS if ".1." in p]),
        (r".*_proj", PATHS),
        (r".*", ["model.embed_tokens", *PATHS, "lm_head"]),
        (["lm_head", "v_proj", "embed_tokens"], ["model.embed_tokens", *PATHS[2::7], "lm_head"]),
    ],
)
def test_targets(targets: str | list[str], expected: list[str]) -> None:
    assert resolve_targets(PATHS, targets) == expected


def test_an_expression_must_match_the_whole_path() -> None:
    with pytest.raises(AdapterError) as caught:
        resolve_targets(PATHS, "q_proj")
    for words in ("'q_proj'", "model.layers.0.self_attn.q_proj", "gate_proj"):
        assert words in str(caught.value)
    with pytest.raises(AdapterError, match="not a regular expression"):
        resolve_targets(PATHS, "(q_proj")


def test_names_that_match_nothing_are_all_listed_with_the_nearest() -> None:
    with pytest.raises(AdapterError) as caught:
        resolve_targets(PATHS, ["q_proj", "k_prj", "c_attn", "proj", "head"])
    message = str(caught.value)
    assert "'k_prj' (did you mean 'k_proj'?)" in message
    assert "'c_attn'" in message
    assert "'proj'" in message
    assert "'head'" in message
    assert "  - 'q_proj'" not in message
    with pytest.raises(AdapterError, match="It has: down_proj, embed_tokens, gate_proj"):
        resolve_targets(PATHS, [])


@pytest.mark.parametrize("form", [WeightForm.FROZEN, WeightForm.QUANTIZED, WeightForm.TRAINABLE])
def test_only_the_adapter_is_trainable(form: WeightForm, tmp_path: Path) -> None:
    model = ours(tiny_llama(), tmp_path, form=form)
    adapter = inject(model, LoraSpec(rank=3, alpha=6, target_modules=("v_proj", "up_proj")))
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {id(p) for p in trainable} == {id(p) for p in adapter.parameters()}
    assert len(trainable) == 8
    for path, layer in adapter.layers.items():
        assert model.get_submodule(path) is layer
        assert layer.scale == 2.0
        assert layer.lora_A.shape == (3, layer.in_features)
        assert layer.lora_B.shape == (layer.out_features, 3)
    assert list(adapter.tensors()) == [
        f"{path}.lora_{part}.weight" for path in PATHS if path.endswith(("v_proj", "up_proj")) for part in "AB"
    ]


@pytest.mark.parametrize("training", [True, False])
def test_the_adapter_takes_the_mode_of_the_model(training: bool, model: CausalLM) -> None:
    """An adapter that is put on a model in evaluation mode must not drop anything."""
    model.train(training)
    adapter = randomised(inject(model, LoraSpec(rank=4, alpha=8, dropout=0.5)))
    assert all(layer.training == training for layer in adapter.layers.values())
    repeated = [packed_logits(model, documents([6])) for _ in range(2)]
    assert torch.equal(*repeated) != training


@pytest.mark.parametrize("init", DECOMPOSING)
def test_a_rank_beyond_what_a_start_can_give_names_the_layers_and_changes_nothing(init: Init, model: CausalLM) -> None:
    with pytest.raises(AdapterError) as caught:
        inject(model, LoraSpec(rank=33, alpha=1, init=init))
    message = str(caught.value)
    assert f"init {init.value}" in message
    assert "rank 33" in message
    assert "model.layers.0.self_attn.k_proj: at most 32" in message
    assert message.count("at most 32") == 4
    assert "q_proj" not in message
    assert not any(isinstance(module, LoraLinear) for module in model.modules())


def test_a_start_that_is_drawn_may_have_a_rank_beyond_a_layers_smaller_side(model: CausalLM) -> None:
    assert len(inject(model, LoraSpec(rank=200, alpha=1)).layers) == 14


def test_a_second_adapter_is_refused_and_the_first_stays(model: CausalLM) -> None:
    adapter = inject(model, LoraSpec(rank=2, alpha=2))
    before = packed_logits(model, documents([5]))
    with pytest.raises(AdapterError, match="carries an adapter already"):
        inject(model, LoraSpec(rank=4, alpha=2))
    assert torch.equal(packed_logits(model, documents([5])), before)
    assert all(parameter.requires_grad for parameter in adapter.parameters())


def test_a_removed_adapter_leaves_the_base(model: CausalLM) -> None:
    with torch.no_grad():
        before = packed_logits(model, documents([5]))
        adapter = randomised(inject(model, LoraSpec(rank=2, alpha=2)))
        assert not torch.equal(packed_logits(model, documents([5])), before)
        remove(model, adapter)
        assert torch.equal(packed_logits(model, documents([5])), before)
    assert not any(isinstance(module, LoraLinear) for module in model.modules())


def randomised(adapter: Adapter, seed: int = 0) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter.parameters():
        parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return adapter


def test_disabled_the_model_is_its_base(model: CausalLM) -> None:
    texts = documents([8, 3])
    with torch.no_grad():
        base = packed_logits(model, texts)
        adapter = randomised(inject(model, LoraSpec(rank=4, alpha=8)))
        with_adapter = packed_logits(model, texts)
        assert not torch.equal(with_adapter, base)
        with adapter.disabled():
            assert torch.equal(packed_logits(model, texts), base)
            with adapter.disabled():
                assert torch.equal(packed_logits(model, texts), base)
            assert torch.equal(packed_logits(model, texts), base)
        assert torch.equal(packed_logits(model, texts), with_adapter)
        with pytest.raises(ZeroDivisionError), adapter.disabled():
            _ = 1 / 0
        assert torch.equal(packed_logits(model, texts), with_adapter)


def changed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor + 1 for name, tensor in tensors.items()}


def test_loaded_weights_are_the_ones_that_are_used(model: CausalLM) -> None:
    adapter = inject(model, LoraSpec(rank=4, alpha=8))
    wanted = changed(adapter.tensors())
    held = adapter.parameters()
    adapter.load(wanted)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in adapter.tensors().items())
    assert all(a is b for a, b in zip(held, adapter.parameters(), strict=True))
    wanted["model.layers.0.self_attn.q_proj.lora_A.weight"].zero_()
    assert adapter.parameters()[0].any()  # copied, not shared


def test_weights_that_do_not_fit_are_all_listed_and_nothing_is_changed(model: CausalLM) -> None:
    adapter = inject(model, LoraSpec(rank=4, alpha=8))
    before = {name: tensor.clone() for name, tensor in adapter.tensors().items()}
    tensors = changed(before)
    path = "model.layers.1.mlp.down_proj"
    del tensors["model.layers.0.self_attn.q_proj.lora_B.weight"]
    tensors[f"{path}.lora_A.weight"] = torch.zeros(5, 112)
    tensors[f"{path}.lora_B.weight"] = torch.full((64, 4), float("inf"))
    tensors["model.layers.0.self_attn.k_proj.lora_A.weight"][1, 2] = float("nan")
    tensors["model.layers.7.self_attn.k_proj.lora_A.weight"] = torch.zeros(4, 64)
    with pytest.raises(AdapterError) as caught:
        adapter.load(tensors)
    lines = [line.strip(" -") for line in str(caught.value).splitlines() if line.startswith("  - ")]
    assert lines == [
        "model.layers.0.self_attn.k_proj.lora_A.weight: holds NaN or infinite values",
        "model.layers.0.self_attn.q_proj.lora_B.weight: missing from the file",
        f"{path}.lora_A.weight: shape [5, 112], the model needs [4, 112]",
        f"{path}.lora_B.weight: holds NaN or infinite values",
        "model.layers.7.self_attn.k_proj.lora_A.weight: no such layer in the model",
    ]
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter.tensors().items())
