"""The feed-forward block of a mixture of experts: a router, and experts that compute the tokens routed to them.

Tokens are a flat list, so that routing is a sort: `rows` lists the tokens of each expert, expert by expert. An expert
computes all of its tokens in one product; an expert without tokens costs nothing. Forward and backward are written for
base linears (docs/design.md), so that an expert may be dense or quantised. A quantised expert is decoded only when it
is multiplied.

An expert's rows are padded with zero rows; very few rows are padded only in training (`products.pad_rows`).

Only gate and up of the `tokens · top_k` rows are kept for backward. The rows of x are gathered again from x, and the
gradient of the routing weights needs no output of the experts:  ∂/∂w ⟨dy, w · D(h)⟩ = ⟨dy, D(h)⟩ = ⟨Dᵀ dy, h⟩ + ⟨dy,
bias⟩,  whose first factor is computed for h's gradient anyway.

Sums over a token's experts are float32 and rounded once. Router scores are float32 too, since a rounded score would
send tokens to other experts. The router is trained only if an adapter names it. There is no auxiliary load-balancing
loss (transformers adds one if `output_router_logits` is set).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from veneer.model.clamped import clamped_swiglu
from veneer.model.fused import swiglu
from veneer.model.mixture import Clamp, MixtureSpec, Routing
from veneer.model.recompute import recomputed_in_backward
from veneer.products import FrozenLinear, LowRank, factor_grad, linear, linear_input_grad, pad_rows


@dataclass(frozen=True, slots=True)
class ExpertsLora:
    """LoRA factors for one parameter of all experts, in PEFT's layout for `target_parameters`.

    Expert e has the rows e · rank to (e + 1) · rank of A, and the columns e, e + experts, e + 2 · experts, … of B.
    """

    a: Tensor
    """A of all experts, `[experts · rank, in]`."""
    b: Tensor
    """B of all experts, `[out, rank · experts]`."""
    scale: float


@dataclass(frozen=True, slots=True)
class Routes:
    """Which tokens go to which expert, and with which weight."""

    rows: Tensor
    """The token of each row, int64 `[tokens · top_k]`, sorted by expert."""
    weights: Tensor
    """The routing weight of each row, float32 `[tokens · top_k]`."""
    counts: tuple[int, ...]
    """Number of rows of each expert."""

    def spans(self) -> Iterator[tuple[int, slice]]:
        """Each expert that has rows, with the slice of its rows."""
        start = 0
        for expert, count in enumerate(self.counts):
            if count:
                yield expert, slice(start, start + count)
            start += count

    def of_tokens(self, start: int, stop: int) -> Routes:
        """The routes of the tokens from `start` to `stop`, renumbered from 0."""
        kept = (self.rows >= start) & (self.rows < stop)
        experts = torch.repeat_interleave(torch.tensor(self.counts, device=kept.device))[kept]
        counts = torch.bincount(experts, minlength=len(self.counts))
        return Routes(self.rows[kept] - start, self.weights[kept], tuple(counts.tolist()))


def route(scores: Tensor, top_k: int, routing: Routing) -> Routes:
    """Choose the experts of each token by the router's scores, float32 `[tokens, experts]`."""
    if routing is Routing.CHOSEN:
        best, chosen = torch.topk(scores, top_k, dim=-1)
        weights = torch.softmax(best, dim=-1)
    else:
        weights, chosen = torch.topk(torch.softmax(scores, dim=-1), top_k, dim=-1)
        if routing is Routing.RENORMALISED:
            weights = weights / weights.sum(-1, keepdim=True)
    flat = chosen.flatten()
    order = torch.argsort(flat, stable=True)
    counts = torch.bincount(flat, minlength=scores.shape[1])
    return Routes(order // top_k, weights.flatten()[order], tuple(counts.tolist()))


class Expert(nn.Module):
    """The linear layers of one expert.

    Args:
        gate_proj: base linear with a weight `[inner, dim]`.
        up_proj: base linear with a weight `[inner, dim]`.
        down_proj: base linear with a weight `[dim, inner]`.
    """

    gate_proj: FrozenLinear
    up_proj: FrozenLinear
    down_proj: FrozenLinear

    def __init__(self, gate_proj: nn.Module, up_proj: nn.Module, down_proj: nn.Module):
        super().__init__()
        self.add_module("gate_proj", gate_proj)
        self.add_module("up_proj", up_proj)
        self.add_module("down_proj", down_proj)


class Experts(nn.ModuleList):
    """All experts of a layer.

    Args:
        experts: the experts, in order.
        spec: specification of the mixture.
    """

    def __init__(self, experts: list[Expert], spec: MixtureSpec):
        super().__init__(experts)
        self.clamp, self.interleaved = spec.clamp, spec.interleaved

    def expert(self, number: int) -> Expert:
        """The expert of this index."""
        return cast(Expert, self[number])

    def forward(
        self, x: Tensor, routes: Routes, gate_up: ExpertsLora | None = None, down: ExpertsLora | None = None
    ) -> Tensor:
        """The weighted sum of the experts' outputs, `[tokens, dim]`, with LoRA updates of their parameters if given."""
        first = next(self.parameters(), None)
        if first is not None and first.requires_grad:
            return self._forward_trainable(x, routes)
        gate, up = _gate_up_product(x, routes, self, gate_up)
        mixed = self._gated(gate, up)
        with recomputed_in_backward(mixed, lambda: self._gated(gate.detach(), up.detach())):
            return _down_product(mixed, routes, self, down, len(x))

    def _gated(self, gate: Tensor, up: Tensor) -> Tensor:
        return gated(gate, up, self.clamp)

    def _forward_trainable(self, x: Tensor, routes: Routes) -> Tensor:
        """`forward` for full fine-tuning, where the experts' own weights are trained: by autograd, expert by expert."""
        y = torch.zeros(x.shape, dtype=_wide(x.dtype), device=x.device)
        for number, span in routes.spans():
            expert, rows = self.expert(number), routes.rows[span]
            mine = x[rows]
            mixed = self._gated(expert.gate_proj(mine), expert.up_proj(mine))
            out = expert.down_proj(mixed)
            y = y.index_add(0, rows, out.to(y.dtype) * routes.weights[span][:, None])
        return y.to(x.dtype)


class Mixture(nn.Module):
    """Router and experts in the place of a dense feed-forward block.

    Args:
        router: base linear with a weight `[experts, dim]`, never quantised.
        experts: the experts.
        spec: specification of the mixture, which also names the router.
    """

    def __init__(self, router: nn.Module, experts: Experts, spec: MixtureSpec):
        super().__init__()
        self.add_module(spec.router, router)
        self.experts = experts
        self._router, self._top_k, self._routing = spec.router, spec.top_k, spec.routing

    def forward(self, x: Tensor) -> Tensor:
        """Route and compute `[tokens, dim]`; the result has that shape too."""
        scores = self.get_submodule(self._router)(x.to(_wide(x.dtype)))
        return cast(Tensor, self.experts(x, route(scores, self._top_k, self._routing)))


def gated(gate: Tensor, up: Tensor, clamp: Clamp | None) -> Tensor:
    """The gated product of an expert, elementwise."""
    return swiglu(gate, up) if clamp is None else clamped_swiglu(gate, up, clamp.alpha, clamp.limit)


def halves(rows: Tensor, *, interleaved: bool) -> tuple[Tensor, Tensor]:
    """Split a tensor with gate and up along its first axis into the rows of gate and those of up."""
    if interleaved:
        return rows[0::2], rows[1::2]
    middle = len(rows) // 2
    return rows[:middle], rows[middle:]


def factors(a: Tensor, b: Tensor, expert: int, experts: int) -> tuple[Tensor, Tensor]:
    """One expert's A `[rank, in]` and B `[out, rank]`, as views."""
    rank = len(a) // experts
    return a[expert * rank : (expert + 1) * rank], b[:, expert::experts]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _gate_up_product(x: Tensor, routes: Routes, experts: Experts, update: ExpertsLora | None) -> tuple[Tensor, Tensor]:
    """The products gate and up of every row, both `[rows, inner]`."""
    a, b, scale = (None, None, 0.0) if update is None else (update.a, update.b, update.scale)
    training = torch.is_grad_enabled()
    result: tuple[Tensor, Tensor] = _GateUpProduct.apply(x, a, b, scale, routes, experts, training)
    return result


class _GateUpProduct(torch.autograd.Function):
    """gate = x Gᵀ and up = x Uᵀ for each expert's tokens.

    Their LoRA updates share one A, and have rows of one B.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        a: Tensor | None,
        b: Tensor | None,
        scale: float,
        routes: Routes,
        experts: Experts,
        training: bool,
    ) -> tuple[Tensor, Tensor]:
        inner = experts.expert(0).gate_proj.out_features
        gate, up = (x.new_empty(len(routes.rows), inner) for _ in range(2))
        down = None if a is None else x.new_empty(len(routes.rows), len(a) // len(experts))
        for number, span in routes.spans():
            expert, mine, count = experts.expert(number), x[routes.rows[span]], span.stop - span.start
            mine = pad_rows(mine, few=training)
            gate_update = up_update = None
            if a is not None and b is not None and down is not None:
                own_a, gate_b, up_b = _split(a, b, number, experts, x.dtype)
                low = linear(mine, own_a)
                down[span] = low[:count]
                gate_update, up_update = LowRank(low, gate_b, scale), LowRank(low, up_b, scale)
            gate[span] = expert.gate_proj.product(mine, gate_update)[:count]
            up[span] = expert.up_proj.product(mine, up_update)[:count]
        # Only the gradient of A needs x, whose rows are gathered again.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, down, a, b, routes.rows)
        ctx.scale, ctx.routes, ctx.experts, ctx.shape = scale, routes, experts, x.shape
        return gate, up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, down, a, b, rows = ctx.saved_tensors
        d_gate, d_up = (grad.contiguous() for grad in grads)
        experts, scale, dtype = ctx.experts, ctx.scale, d_gate.dtype
        dx = d_gate.new_zeros(ctx.shape, dtype=_wide(dtype)) if ctx.needs_input_grad[0] else None
        grad_a = torch.zeros_like(a) if ctx.needs_input_grad[1] else None
        grad_b = torch.zeros_like(b) if ctx.needs_input_grad[2] else None
        for number, span in ctx.routes.spans():
            expert, update = experts.expert(number), None
            own_gate, own_up = pad_rows(d_gate[span]), pad_rows(d_up[span])
            if down is not None:
                own_a, gate_b, up_b = _split(a, b, number, experts, dtype)
                d_down = linear_input_grad(own_gate, gate_b).add_(linear_input_grad(own_up, up_b))
                update = LowRank(d_down, own_a, scale)
                if grad_a is not None:
                    factors(grad_a, b, number, len(experts))[0].copy_(
                        factor_grad(d_down, pad_rows(x[rows[span]]), scale)
                    )
                if grad_b is not None:
                    gate_up_grads = halves(factors(a, grad_b, number, len(experts))[1], interleaved=experts.interleaved)
                    for target, grad in zip(gate_up_grads, (own_gate, own_up), strict=True):
                        target.copy_(factor_grad(grad, pad_rows(down[span]), scale))
            if dx is not None:
                mine = expert.gate_proj.input_gradient(own_gate)
                mine = mine.add_(expert.up_proj.input_gradient(own_up, update))[: span.stop - span.start]
                dx.index_add_(0, rows[span], mine.to(dx.dtype))
        return None if dx is None else dx.to(dtype), grad_a, grad_b, None, None, None, None


def _split(a: Tensor, b: Tensor, number: int, experts: Experts, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """One expert's A, and its B for gate and for up, in the dtype of the products."""
    own_a, own_b = factors(a, b, number, len(experts))
    gate_b, up_b = halves(own_b, interleaved=experts.interleaved)
    return own_a.to(dtype), gate_b.to(dtype).contiguous(), up_b.to(dtype).contiguous()


def _down_product(mixed: Tensor, routes: Routes, experts: Experts, update: ExpertsLora | None, tokens: int) -> Tensor:
    """The weighted sum of the experts' outputs, `[rows, inner]` to `[tokens, dim]`."""
    a, b, scale = (None, None, 0.0) if update is None else (update.a, update.b, update.scale)
    result: Tensor = _DownProduct.apply(
        mixed, routes.weights, a, b, scale, routes, experts, tokens, torch.is_grad_enabled()
    )
    return result


class _DownProduct(torch.autograd.Function):
    """y[token] = Σ w · (h Dᵀ + bias) over the token's experts."""

    @staticmethod
    def forward(
        ctx: Any,
        mixed: Tensor,
        weights: Tensor,
        a: Tensor | None,
        b: Tensor | None,
        scale: float,
        routes: Routes,
        experts: Experts,
        tokens: int,
        training: bool,
    ) -> Tensor:
        y = mixed.new_zeros(tokens, experts.expert(0).down_proj.out_features, dtype=_wide(mixed.dtype))
        down = None if a is None else mixed.new_empty(len(mixed), len(a) // len(experts))
        for number, span in routes.spans():
            update, count = None, span.stop - span.start
            mine = pad_rows(mixed[span], few=training)
            if a is not None and b is not None and down is not None:
                own_a, own_b = factors(a, b, number, len(experts))
                low = linear(mine, own_a.to(mixed.dtype))
                down[span] = low[:count]
                update = LowRank(low, own_b.to(mixed.dtype).contiguous(), scale)
            out = experts.expert(number).down_proj.product(mine, update)[:count]
            y.index_add_(0, routes.rows[span], out.to(y.dtype) * weights[span][:, None])
        kept = mixed if ctx.needs_input_grad[1] or ctx.needs_input_grad[2] else None
        ctx.save_for_backward(kept, weights, down, a, b, routes.rows)
        ctx.scale, ctx.routes, ctx.experts = scale, routes, experts
        ctx.shape = mixed.shape
        return y.to(mixed.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mixed, weights, down, a, b, rows = ctx.saved_tensors
        dy, experts, scale = grads[0], ctx.experts, ctx.scale
        d_mixed = dy.new_empty(ctx.shape) if ctx.needs_input_grad[0] else None
        d_weights = torch.empty_like(weights) if ctx.needs_input_grad[1] else None
        grad_a = torch.zeros_like(a) if ctx.needs_input_grad[2] else None
        grad_b = torch.zeros_like(b) if ctx.needs_input_grad[3] else None
        for number, span in ctx.routes.spans():
            mine, shares, update, count = dy[rows[span]], weights[span][:, None], None, span.stop - span.start
            filled = pad_rows(mine)
            if down is not None:
                own_a, own_b = (part.to(dy.dtype).contiguous() for part in factors(a, b, number, len(experts)))
                d_down = linear_input_grad(filled, own_b)
                update = LowRank(d_down, own_a, scale)
                if grad_a is not None:
                    weighted = pad_rows((d_down[:count] * shares).to(dy.dtype))
                    factors(grad_a, b, number, len(experts))[0].copy_(
                        factor_grad(weighted, pad_rows(mixed[span]), scale)
                    )
                if grad_b is not None:
                    weighted = pad_rows((mine * shares).to(dy.dtype))
                    factors(a, grad_b, number, len(experts))[1].copy_(
                        factor_grad(weighted, pad_rows(down[span]), scale)
                    )
            if d_mixed is None and d_weights is None:
                continue
            down_proj = experts.expert(number).down_proj
            turned = down_proj.input_gradient(filled, update)[:count]
            if d_mixed is not None:
                d_mixed[span] = turned * shares
            if d_weights is not None:
                d_weights[span] = (turned.to(weights.dtype) * mixed[span]).sum(-1)
                if down_proj.bias is not None:
                    d_weights[span] += mine.to(weights.dtype) @ down_proj.bias.to(weights.dtype)
        return d_mixed, d_weights, grad_a, grad_b, None, None, None, None, None
