from __future__ import annotations

import torch
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

from veneer.model.clamped import clamped_swiglu


def test_clamped_product_and_its_gradients() -> None:
    generator = torch.Generator().manual_seed(17)
    gate, up = (torch.randn(50, 8, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    gate, up = gate.requires_grad_(), up.requires_grad_()
    assert bool((gate > 2).any())
    assert bool((up.abs() > 2).any())
    found = clamped_swiglu(gate, up, 1.702, 2.0)
    cut, other = gate.clamp(max=2.0), up.clamp(-2.0, 2.0)
    expected = (other + 1) * cut * torch.sigmoid(1.702 * cut)
    assert torch.allclose(found, expected, atol=1e-14)
    for one, two in zip(
        torch.autograd.grad(found.sum(), (gate, up)), torch.autograd.grad(expected.sum(), (gate, up)), strict=True
    ):
        assert torch.allclose(one, two, atol=1e-13)


def test_the_product_is_that_of_transformers_in_bfloat16_too() -> None:
    generator = torch.Generator().manual_seed(19)
    gate, up = (torch.randn(64, 32, generator=generator) * 6 for _ in range(2))
    theirs = GptOssExperts._apply_gate
    settings = type("Experts", (), {"alpha": 1.702, "limit": 7.0})()
    interleaved = torch.stack((gate, up), dim=-1).flatten(1)
    exact = theirs(settings, interleaved.double())
    assert torch.allclose(clamped_swiglu(gate.double(), up.double(), 1.702, 7.0), exact, atol=1e-14)
    narrow = clamped_swiglu(gate.bfloat16(), up.bfloat16(), 1.702, 7.0).double()
    their_narrow = theirs(settings, interleaved.bfloat16()).double()
    rounded = theirs(settings, interleaved.bfloat16().double())
    assert float((narrow - rounded).square().mean()) <= 1.2 * float((their_narrow - rounded).square().mean())


def test_what_is_cut_has_no_gradient_and_what_is_no_number_stays_visible() -> None:
    gate = torch.tensor([8.0, -8.0, 1.0, float("nan")], dtype=torch.float64).requires_grad_()
    up = torch.tensor([1.0, 9.0, -9.0, 1.0], dtype=torch.float64).requires_grad_()
    found = clamped_swiglu(gate, up, 1.702, 7.0)
    assert found[3].isnan()
    grad_gate, grad_up = torch.autograd.grad(found[:3].sum(), (gate, up))
    assert [bool(grad_gate[0] == 0), bool(grad_gate[1] != 0), bool(grad_gate[2] != 0)] == [True] * 3
    assert [bool(grad_up[0] != 0), bool(grad_up[1] == 0), bool(grad_up[2] == 0)] == [True] * 3
