"""An adapter starts as PEFT's would; starts that PEFT takes out of the base leave it as it is here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from helpers.models.tiny_models import (
    documents,
    largest_difference,
    ours,
    packed_logits,
    saved,
    their_logits,
    tiny_llama,
)
from helpers.tensors import assert_same_tensors
from veneer.adapters.adapter import Adapter
from veneer.adapters.files.store import read_tensors, save_adapter
from veneer.adapters.init import TargetLayer, kaiming, pissa, pissa_fast
from veneer.adapters.inject import InitSources, inject
from veneer.adapters.layers.linear import LoraLinear
from veneer.adapters.load import load_adapter
from veneer.adapters.spec import LoraSpec
from veneer.enums import Init, Scaling
from veneer.errors import AdapterError
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_a_equals_peft_bit_for_bit(seed: int, targets: str | list[str], tmp_path: Path) -> None:
    theirs = tiny_llama()
    model = ours(theirs, tmp_path)
    torch.manual_seed(seed)
    reference = peft.get_peft_model(theirs, peft.LoraConfig(r=8, lora_alpha=16, target_modules=targets))
    chosen = targets if isinstance(targets, str) else tuple(targets)
    adapter = inject(model, LoraSpec(rank=8, alpha=16, target_modules=chosen), seed=seed)
    state = reference.state_dict()
    assert len(adapter.outermost) == (14 if targets == "all-linear" else 4)
    assert sum("lora_A" in name for name in state) == len(adapter.outermost)
    for path, layer in adapter.outermost.items():
        assert torch.equal(layer.lora_A, state[f"base_model.model.{path}.lora_A.default.weight"])
        assert torch.equal(layer.lora_B, state[f"base_model.model.{path}.lora_B.default.weight"])


@pytest.mark.parametrize("form", [WeightForm.FROZEN, WeightForm.QUANTIZED])
def test_the_start_depends_on_the_seed_alone(form: WeightForm, tmp_path: Path) -> None:
    starts = []
    for dtype in (torch.float32, torch.bfloat16):
        model = ours(tiny_llama(), tmp_path, form=form, dtype=dtype)
        torch.manual_seed(int(dtype == torch.float32))
        before = torch.random.get_rng_state()
        adapter = inject(model, LoraSpec(rank=4, alpha=4), seed=9)
        starts.append(adapter.tensors())
        assert all(tensor.dtype == torch.float32 for tensor in adapter.tensors().values())
        assert torch.equal(torch.random.get_rng_state(), before)
    assert_same_tensors(starts[0], starts[1])
    another = inject(ours(tiny_llama(), tmp_path), LoraSpec(rank=4, alpha=4), seed=10).tensors()
    assert not any(torch.equal(another[name], starts[0][name]) for name in another if "lora_A" in name)


def layer(in_features: int, out_features: int, rank: int) -> TargetLayer:
    return TargetLayer(
        path="model.layers.0.mlp.up_proj",
        in_features=in_features,
        out_features=out_features,
        rank=rank,
        scale=2.0,
        generator=torch.Generator().manual_seed(0),
        weight=lambda: torch.randn(out_features, in_features, generator=torch.Generator().manual_seed(1)),
    )


def test_a_is_uniform_within_its_bound_and_b_is_zero() -> None:
    start = kaiming(layer(400, 30, 50))
    a, b = start.a, start.b
    bound = 400**-0.5
    assert (a.shape, b.shape) == ((50, 400), (30, 50))
    assert float(a.abs().max()) <= bound
    assert float(a.std()) == pytest.approx(bound / 3**0.5, rel=0.02)
    assert abs(float(a.mean())) < 4 * bound / 3**0.5 / 20_000**0.5
    assert not b.any()


STARTS = {
    Init.GAUSSIAN: "gaussian",
    Init.ORTHOGONAL: "orthogonal",
    Init.PISSA: "pissa",
    Init.OLORA: "olora",
}


def both(init: Init, tmp_path: Path, **settings: Any) -> tuple[peft.PeftModel, CausalLM, Adapter]:
    """PEFT's adapter and ours, from the same seed over the same weights."""
    base, model = tiny_llama(), ours(tiny_llama(), tmp_path)
    torch.manual_seed(4)
    chosen = ["q_proj", "down_proj"]
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=chosen, init_lora_weights=STARTS[init], **settings)
    theirs = peft.get_peft_model(base, config)
    return (
        theirs.eval(),
        model,
        inject(model, LoraSpec(rank=4, alpha=6, target_modules=tuple(chosen), init=init), seed=4),
    )


@pytest.mark.parametrize("init", [Init.GAUSSIAN, Init.ORTHOGONAL])
def test_random_starts_are_those_of_peft_bit_for_bit(init: Init, tmp_path: Path) -> None:
    theirs, _, adapter = both(init, tmp_path)
    parameters = dict(theirs.named_parameters())
    for path, part in adapter.modules:
        for name, tensor in part.tensors().items():
            wanted = parameters[f"base_model.model.{path}.{name.replace('.weight', '.default.weight')}"]
            assert torch.equal(tensor, wanted), f"{path}.{name}"


@pytest.mark.parametrize("init", [Init.PISSA, Init.OLORA])
def test_starts_from_the_weight_are_those_of_peft(init: Init, tmp_path: Path) -> None:
    theirs, model, adapter = both(init, tmp_path)
    parameters = dict(theirs.named_parameters())
    texts = documents([13, 6])
    for path, part in adapter.modules:
        assert isinstance(part, LoraLinear)
        a, b = (parameters[f"base_model.model.{path}.lora_{which}.default.weight"] for which in "AB")
        # A decomposition's vectors have a sign of their own, which their product has not.
        assert largest_difference(part.lora_B @ part.lora_A, b @ a) < 1e-5
        signs = torch.sign((part.lora_A * a).sum(1))
        assert largest_difference(part.lora_A * signs[:, None], a) < 1e-4
        with torch.no_grad():
            part.lora_A.copy_(a)
            part.lora_B.copy_(b)
            for parameter, other in ((part.lora_A, a), (part.lora_B, b)):
                change = 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(path)))
                parameter.add_(change)
                other.add_(change)
    with torch.no_grad():
        assert largest_difference(packed_logits(model, texts), their_logits(theirs, texts)) < 1e-5


@pytest.mark.parametrize("init", [Init.PISSA, Init.PISSA_FAST, Init.OLORA])
@pytest.mark.parametrize("form", [WeightForm.FROZEN, WeightForm.QUANTIZED])
def test_a_model_starts_as_its_base_and_is_saved_as_a_plain_adapter_of_it(
    init: Init, form: WeightForm, tmp_path: Path
) -> None:
    texts = documents([13, 6])
    model = ours(tiny_llama(), tmp_path / "base", form=form)
    with torch.no_grad():
        base = packed_logits(model, texts)
    adapter = inject(model, LoraSpec(rank=4, alpha=6, scaling=Scaling.RSLORA, rank_pattern={"q_proj": 2}, init=init))
    with torch.no_grad():
        assert largest_difference(packed_logits(model, texts), base) < 1e-5
        for index, parameter in enumerate(adapter.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_adapter(folder, adapter, base="base")
    again = ours(tiny_llama(), tmp_path / "again", form=form)
    plain = load_adapter(again, folder)
    assert (plain.spec.init, plain.spec.rank, plain.spec.scaling) == (Init.KAIMING, 8, Scaling.STANDARD)
    with torch.no_grad():
        expected = packed_logits(model, texts)
        assert largest_difference(packed_logits(again, texts), expected) < 1e-5
        assert largest_difference(expected, base) > 0.1
        if form is WeightForm.FROZEN:
            theirs = peft.PeftModel.from_pretrained(tiny_llama(), folder).eval()
            assert largest_difference(their_logits(theirs, texts), expected) < 1e-5
    # And a run that goes on with it finds its own halves again.
    resumed = ours(tiny_llama(), tmp_path / "resumed", form=form)
    halves = inject(
        resumed, LoraSpec(rank=4, alpha=6, scaling=Scaling.RSLORA, rank_pattern={"q_proj": 2}, init=init), seed=9
    )
    halves.load(read_tensors(folder))
    with torch.no_grad():
        assert torch.equal(packed_logits(resumed, texts), expected)
    assert all(torch.equal(a, b) for a, b in zip(halves.parameters(), adapter.parameters(), strict=True))


def test_the_fast_decomposition_finds_the_same_subspace() -> None:
    """Of a weight whose singular values fall as those of trained ones do; a flat spectrum has no largest ones."""
    left, _, right = torch.linalg.svd(layer(96, 80, 8).weight(), full_matrices=False)
    weight = left @ torch.diag(1.0 / torch.arange(1, 81) ** 0.7) @ right
    exact, fast = (start(replace(layer(96, 80, 8), weight=lambda: weight)) for start in (pissa, pissa_fast))
    best = torch.linalg.matrix_norm(weight - 2.0 * exact.b @ exact.a)
    assert float(torch.linalg.matrix_norm(weight - 2.0 * fast.b @ fast.a) / best) < 1 + 1e-5
    assert largest_difference(fast.b @ fast.a, exact.b @ exact.a) < 1e-3


@pytest.mark.parametrize("alpha", [4.0, 16.0])
def test_loftq_brings_the_quantised_weight_nearer_to_the_original_whatever_the_scale(
    alpha: float, tmp_path: Path
) -> None:
    checkpoint = saved(tiny_llama(), tmp_path)
    model = load_model(checkpoint, Loading(form=WeightForm.QUANTIZED, dtype=torch.float32))
    sources = InitSources(original=lambda name: checkpoint.read(name, torch.float32))
    adapter = inject(model, LoraSpec(rank=8, alpha=alpha, init=Init.LOFTQ), sources=sources)
    for path, part in adapter.modules:
        assert isinstance(part, LoraLinear)
        original = checkpoint.read(f"{path}.weight", torch.float32)
        lost = original - part.base.dequantize(torch.float32)
        values = torch.linalg.svdvals(lost.double())
        left = torch.linalg.matrix_norm((lost - part.delta().detach()).double())
        # Eckart and Young: what the best update of rank 8 leaves.
        assert float(left) == pytest.approx(float(values[8:].square().sum().sqrt()), rel=1e-4)


def test_loftq_over_a_base_that_is_not_quantised_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="not quantised"):
        inject(ours(tiny_llama(), tmp_path), LoraSpec(rank=4, alpha=4, init=Init.LOFTQ), sources=InitSources())
