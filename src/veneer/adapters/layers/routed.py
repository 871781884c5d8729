"""One pass with several adapters: the base computes all tokens at once, and each adapter updates its own tokens.

A `Route` says which tokens of a pass belong to which adapter. `RoutedLinear` replaces a layer while passes are routed;
a model with one adapter never has it. Plain LoRA is computed in one of two ways:

- *by spans*, if each adapter has many tokens. The base's weight is decoded once, and multiplied with the tokens of each
  adapter in a separate call, as with that adapter alone. The result has equal bits with every kernel.
- *at once*, if adapters have few tokens (generation) or the base has products of its own (8 bits). There is one product
  over all tokens. Its low-rank addend has the factors B side by side; x Aᵀ of each adapter is in columns of its own, in
  the rows of its tokens, and everything else is zero. Scales may differ by a power of two, which is multiplied into the
  columns exactly.

In all other cases (DoRA, trained biases, modules to save, other scales) the tokens of each adapter go through its own
layer, one adapter after another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from veneer.adapters.layers.dropout import DropsInputs
from veneer.adapters.layers.linear import LoraLinear
from veneer.model.experts import Routes
from veneer.model.leaves import DenseLinear
from veneer.products import BaseLinear, LowRank, factor_grad, linear, linear_input_grad, update_input_grad
from veneer.quant.packed import PackedLinear

SPAN_TOKENS = 64
"""The least average number of tokens in a span for which reading the weight again is worth it."""


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Consecutive tokens of one adapter."""

    name: str | None
    """Name of the adapter; None for the base alone."""
    start: int
    stop: int


@dataclass(slots=True)
class Route:
    """The adapter of each token of the next pass. All layers share one route."""

    spans: tuple[TokenSpan, ...] = field(default=())

    def lay(self, names: Sequence[str | None], tokens: Sequence[int]) -> None:
        """Announce the next pass: adapters by name, in order, and the number of tokens of each.

        Neighbours are joined.
        """
        spans: list[TokenSpan] = []
        start = 0
        for name, count in zip(names, tokens, strict=True):
            if spans and spans[-1].name == name:
                spans[-1] = TokenSpan(name, spans[-1].start, start + count)
            elif count:
                spans.append(TokenSpan(name, start, start + count))
            start += count
        self.spans = tuple(spans)

    def over(self, tokens: int) -> tuple[TokenSpan, ...]:
        """The spans of a pass of this many tokens.

        Raises:
            ValueError: the route was set for another number of tokens.
        """
        laid = self.spans[-1].stop if self.spans else 0
        if laid != tokens:
            raise ValueError(
                f"the pass has {tokens} tokens, but the route was set for {laid}; call lay before each pass"
            )
        return self.spans


class _RoutedModule(nn.Module):
    """A module for which each adapter may have its own replacement."""

    def __init__(self, base: nn.Module, own_modules: Mapping[str, nn.Module], route: Route):
        super().__init__()
        self.base = base
        self.adapted = nn.ModuleList(own_modules.values())
        self._numbers = {name: number for number, name in enumerate(own_modules)}
        self._route = route

    def _module_of(self, name: str | None) -> nn.Module:
        return self.adapted[self._numbers[name]] if name is not None and name in self._numbers else self.base


class RoutedRows(_RoutedModule):
    """An embedding or a norm for which adapters have their own."""

    @property
    def weight(self) -> Tensor:
        """Weight of the base."""
        return cast(Tensor, self.base.weight)

    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        """The outputs of each adapter's module for its own tokens, joined along the first axis."""
        return torch.cat([self._module_of(s.name)(x[s.start : s.stop], *rest) for s in self._route.over(len(x))])

    def after_adding(self, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """See `NormModule.after_adding`."""
        pairs = [
            cast(Any, self._module_of(s.name)).after_adding(x[s.start : s.stop], delta[s.start : s.stop])
            for s in self._route.over(len(x))
        ]
        return torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs])


class RoutedExperts(_RoutedModule):
    """Experts with updates by several adapters. The tokens of each adapter are computed separately."""

    def forward(self, x: Tensor, routes: Routes) -> Tensor:
        """See `veneer.model.experts.Experts.forward`."""
        spans = self._route.over(len(x))
        return torch.cat(
            [self._module_of(s.name)(x[s.start : s.stop], routes.of_tokens(s.start, s.stop)) for s in spans]
        )


class RoutedLinear(_RoutedModule):
    """A linear layer under several adapters."""

    def __init__(self, base: nn.Module, own_modules: Mapping[str, nn.Module], route: Route):
        super().__init__(base, own_modules, route)
        layer = cast(BaseLinear, base)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        updates = [module for module in own_modules.values() if isinstance(module, LoraLinear)]
        self._plain = len(updates) == len(own_modules)
        # Both multiply with the decoded weight, so that one decoding can serve several products.
        self._decodes = isinstance(base, DenseLinear | PackedLinear)
        # The kernels need even ranks. A single odd rank is computed in another way, with other rounding.
        exact = all(module.rank % 2 == 0 for module in updates) and len({math.frexp(p.scale)[0] for p in updates}) == 1
        self._at_once = self._plain and exact

    @property
    def bias(self) -> Tensor | None:
        """Bias of the base."""
        return cast(BaseLinear, self.base).bias

    def forward(self, x: Tensor) -> Tensor:
        """Map `[tokens, in_features]` to `[tokens, out_features]`."""
        spans = self._route.over(len(x))
        by_spans = self._plain and self._decodes and len(x) >= SPAN_TOKENS * len(spans)
        if not by_spans and not self._at_once:
            if len(spans) == 1:
                return cast(Tensor, self._module_of(spans[0].name)(x))
            return torch.cat([_own_product(self._module_of(span.name), x, span) for span in spans])
        own = [(span, module) for span in spans if isinstance(module := self._module_of(span.name), LoraLinear)]
        if not own:
            return cast(Tensor, self.base(x))
        pieces: list[_Piece] = []
        tensors: list[Tensor | None] = []
        rest = [
            _Piece(span.start, span.stop) for span in spans if not isinstance(self._module_of(span.name), LoraLinear)
        ]
        for span, module in own:
            rows = x[span.start : span.stop]
            adapted = module.dropout(rows) if module.training else rows
            a, b = module.pairs()
            pieces.append(_Piece(span.start, span.stop, a.shape[0], module.scale))
            tensors += [None if adapted is rows else adapted, a, b]
        layout = _ProductLayout(pieces, rest, by_spans=by_spans)
        y = cast(Tensor, _RoutedProduct.apply(x, self.base, layout, *tensors))
        for span, module in own:
            if module.lora_B_bias is not None:
                own_bias = (module.scale * module.lora_B_bias).to(y.dtype)
                y = torch.cat((y[: span.start], y[span.start : span.stop] + own_bias, y[span.stop :]))
        return y


def _own_product(module: nn.Module, x: Tensor, span: TokenSpan) -> Tensor:
    """Output of an adapter's layer for its own tokens."""
    if isinstance(module, DropsInputs) and module.training and module.dropout.probability > 0:
        # x is sliced twice, in this order, so that its gradients are added one by one in the order of a pass with one
        # adapter: in bfloat16 another order gives another sum.
        left = module.dropout(x[span.start : span.stop])
        return module.from_inputs(x[span.start : span.stop], left)
    return cast(Tensor, module(x[span.start : span.stop]))


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens of one adapter, with rank and scale of its update."""

    start: int
    stop: int
    rank: int = 0
    scale: float = 1.0

    def of(self, x: Tensor) -> Tensor:
        return x[self.start : self.stop]


@dataclass(frozen=True, slots=True)
class _ProductLayout:
    """The tokens of each adapter in a product, and how the product is computed."""

    pieces: list[_Piece]
    """The pieces with an adapter."""
    rest: list[_Piece]
    """The pieces without an adapter."""
    by_spans: bool

    def product(self, base: BaseLinear, x: Tensor, lefts: Sequence[Tensor], rights: Sequence[Tensor]) -> Tensor:
        """The base's outputs with each piece's update, `[tokens, out]`."""
        if not self.by_spans:
            return base.product(x, _side_by_side(self.pieces, lefts, rights, len(x), dim=1))
        weight, y = base.dequantize(x.dtype), x.new_empty((len(x), base.out_features))
        for piece, left, right in zip(self.pieces, lefts, rights, strict=True):
            linear(piece.of(x), weight, base.bias, LowRank(left, right, piece.scale), out=piece.of(y))
        for piece in self.rest:
            linear(piece.of(x), weight, base.bias, out=piece.of(y))
        return y

    def input_gradient(
        self, base: BaseLinear, dy: Tensor, lefts: Sequence[Tensor | None], rights: Sequence[Tensor]
    ) -> Tensor:
        """The gradient of the base's inputs, with each piece's update where `lefts` gives one, `[tokens, in]`."""
        if not self.by_spans:
            found = [(p, left, r) for p, left, r in zip(self.pieces, lefts, rights, strict=True) if left is not None]
            if not found:
                return base.input_gradient(dy)
            kept, own_lefts, own_rights = [f[0] for f in found], [f[1] for f in found], [f[2] for f in found]
            return base.input_gradient(dy, _side_by_side(kept, own_lefts, own_rights, len(dy), dim=0))
        weight, grad = base.dequantize(dy.dtype), dy.new_empty((len(dy), base.in_features))
        for piece, left, right in zip(self.pieces, lefts, rights, strict=True):
            update = None if left is None else LowRank(left, right, piece.scale)
            piece.of(grad).copy_(linear_input_grad(piece.of(dy), weight, update))
        for piece in self.rest:
            piece.of(grad).copy_(linear_input_grad(piece.of(dy), weight))
        return grad


class _RoutedProduct(torch.autograd.Function):
    """The base's product over all tokens, with the update of each adapter over its own tokens.

    `tensors` has x after dropout (None without dropout), A and B of each adapter in turn.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: BaseLinear, layout: _ProductLayout, *tensors: Tensor | None) -> Tensor:
        adapted, factors_a, factors_b = _by_kind(tensors)
        downs = [
            linear(piece.of(x) if own is None else own, a.to(x.dtype))
            for piece, own, a in zip(layout.pieces, adapted, factors_a, strict=True)
        ]
        y = layout.product(base, x, downs, [b.to(x.dtype) for b in factors_b])
        whole = any(own is None and ctx.needs_input_grad[4 + 3 * i] for i, own in enumerate(adapted))
        ctx.save_for_backward(x if whole else None, *downs, *tensors)
        ctx.base, ctx.layout = base, layout
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *rest = ctx.saved_tensors
        layout: _ProductLayout = ctx.layout
        downs, tensors = rest[: len(layout.pieces)], rest[len(layout.pieces) :]
        adapted, factors_a, factors_b = _by_kind(tensors)
        dy = grads[0]
        found: list[Tensor | None] = []
        through: list[Tensor | None] = []
        narrow = [a.to(dy.dtype) for a in factors_a]
        for index, (piece, own, down) in enumerate(zip(layout.pieces, adapted, downs, strict=True)):
            a, b = factors_a[index], factors_b[index]
            needs_adapted, needs_a, needs_b = ctx.needs_input_grad[3 + 3 * index : 6 + 3 * index]
            own_dy = piece.of(dy)
            d_down = linear_input_grad(own_dy, b.to(dy.dtype))
            # With dropout the update's input has a gradient of its own; without, it is part of that of x.
            through.append(d_down if own is None else None)
            source = piece.of(x) if own is None and x is not None else own
            found += [
                update_input_grad(LowRank(d_down, narrow[index], piece.scale))
                if needs_adapted and own is not None
                else None,
                factor_grad(d_down, source, piece.scale).to(a.dtype) if needs_a and source is not None else None,
                factor_grad(own_dy, down, piece.scale).to(b.dtype) if needs_b else None,
            ]
        grad_x = layout.input_gradient(ctx.base, dy, through, narrow) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, *found


def _by_kind(tensors: Sequence[Tensor | None]) -> tuple[list[Tensor | None], list[Tensor], list[Tensor]]:
    return list(tensors[::3]), cast(list[Tensor], list(tensors[1::3])), cast(list[Tensor], list(tensors[2::3]))


def _side_by_side(
    pieces: Sequence[_Piece], lefts: Sequence[Tensor], rights: Sequence[Tensor], tokens: int, *, dim: int
) -> LowRank:
    """One low-rank addend for all pieces: `lefts` block-diagonal, `rights` joined along `dim`."""
    if len(pieces) == 1 and pieces[0].stop - pieces[0].start == tokens:
        return LowRank(lefts[0], rights[0], pieces[0].scale)
    scale = pieces[0].scale or 1.0  # where one is zero, all are (see `RoutedLinear`)
    left = lefts[0].new_zeros((tokens, sum(piece.rank for piece in pieces)))
    column = 0
    for piece, own in zip(pieces, lefts, strict=True):
        block = left[piece.start : piece.stop, column : column + piece.rank]
        # A power of two (see `RoutedLinear`), so that nothing is rounded.
        torch.mul(own, piece.scale / scale, out=block)
        column += piece.rank
    return LowRank(left, torch.cat(list(rights), dim), scale)
