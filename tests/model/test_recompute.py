"""What is made again in backward is what was there: values, gradients, dropout masks; and it is not kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.models.tiny_models import documents, ours, packed_hidden, tiny_llama
from helpers.tensors import assert_same_tensors
from veneer.adapters.adapter import Adapter
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.loading.forms import WeightForm
from veneer.model.decoder import CausalLM
from veneer.model.recompute import Recomputation, recomputed_in_backward

TEXTS = documents([7, 20, 3], seed=4)


def adapted(
    path: Path, form: WeightForm, dropout: float, dtype: torch.dtype = torch.float32
) -> tuple[CausalLM, Adapter]:
    model = ours(tiny_llama(1), path, form=form, dtype=dtype).train()
    adapter = inject(model, LoraSpec(rank=4, alpha=8.0, dropout=dropout), seed=1)
    generator = torch.Generator().manual_seed(2)
    for layer in adapter.outermost.values():
        layer.lora_B.data.copy_(0.05 * torch.randn(layer.lora_B.shape, generator=generator))
    return model, adapter


def gradients(model: CausalLM, adapter: Adapter, recomputation: Recomputation | None) -> tuple[Tensor, list[Tensor]]:
    model.model.recomputation = recomputation
    adapter.generator.manual_seed(11)
    hidden = packed_hidden(model, TEXTS)
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3)).to(hidden.dtype)
    return hidden.detach(), list(torch.autograd.grad((hidden * weights).sum(), adapter.parameters()))


def backward(model: CausalLM, adapter: Adapter, recomputation: Recomputation | None) -> tuple[Tensor, list[Tensor]]:
    """As `gradients`, through `.grad`: recomputed layers fill it themselves."""
    model.model.recomputation = recomputation
    adapter.generator.manual_seed(11)
    hidden = packed_hidden(model, TEXTS)
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3)).to(hidden.dtype)
    for parameter in adapter.parameters():
        parameter.grad = None
    (hidden * weights).sum().backward()
    return hidden.detach(), [parameter.grad for parameter in adapter.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("form", [WeightForm.FROZEN, WeightForm.QUANTIZED])
def test_recomputing_layers_changes_no_bit(
    tmp_path: Path, form: WeightForm, dropout: float, dtype: torch.dtype
) -> None:
    model, adapter = adapted(tmp_path, form, dropout, dtype)
    kept = gradients(model, adapter, None)
    again = backward(model, adapter, Recomputation(adapter.generator))
    assert torch.equal(kept[0], again[0])
    assert len(kept[1]) == len(again[1])
    assert all(torch.equal(a, b) for a, b in zip(kept[1], again[1], strict=True))


def test_recomputing_works_for_full_fine_tuning(tmp_path: Path) -> None:
    model = ours(tiny_llama(1), tmp_path, form=WeightForm.TRAINABLE).train()
    results = []
    for recomputation in (None, Recomputation()):
        model.model.recomputation = recomputation
        model.zero_grad()
        packed_hidden(model, TEXTS).square().sum().backward()
        results.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert_same_tensors(results[0], results[1])


def test_the_generator_stands_where_it_would_without_recomputing(tmp_path: Path) -> None:
    model, adapter = adapted(tmp_path, WeightForm.FROZEN, 0.3)
    states = []
    for recomputation in (None, Recomputation(adapter.generator)):
        backward(model, adapter, recomputation)
        states.append(adapter.generator.get_state())
    assert torch.equal(*states)


def kept_bytes(model: CausalLM) -> int:
    """Bytes of all distinct tensors that a forward pass leaves behind for backward."""
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden = packed_hidden(model, TEXTS)
    del hidden
    return sum(held.values())


def test_recomputing_keeps_one_tensor_a_layer(tmp_path: Path) -> None:
    model, adapter = adapted(tmp_path, WeightForm.FROZEN, 0.0)
    model.model.recomputation = Recomputation(adapter.generator)
    tokens, spec = sum(map(len, TEXTS)), model.spec
    inputs = spec.num_layers * tokens * spec.hidden_size * 4
    assert kept_bytes(model) <= inputs + tokens * (spec.hidden_size + 1) * 4 + 4 * spec.hidden_size * 4


def test_a_recomputed_tensor_is_not_kept_and_is_computed_once_for_all_its_uses() -> None:
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    calls = []

    def remake() -> Tensor:
        calls.append(torch.is_grad_enabled())
        return x.detach() * 2

    held = []

    def run(active: bool) -> list[Tensor]:
        doubled = x * 2
        if active:
            with recomputed_in_backward(doubled, remake):
                y = (doubled @ weight).sum() + (doubled @ weight.T).sum()
            held.append(doubled)
        else:
            y = (doubled @ weight).sum() + (doubled @ weight.T).sum()
        held.clear()
        return list(torch.autograd.grad(y, (x, weight)))

    assert all(torch.equal(a, b) for a, b in zip(run(True), run(False), strict=True))
    assert calls == [False]


def test_a_second_backward_computes_again() -> None:
    weight = torch.randn(3, 3, requires_grad=True)
    x = torch.randn(4, 3, requires_grad=True)
    doubled = x * 2
    with recomputed_in_backward(doubled, lambda: x.detach() * 2):
        y = (doubled @ weight).sum()
    del doubled
    first = torch.autograd.grad(y, weight, retain_graph=True)
    assert torch.equal(first[0], torch.autograd.grad(y, weight)[0])
