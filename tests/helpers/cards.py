"""A card that is not there: meta tensors stand in for those of CUDA, so that launches, waits and bytes can be counted.

torch's builds for the CPU cannot run autograd on fake CUDA tensors (the process is aborted), but on the meta device
they can: there shapes are computed and no numbers. `card` lets the program take such tensors for a card's, and notes
every operation and every Triton kernel that would be launched.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.gpu import attention, dispatch, few_rows
from veneer.model.decoder import CausalLM
from veneer.model.families.choose import spec_from_hf
from veneer.model.leaves import DenseLinear
from veneer.quant.codes import CodeBook, packed_sizes
from veneer.quant.four_bit import QuantLinear
from veneer.quant.nested import NESTED_BLOCK, nested_scales

META = torch.device("meta")

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False, "max_position_embeddings": 8192, "rope_theta": 500_000.0,
}  # fmt: skip

FREE = {
    "aten::empty", "aten::empty_like", "aten::new_empty", "aten::empty_strided", "aten::new_empty_strided",
    "aten::detach", "aten::lift_fresh", "aten::_unsafe_view", "aten::_reshape_alias", "aten::set_", "aten::alias",
    "aten::is_same_size", "aten::_has_compatible_shallow_copy_type", "aten::resize_",
}  # fmt: skip
"""Operations that launch nothing, besides views."""

LAUNCHES = {
    "aten::_flash_attention_forward": 1,
    # The sums of dO · O, the gradients, the queries' rounded; and for grouped queries the sums of keys and of values.
    "aten::_flash_attention_backward": 5,
    "aten::constant_pad_nd": 2,
}
"""Kernels of an operation where it is more than one, or worth saying."""


@dataclass
class Tally(TorchDispatchMode):
    """What was asked of the card within the block."""

    launches: Counter[str] = field(default_factory=Counter)
    """Kernels by operation."""
    waits: list[str] = field(default_factory=list)
    """What the program has to wait for: numbers that are read, and copies from memory that is not pinned."""
    sent: int = 0
    """Copies to the card that nothing waits for."""

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def total(self) -> int:
        """All kernels."""
        return sum(self.launches.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        here = any(x.device == META for x in given)
        if name == "aten::_local_scalar_dense" and here:
            self.waits.append(name)
            return 1
        if name == "aten::_to_copy" and here and kwargs.get("device") == torch.device("cpu"):
            self.waits.append("a copy to the main memory")
            return torch.ones(given[0].shape, dtype=kwargs.get("dtype") or given[0].dtype)
        if name in ("aten::_to_copy", "aten::copy_") and any(x.device.type == "cpu" for x in given):
            to_card = here or kwargs.get("device") == META
            if to_card and not (kwargs.get("non_blocking") or True in args[2:]):
                self.waits.append("a copy from memory that is not pinned")
            self.sent += to_card
            return func(*args, **kwargs)
        found = func(*args, **kwargs)
        made = [x for x in tree_leaves(found) if isinstance(x, Tensor)]
        if (here or any(x.device == META for x in made)) and name not in FREE and not func.is_view:
            self.launches[name] += LAUNCHES.get(name, 1)
        return found


def as_on_a_card(patch: pytest.MonkeyPatch, kind: str = "cpu") -> None:
    """Let tensors of a kind of device say that they are on a card.

    A test with it proves that the branch for cards chooses and computes what it should. It proves nothing of a card:
    the CPU computes, or nothing does (the meta device).
    """
    patch.setattr(torch.Tensor, "is_cuda", property(lambda x: x.device.type == kind))


@contextmanager
def card(patch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0), *, packed: bool = True) -> Iterator[Tally]:
    """Let meta tensors be those of a card with Triton within the block; what was asked of it.

    `packed` is whether its products with packed weights have been tried and were right.
    """
    tally = Tally()

    def launch(
        kernel: Any, grid: tuple[int, ...], on: Tensor, arguments: Sequence[object], constants: Mapping[str, int]
    ) -> None:
        assert all(isinstance(x, int | float) or x.device == META for x in arguments)  # type: ignore[attr-defined]
        tally.launches[f"triton{kernel.__name__}"] += 1

    as_on_a_card(patch, META.type)
    patch.setattr(torch.Tensor, "pin_memory", lambda x: x)
    patch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    patch.setattr(dispatch, "triton_choice", lambda device=None: dispatch.GpuChoice(True, "meta"))
    patch.setattr(few_rows, "packed_choice", lambda device, dtype: dispatch.GpuChoice(packed, "meta"))
    for name in ("norm", "elementwise", "quant", "packed", "cross_entropy"):
        patch.setattr(importlib.import_module(f"veneer.gpu.{name}"), "launch_kernel", launch)
    attention._pack.cache_clear()
    with tally:
        yield tally
    attention._pack.cache_clear()


@dataclass(frozen=True)
class MetaWeights:
    """Makes the leaves of a decoder without memory (`veneer.model.leaves.Weights`)."""

    quantized: bool
    dtype: torch.dtype = torch.bfloat16

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        """A frozen linear layer."""
        if not self.quantized:
            return DenseLinear(self.parameter(f"{path}.weight", (out_features, in_features)))
        codes, blocks = packed_sizes(in_features * out_features, 64)
        scales = nested_scales(
            torch.empty(blocks, dtype=torch.uint8, device=META),
            torch.empty(-(-blocks // NESTED_BLOCK), device=META),
            torch.empty((), device=META),
        )
        packed = torch.empty(codes, dtype=torch.uint8, device=META)
        return QuantLinear((out_features, in_features), packed, scales, block=64, codebook=CodeBook.NF4)

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        """A frozen tensor."""
        return nn.Parameter(torch.empty(shape, dtype=self.dtype, device=META), requires_grad=False)


def meta_model(
    config: Mapping[str, Any] = LLAMA_8B, *, layers: int, quantized: bool, rank: int = 16, dropout: float = 0.0
) -> tuple[CausalLM, Any]:
    """A model of `layers` layers with an adapter, without memory; and the adapter."""
    spec = spec_from_hf(dict(config) | {"num_hidden_layers": layers})
    model = CausalLM(spec, MetaWeights(quantized), torch.bfloat16).train()
    generator = torch.Generator
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "Generator", lambda device="cpu": generator())  # there is none of the meta device
        adapter = inject(model, LoraSpec(rank=rank, alpha=2.0 * rank, dropout=dropout))
        as_on_a_card(patch, META.type)
        adapter.round_ahead(torch.bfloat16)
        return model, adapter
