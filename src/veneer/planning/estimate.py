"""What a run takes where transformers computes the model: an upper estimate, and a cut that is sane.

`veneer.planning.memory` counts what veneer's own decoder keeps, to the byte. What another program's modules keep is not
known from shapes, so that nothing is refused here, and what is said is called an estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from veneer.adapters.spec import LoraSpec
from veneer.config import ComputeSection, QuantSection
from veneer.enums import Recompute
from veneer.losses import CHUNK_ROWS
from veneer.model.hf_skeleton import HfSpec
from veneer.planning.choose import ROUNDING, CutFor, Limit
from veneer.planning.memory import GPU_START, MB, resident
from veneer.planning.setup import BatchShape
from veneer.planning.trained import LinearShape
from veneer.quant.schemes import packed_bytes, skipped

LAYER_WIDTHS = 17
"""Numbers kept for a token and layer, in hidden states: the 34 bytes a 16-bit number of Korthikanti et al., 2022
(arXiv:2205.05198), section 4, without the scores of attention."""
TYPICAL_TOKENS = 1024
"""Of a micro-batch, where the longest row is shorter: on a CPU more gains nothing (docs/benchmarks.md)."""
TRAINED_BYTES = 16
"""For each trained number: itself, its gradient and two moments, in float32."""
SCORES = 3
"""A chunk's scores, their gradient, and a copy while the loss is formed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Bytes at the most, and the cut."""

    runtime: int
    """Interpreter, torch, transformers and what they load."""
    base: int
    """Weights as the method holds them."""
    trained: int
    """The adapter with its gradients and the optimiser's state."""
    activations: int
    """Kept from forward to backward, and the scores."""
    limit: Limit
    micro_batch_tokens: int
    recompute: bool

    @property
    def peak(self) -> int:
        """Their sum."""
        return self.runtime + self.base + self.trained + self.activations

    def lines(self) -> list[str]:
        """The estimate in a sentence or two."""
        kept = "layers computed again in backward" if self.recompute else "activations kept"
        said = [
            f"not planned, since transformers computes the model: about {self.peak / MB:,.0f} MB at most (weights "
            f"{self.base / MB:,.0f}; activations by {LAYER_WIDTHS} hidden states a layer and what enters and leaves "
            f"the linear layers); micro-batches of up to {self.micro_batch_tokens:,} tokens, {kept}"
        ]
        if self.peak > self.limit.bytes:
            said.append(
                f"that is more than the {self.limit.bytes / MB:,.0f} MB allowed ({self.limit.source}); the run is "
                "tried all the same, as it is an estimate"
            )
        return said

    def to_json(self) -> dict[str, Any]:
        """Every number, for programs. Sizes are in bytes."""
        limit = self.limit.bytes if self.limit.bytes < float("inf") else None
        return {**asdict(self), "peak": self.peak, "limit": limit, "exact": False}


def hf_linears(spec: HfSpec, lora: LoraSpec) -> list[dict[str, LinearShape]]:
    """The linear layers with the updates that `lora` puts on them, as `veneer.planning.setup.decoder_linears` has them.

    Raises:
        AdapterError: `lora` names what is not there.
    """
    adapted = set(lora.targets([linear.path for linear in spec.adaptable]))
    return [
        {
            linear.path: LinearShape(
                linear.path,
                linear.inputs,
                linear.outputs,
                bias=linear.bias,
                rank=lora.rank_of(linear.path) if linear.path in adapted else 0,
            )
            for linear in spec.linears
        }
    ]


def estimate(
    spec: HfSpec,
    lora: LoraSpec,
    quant: QuantSection | None,
    compute: ComputeSection,
    longest: int,
    cut_for: CutFor,
    limit: Limit,
    *,
    dtype: torch.dtype,
    device: str,
) -> Estimate:
    """Choose a cut, with activations kept where the estimate is within the limit.

    Args:
        spec: of the model.
        lora: the adapter.
        quant: how linear layers are held quantised, or None.
        compute: what is given there is taken as it is.
        longest: tokens of the longest row.
        cut_for: the cut of the run's rows under a micro-batch of so many tokens.
        limit: what should not be passed.
        dtype: of activations and what is not quantised.
        device: `cpu` or `cuda`.

    Raises:
        AdapterError: `lora` names what is not there.
        ConfigError: `quant` skips layers that there are not.
    """
    linears = [linear for layer in hf_linears(spec, lora) for linear in layer.values()]
    dense = frozenset(linear.path for linear in linears)
    if quant is not None:
        dense = skipped([linear.path for linear in linears], quant.skip_modules)
    base = dtype.itemsize * spec.others
    for linear in linears:
        held = linear.path in dense or quant is None
        base += (
            linear.weights * dtype.itemsize
            if held
            else packed_bytes(linear.outputs, linear.inputs, quant or QuantSection())
        )
    runtime = resident() if device == "cpu" else GPU_START
    trained = TRAINED_BYTES * sum(linear.factors for linear in linears)
    kept = _kept(spec, linears, dtype)

    def option(tokens: int, recompute: bool) -> Estimate:
        return Estimate(
            runtime=runtime,
            base=base,
            trained=trained,
            activations=kept(cut_for(tokens), recompute),
            limit=limit,
            micro_batch_tokens=tokens,
            recompute=recompute,
        )

    again = {
        Recompute.NEVER: (False,),
        Recompute.LAYERS: (True,),
        Recompute.AUTO: (False, True)[: 1 + spec.recomputable],
    }
    options = [option(tokens, how) for how in again[compute.recompute] for tokens in _tokens(compute, longest)]
    return next((one for one in options if one.peak <= limit.bytes), options[-1])


def _tokens(compute: ComputeSection, longest: int) -> list[int]:
    """Micro-batches that are considered, the preferred one first."""
    if compute.micro_batch_tokens != "auto":
        return [compute.micro_batch_tokens]
    own = -(-longest // ROUNDING) * ROUNDING
    return list(dict.fromkeys((max(own, TYPICAL_TOKENS), own)))


def _kept(spec: HfSpec, linears: list[LinearShape], dtype: torch.dtype) -> Callable[[BatchShape, bool], int]:
    whole = LAYER_WIDTHS * spec.num_layers * spec.hidden_size + sum(
        linear.inputs + linear.outputs for linear in linears
    )
    recomputed = spec.num_layers * spec.hidden_size + whole // max(1, spec.num_layers)

    def kept(cut: BatchShape, recompute: bool) -> int:
        by_token = recomputed if recompute else whole
        scores = SCORES * min(CHUNK_ROWS, cut.supervised) * spec.vocab_size
        return dtype.itemsize * (cut.tokens * by_token + scores)

    return kept
