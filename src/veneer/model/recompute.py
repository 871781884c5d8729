"""Computing activations again in backward: cheap tensors always, whole layers (gradient checkpointing) on request."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from veneer.gpu.parked import Copier, ParkedInputs


def _place(tensor: Tensor) -> tuple[int, int, torch.Size]:
    """Where a tensor's elements are, and its shape. The storage identifies the place, also for tensors without
    memory."""
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset()), tensor.shape


class _RecomputedTensor:
    """Replaces a tensor in autograd's graph. Backward computes it again once, for all the uses that were counted."""

    def __init__(self, tensor: Tensor, compute: Callable[[], Tensor]):
        self._place = _place(tensor)
        self._compute = compute
        self._uses = self._left = 0
        self._value: Tensor | None = None

    def pack(self, saved: Tensor) -> Tensor | _RecomputedTensor:
        if _place(saved) != self._place:
            return saved
        self._uses = self._left = self._uses + 1
        return self

    def unpack(self, kept: Tensor | _RecomputedTensor) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        value = self._value if self._value is not None else self._compute()
        self._left -= 1
        # The uses of one tensor are close together in backward; after the last one nothing is kept.
        self._value = value if self._left else None
        self._left = self._left or self._uses
        return value


@contextmanager
def recomputed_in_backward(tensor: Tensor, compute: Callable[[], Tensor]) -> Iterator[None]:
    """Within the block autograd does not keep `tensor` for backward, but calls `compute` there.

    Use it for what one pass over tensors that are kept anyway can compute: a norm's output, a gated product. `compute`
    must return equal values. It is called without gradients.
    """
    if not (torch.is_grad_enabled() and tensor.requires_grad):
        # Nothing before it is trained, so that its inputs are not kept either: it could not be computed again.
        yield
        return
    stand_in = _RecomputedTensor(tensor, torch.no_grad()(compute))
    with torch.autograd.graph.saved_tensors_hooks(stand_in.pack, stand_in.unpack):
        yield


class _RecomputedLayer(torch.autograd.Function):
    """y = layer(x, …). Only x is kept, or parked; backward runs the layer again."""

    @staticmethod
    def forward(
        ctx: Any,
        how: Recomputation,
        layer: nn.Module,
        anchor: Tensor,
        x: Tensor,
        rest: tuple[Any, ...],
        parked: ParkedInputs | None,
    ) -> Tensor:
        ctx.how, ctx.layer, ctx.rest, ctx.parked = how, layer, rest, parked
        ctx.drawn = how.state()
        if parked is None:
            ctx.save_for_backward(x)
        else:
            ctx.place = parked.put(x)
        y: Tensor = layer(x, *rest)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None, Tensor | None, None, None]:
        (x,) = ctx.saved_tensors if ctx.parked is None else (ctx.parked.take(ctx.place),)
        again = x.detach().requires_grad_(ctx.needs_input_grad[3])
        with torch.enable_grad(), ctx.how.rewound(ctx.drawn):
            y = ctx.layer(again, *ctx.rest)
        # The layer's own parameters get their gradients here, as leaves of this inner graph.
        torch.autograd.backward(y, grads[0])
        return None, None, None, again.grad, None, None


class DrawsMasks(ABC):
    """A module that draws dropout masks in training."""

    @property
    @abstractmethod
    def masks(self) -> torch.Generator | None:
        """The generator of the masks; None if nothing is dropped."""


@dataclass(frozen=True, slots=True)
class Recomputation:
    """Keep only the input of each layer and run the layer again in backward (Chen et al., 2016, arXiv:1604.06174)."""

    generator: torch.Generator | None = None
    """Generator of the layers' dropout masks. The second run draws the same masks."""
    copier: Copier | None = None
    """Copies inputs of layers to main memory and back; None keeps them where they are."""

    @classmethod
    def of(cls, module: nn.Module) -> Recomputation:
        """The recomputation of a single module, which draws from one generator at most."""
        draws = (each.masks for each in module.modules() if isinstance(each, DrawsMasks))
        return cls(next(draws, None))

    def parking(self) -> ParkedInputs | None:
        """Where the inputs of one forward pass are parked, if they are."""
        return None if self.copier is None or not torch.is_grad_enabled() else ParkedInputs(self.copier)

    def run(self, layer: nn.Module, x: Tensor, *rest: Any, parked: ParkedInputs | None = None) -> Tensor:
        """Compute `layer(x, *rest)`. Gradients flow to x and to the layer's parameters, none to `rest`.

        Args:
            layer: the layer.
            x: its input.
            rest: its other arguments.
            parked: the parked inputs of the pass, from `parking`.
        """
        # An autograd function only knows its arguments. One trainable parameter of the layer is among them, so that
        # backward is called even if x itself needs no gradient.
        anchor = next((parameter for parameter in layer.parameters() if parameter.requires_grad), x)
        result: Tensor = _RecomputedLayer.apply(self, layer, anchor, x, rest, parked)
        return result

    def contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts of a layer's forward and of its second run, as `torch.utils.checkpoint` asks for them."""
        return nullcontext(), self.rewound(self.state())

    def state(self) -> Tensor | None:
        """The state of the generator before a first run, for `rewound`."""
        return None if self.generator is None else self.generator.get_state()

    @contextmanager
    def rewound(self, state: Tensor | None) -> Iterator[None]:
        """Within the block the generator continues from `state`; afterwards, from its earlier state."""
        if self.generator is None or state is None:
            yield
            return
        after = self.generator.get_state()
        self.generator.set_state(state)
        try:
            yield
        finally:
            self.generator.set_state(after)
