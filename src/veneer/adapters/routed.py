"""One pass under several adapters: the tokens of each go through its own update, all of them through the base at once.

A `Route` says which tokens of a pass belong to whom. `RoutedLinear` stands in a layer's place while passes are routed;
a model with one adapter never meets it. Plain LoRA is computed one of two ways:

- *by spans*, where each adapter has many tokens: the base's weight is decoded once, and multiplied with each adapter's
  tokens in a call of its own, the one that it would be alone. So the result is the same bits, whatever kernel makes it.
- *at once*, where it has few (a token a row, in generation) or the base multiplies by its own means (8 bits): one
  product over all tokens, whose low-rank addend has the factors B side by side, and x Aᵀ of each adapter in the columns
  of its own, in the rows of its own tokens, among zeros. Scales that differ by a power of two are multiplied into the
  columns, exactly; no others are computed so.

What is left (DoRA, a trained bias, a module saved whole, other scales) sends each adapter's tokens through its own
layer, one adapter after another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from veneer.adapters.linear import LoraLinear
from veneer.model.decoder import BaseLinear, DenseLinear
from veneer.model.experts import Routes
from veneer.products import LowRank, inputs, outer, outputs
from veneer.quant.packed import PackedLinear

SPAN_TOKENS = 64
"""With fewer tokens a span on average, a product of their own would read the weight for too little."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one adapter."""

    name: str | None
    """The adapter's; None for the base alone."""
    start: int
    stop: int


@dataclass(slots=True)
class Route:
    """Whose the tokens of the next pass are; layers share it."""

    spans: tuple[Span, ...] = field(default=())

    def lay(self, names: Sequence[str | None], tokens: Sequence[int]) -> None:
        """The next pass holds so many tokens of each name, in this order; neighbours of one name are one span."""
        spans: list[Span] = []
        start = 0
        for name, count in zip(names, tokens, strict=True):
            if spans and spans[-1].name == name:
                spans[-1] = Span(name, spans[-1].start, start + count)
            elif count:
                spans.append(Span(name, start, start + count))
            start += count
        self.spans = tuple(spans)

    def over(self, tokens: int) -> tuple[Span, ...]:
        """The spans, which must cover so many tokens."""
        laid = self.spans[-1].stop if self.spans else 0
        if laid != tokens:
            raise ValueError(f"the pass has {tokens} tokens and the route was laid for {laid}; lay it before each pass")
        return self.spans


class _Routed(nn.Module):
    """A module in whose place each adapter has one of its own, or none."""

    def __init__(self, base: nn.Module, parts: Mapping[str, nn.Module], route: Route):
        super().__init__()
        self.base = base
        self.parts = nn.ModuleList(parts.values())
        self._numbers = {name: number for number, name in enumerate(parts)}
        self._route = route

    def _part(self, name: str | None) -> nn.Module:
        return self.parts[self._numbers[name]] if name is not None and name in self._numbers else self.base


class RoutedRows(_Routed):
    """An embedding or a norm some of whose tokens have one of their own."""

    @property
    def weight(self) -> Tensor:
        """The base's."""
        return cast(Tensor, self.base.weight)

    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        """What each adapter's own module makes of its tokens, along the first axis."""
        return torch.cat([self._part(s.name)(x[s.start : s.stop], *rest) for s in self._route.over(len(x))])

    def after_adding(self, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """As `RmsNorm.after_adding`."""
        pairs = [
            cast(Any, self._part(s.name)).after_adding(x[s.start : s.stop], delta[s.start : s.stop])
            for s in self._route.over(len(x))
        ]
        return torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs])


class RoutedExperts(_Routed):
    """Experts some of whose tokens have updates of their own: each adapter's tokens go by themselves."""

    def forward(self, x: Tensor, routes: Routes) -> Tensor:
        """As `veneer.model.experts.Experts.forward`."""
        spans = self._route.over(len(x))
        return torch.cat([self._part(s.name)(x[s.start : s.stop], routes.of_tokens(s.start, s.stop)) for s in spans])


class RoutedLinear(_Routed):
    """A linear layer under several adapters."""

    def __init__(self, base: nn.Module, parts: Mapping[str, nn.Module], route: Route):
        super().__init__(base, parts, route)
        linear = cast(BaseLinear, base)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        updates = [part for part in parts.values() if isinstance(part, LoraLinear)]
        self._plain = len(updates) == len(parts)
        # Both multiply by the decoded weight, so that it may be decoded here, for several products.
        self._decodes = isinstance(base, DenseLinear | PackedLinear)
        # The kernels take even ranks; one that is odd, by itself, goes another way and would be rounded otherwise.
        exact = all(part.rank % 2 == 0 for part in updates) and len({math.frexp(p.scale)[0] for p in updates}) == 1
        self._at_once = self._plain and exact

    @property
    def bias(self) -> Tensor | None:
        """The base's."""
        return cast(BaseLinear, self.base).bias

    def forward(self, x: Tensor) -> Tensor:
        """`[tokens, in_features]` to `[tokens, out_features]`."""
        spans = self._route.over(len(x))
        by_spans = self._plain and self._decodes and len(x) >= SPAN_TOKENS * len(spans)
        if not by_spans and not self._at_once:
            if len(spans) == 1:
                return cast(Tensor, self._part(spans[0].name)(x))
            return torch.cat([_alone(self._part(span.name), x, span) for span in spans])
        own = [(span, part) for span in spans if isinstance(part := self._part(span.name), LoraLinear)]
        if not own:
            return cast(Tensor, self.base(x))
        pieces: list[_Piece] = []
        tensors: list[Tensor | None] = []
        rest = [_Piece(span.start, span.stop) for span in spans if not isinstance(self._part(span.name), LoraLinear)]
        for span, part in own:
            rows = x[span.start : span.stop]
            adapted = part.dropout(rows) if part.training else rows
            a, b = part.pairs()
            pieces.append(_Piece(span.start, span.stop, a.shape[0], part.scale))
            tensors += [None if adapted is rows else adapted, a, b]
        layout = _Layout(pieces, rest, by_spans=by_spans)
        y = cast(Tensor, _RoutedProduct.apply(x, self.base, layout, *tensors))  # type: ignore[no-untyped-call]
        for span, part in own:
            if part.lora_B_bias is not None:
                own_bias = (part.scale * part.lora_B_bias).to(y.dtype)
                y = torch.cat((y[: span.start], y[span.start : span.stop] + own_bias, y[span.stop :]))
        return y


def _alone(part: nn.Module, x: Tensor, span: Span) -> Tensor:
    """What a layer makes of its own tokens."""
    if isinstance(part, LoraLinear) and part.training and part.dropout.probability > 0:
        # Cut twice, and in this order, so that the gradients of x and of what is left of it join those of other layers
        # one by one, as they do alone: in bfloat16 another order is another sum.
        left = part.dropout(x[span.start : span.stop])
        return part.from_inputs(x[span.start : span.stop], left)
    return cast(Tensor, part(x[span.start : span.stop]))


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens of one adapter, and the size of its update."""

    start: int
    stop: int
    rank: int = 0
    scale: float = 1.0

    def of(self, x: Tensor) -> Tensor:
        return x[self.start : self.stop]


@dataclass(frozen=True, slots=True)
class _Layout:
    """Whose the tokens of a product are, and how it is made."""

    pieces: list[_Piece]
    """Those under an adapter."""
    rest: list[_Piece]
    """Those under none."""
    by_spans: bool

    def product(self, base: BaseLinear, x: Tensor, lefts: Sequence[Tensor], rights: Sequence[Tensor]) -> Tensor:
        """The base's outputs with each piece's update, `[tokens, out]`."""
        if not self.by_spans:
            return base.product(x, _side_by_side(self.pieces, lefts, rights, len(x), dim=1))
        weight, y = base.dequantize(x.dtype), x.new_empty((len(x), base.out_features))
        for piece, left, right in zip(self.pieces, lefts, rights, strict=True):
            outputs(piece.of(x), weight, base.bias, LowRank(left, right, piece.scale), out=piece.of(y))
        for piece in self.rest:
            outputs(piece.of(x), weight, base.bias, out=piece.of(y))
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
            piece.of(grad).copy_(inputs(piece.of(dy), weight, update))
        for piece in self.rest:
            piece.of(grad).copy_(inputs(piece.of(dy), weight))
        return grad


class _RoutedProduct(torch.autograd.Function):
    """The base's product over all tokens, with each adapter's over its own; of each adapter x after dropout (None
    where nothing is dropped), A and B are given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: BaseLinear, layout: _Layout, *tensors: Tensor | None) -> Tensor:
        adapted, factors_a, factors_b = _by_kind(tensors)
        downs = [
            outputs(piece.of(x) if own is None else own, a.to(x.dtype))
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
        layout: _Layout = ctx.layout
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
            d_down = inputs(own_dy, b.to(dy.dtype))
            # What is dropped gets a gradient of its own; where nothing is, it joins that of x.
            through.append(d_down if own is None else None)
            source = piece.of(x) if own is None and x is not None else own
            found += [
                torch.mm(d_down, narrow[index]).mul_(piece.scale) if needs_adapted and own is not None else None,
                outer(d_down, source, piece.scale).to(a.dtype) if needs_a and source is not None else None,
                outer(own_dy, down, piece.scale).to(b.dtype) if needs_b else None,
            ]
        grad_x = layout.input_gradient(ctx.base, dy, through, narrow) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, *found


def _by_kind(tensors: Sequence[Tensor | None]) -> tuple[list[Tensor | None], list[Tensor], list[Tensor]]:
    return list(tensors[::3]), cast(list[Tensor], list(tensors[1::3])), cast(list[Tensor], list(tensors[2::3]))


def _side_by_side(
    pieces: Sequence[_Piece], lefts: Sequence[Tensor], rights: Sequence[Tensor], tokens: int, *, dim: int
) -> LowRank:
    """One addend for all: `lefts` on a diagonal of blocks, `rights` joined along `dim`."""
    if len(pieces) == 1 and pieces[0].stop - pieces[0].start == tokens:
        return LowRank(lefts[0], rights[0], pieces[0].scale)
    scale = pieces[0].scale
    left = lefts[0].new_zeros((tokens, sum(piece.rank for piece in pieces)))
    column = 0
    for piece, own in zip(pieces, lefts, strict=True):
        block = left[piece.start : piece.stop, column : column + piece.rank]
        # A power of two (see `RoutedLinear`), so that nothing is rounded.
        torch.mul(own, piece.scale / scale, out=block)
        column += piece.rank
    return LowRank(left, torch.cat(list(rights), dim), scale)
