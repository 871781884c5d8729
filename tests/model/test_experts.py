"""The feed-forward block of a mixture against transformers' own blocks, and its gradients against autograd's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GptOssConfig, MixtralConfig, Qwen3MoeConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from veneer.model.experts import Expert, Experts, ExpertsLora, Mixture, factors, halves, route
from veneer.model.leaves import DenseLinear
from veneer.model.mixture import Clamp, MixtureSpec, Routing
from veneer.quant.four_bit import QuantLinear

DIM, INNER, EXPERTS, TOP_K = 24, 20, 5, 2
SIZES: dict[str, Any] = {"hidden_size": DIM, "intermediate_size": INNER, "num_experts_per_tok": TOP_K}


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """Every parameter random."""
    generator = rng(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.eval().requires_grad_(False)


def theirs(kind: str, seed: int = 0) -> tuple[nn.Module, MixtureSpec]:
    """transformers' block, and our specification of it."""
    base = {"experts": EXPERTS, "top_k": TOP_K, "inner": INNER}
    if kind == "mixtral":
        block: nn.Module = MixtralSparseMoeBlock(MixtralConfig(**SIZES, num_local_experts=EXPERTS))
        spec = MixtureSpec(**base, routing=Routing.RENORMALISED)
    elif kind.startswith("qwen"):
        renormalised = kind == "qwen renormalised"
        config = Qwen3MoeConfig(**SIZES, num_experts=EXPERTS, moe_intermediate_size=INNER, norm_topk_prob=renormalised)
        block = Qwen3MoeSparseMoeBlock(config)
        spec = MixtureSpec(**base, routing=Routing.RENORMALISED if renormalised else Routing.PLAIN)
    else:
        block = GptOssMLP(GptOssConfig(**SIZES, num_local_experts=EXPERTS, swiglu_limit=0.4))
        spec = MixtureSpec(
            **base,
            routing=Routing.CHOSEN,
            router="router",
            router_bias=True,
            bias=True,
            clamp=Clamp(1.702, 0.4),
            interleaved=True,
        )
    return randomised(block, seed), spec


def linear(weight: Tensor, bias: Tensor | None) -> DenseLinear:
    frozen = [None if t is None else nn.Parameter(t.clone(), requires_grad=False) for t in (weight, bias)]
    assert frozen[0] is not None
    return DenseLinear(frozen[0], frozen[1])


def ours(block: nn.Module, spec: MixtureSpec, *, make: Any = linear) -> Mixture:
    """Our block with the weights of theirs."""
    held = dict(block.named_parameters())
    made = []
    for number in range(spec.experts):
        opened, closed = held["experts.gate_up_proj"][number], held["experts.down_proj"][number]
        if spec.bias:
            opened, closed = opened.t(), closed.t()  # gpt-oss holds [in, out]
        gate, up = halves(opened, interleaved=spec.interleaved)
        biases: list[Tensor | None] = [None, None, None]
        if spec.bias:
            both = held["experts.gate_up_proj_bias"][number]
            biases = [both[0::2], both[1::2], held["experts.down_proj_bias"][number]]
        made.append(Expert(make(gate, biases[0]), make(up, biases[1]), make(closed, biases[2])))
    router = linear(held[f"{spec.router}.weight"], held.get(f"{spec.router}.bias"))
    return Mixture(router, Experts(made, spec), spec)


KINDS = ("mixtral", "qwen renormalised", "qwen plain", "gpt-oss")


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_input_gradients_are_transformers(kind: str) -> None:
    block, spec = theirs(kind)
    mixture = ours(block, spec)
    x = torch.randn(17, DIM, generator=rng(1), requires_grad=True)
    again = x.detach().clone().requires_grad_()
    expected = block(x[None])
    expected = (expected[0] if isinstance(expected, tuple) else expected)[0]
    found = mixture(again)
    weight = torch.randn(17, DIM, generator=rng(2))
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    assert torch.allclose(found, expected, atol=2e-6)
    assert x.grad is not None
    assert again.grad is not None
    assert torch.allclose(again.grad, x.grad, atol=5e-6)


def lora(spec: MixtureSpec, parameter: str, rank: int, seed: int, dtype: torch.dtype) -> ExpertsLora:
    a = torch.randn(spec.experts * rank, spec.inputs_of(parameter, DIM), generator=rng(seed), dtype=dtype)
    b = torch.randn(spec.outputs_of(parameter, DIM), spec.experts * rank, generator=rng(seed + 1), dtype=dtype)
    return ExpertsLora((0.2 * a).requires_grad_(), (0.2 * b).requires_grad_(), 0.7)


def slowly(mixture: Mixture, spec: MixtureSpec, x: Tensor, gate_up: ExpertsLora, down: ExpertsLora) -> Tensor:
    """Token by token and expert by expert, with whole updated weights."""
    router = mixture.get_submodule(spec.router)
    routes = route(router(x), spec.top_k, spec.routing)
    total: list[Tensor] = [torch.zeros(DIM, dtype=x.dtype) for _ in x]
    for expert, span in routes.spans():
        module = mixture.experts.expert(expert)
        weights = []
        for update, linears in ((gate_up, ("gate_proj", "up_proj")), (down, ("down_proj",))):
            a, b = factors(update.a, update.b, expert, spec.experts)
            delta = update.scale * b @ a
            parts = halves(delta, interleaved=spec.interleaved) if len(linears) == 2 else (delta,)
            for name, part in zip(linears, parts, strict=True):
                layer = module.get_submodule(name)
                weights.append((layer.dequantize(x.dtype) + part, layer.bias))  # type: ignore[operator]
        for row in range(span.start, span.stop):
            token = int(routes.rows[row])
            gate, up = (nn.functional.linear(x[token], w, bias) for w, bias in weights[:2])
            if spec.clamp is None:
                mixed = nn.functional.silu(gate) * up
            else:
                gate, up = gate.clamp(max=spec.clamp.limit), up.clamp(-spec.clamp.limit, spec.clamp.limit)
                mixed = gate * torch.sigmoid(spec.clamp.alpha * gate) * (up + 1)
            out = nn.functional.linear(mixed, weights[2][0], weights[2][1])
            total[token] = total[token] + routes.weights[row] * out
    return torch.stack(total)


@pytest.mark.parametrize("kind", KINDS)
def test_updates_of_all_experts_have_the_gradients_of_whole_weights(kind: str) -> None:
    block, spec = theirs(kind, seed=3)
    mixture = ours(block.double(), spec)
    x = torch.randn(13, DIM, generator=rng(4), dtype=torch.float64, requires_grad=True)
    updates = [
        lora(spec, name, rank, 5 + rank, torch.float64) for name, rank in (("gate_up_proj", 3), ("down_proj", 2))
    ]
    leaves = [x, *(t for update in updates for t in (update.a, update.b))]
    weight = torch.randn(13, DIM, generator=rng(6), dtype=torch.float64)
    expected = slowly(mixture, spec, x, *updates)
    wanted = torch.autograd.grad((expected * weight).sum(), leaves)
    router = mixture.get_submodule(spec.router)
    found = mixture.experts(x, route(router(x), spec.top_k, spec.routing), *updates)
    grads = torch.autograd.grad((found * weight).sum(), leaves)
    assert torch.allclose(found, expected, atol=1e-12)
    for grad, want in zip(grads, wanted, strict=True):
        assert torch.allclose(grad, want, atol=1e-11)


@pytest.mark.parametrize("kind", ["mixtral", "gpt-oss"])
def test_quantised_experts_are_their_decoded_weights(kind: str) -> None:
    def packed(weight: Tensor, bias: Tensor | None) -> QuantLinear:
        return QuantLinear.from_weight(weight.contiguous(), bias)

    def decoded(weight: Tensor, bias: Tensor | None) -> DenseLinear:
        return linear(packed(weight, bias).dequantize(torch.float32), bias)

    block, spec = theirs(kind, seed=7)
    x = torch.randn(9, DIM, generator=rng(8))
    assert torch.allclose(ours(block, spec, make=packed)(x), ours(block, spec, make=decoded)(x), atol=1e-6)


@pytest.mark.parametrize("kind", ["mixtral", "gpt-oss"])
def test_trained_weights_have_autograds_gradients(kind: str) -> None:
    block, spec = theirs(kind, seed=9)
    mixture = ours(block, spec).requires_grad_()
    block.requires_grad_()
    x = torch.randn(11, DIM, generator=rng(10))
    weight = torch.randn(11, DIM, generator=rng(11))
    expected = block(x[None])
    ((expected[0] if isinstance(expected, tuple) else expected)[0] * weight).sum().backward()
    (mixture(x) * weight).sum().backward()
    grads = {name: parameter.grad for name, parameter in block.named_parameters()}
    for number in range(EXPERTS):
        want = grads["experts.down_proj"]
        assert want is not None
        found = mixture.get_submodule(f"experts.{number}.down_proj").get_parameter("weight").grad
        found = torch.zeros(DIM, INNER) if found is None else found
        assert torch.allclose(found, want[number].t() if spec.bias else want[number], atol=1e-5)
    router = mixture.get_submodule(spec.router).get_parameter("weight").grad
    assert router is not None
    assert torch.allclose(router, grads[f"{spec.router}.weight"], atol=1e-5)


def test_experts_without_tokens_cost_nothing_and_change_nothing() -> None:
    block, spec = theirs("mixtral", seed=12)
    mixture = ours(block, spec)
    one = torch.randn(1, DIM, generator=rng(13))
    routes = route(mixture.get_submodule("gate")(one), spec.top_k, spec.routing)
    assert sum(routes.counts) == TOP_K
    assert sum(count > 0 for count in routes.counts) == TOP_K
    assert mixture(one[:0]).shape == (0, DIM)
    update = lora(spec, "gate_up_proj", 2, 14, torch.float32)
    grads = torch.autograd.grad(mixture.experts(one, routes, update).sum(), [update.a, update.b])
    for number, count in enumerate(routes.counts):
        a, b = factors(grads[0], grads[1], number, EXPERTS)
        assert bool(a.any()) == bool(b.any()) == (count > 0)


def test_the_sum_over_experts_is_rounded_once() -> None:
    block, spec = theirs("mixtral", seed=15)
    mixture, x = ours(block, spec), torch.randn(40, DIM, generator=rng(16)).bfloat16()
    for parameter in mixture.experts.parameters():
        parameter.data = parameter.data.bfloat16()
    routes = route(mixture.get_submodule("gate")(x.float()), spec.top_k, spec.routing)
    one = replace(routes, weights=torch.ones_like(routes.weights))
    outs = torch.zeros(len(x), DIM)
    for number, span in one.spans():
        expert, mine = mixture.experts.expert(number), x[one.rows[span]]
        mixed = nn.functional.silu(expert.gate_proj(mine)) * expert.up_proj(mine)
        outs.index_add_(0, one.rows[span], expert.down_proj(mixed).float())
    assert torch.equal(mixture.experts(x, one), outs.bfloat16())
