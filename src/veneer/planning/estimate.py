"""An upper estimate of a run's memory if transformers computes the model, and a reasonable micro-batch.

`veneer.planning.memory` counts the memory of veneer's own decoder to the byte. The memory of another program's modules
does not follow from shapes. So nothing is refused here, and the result is called an estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from veneer.adapters.spec import LoraSpec
from veneer.config import ComputeSection, QuantSection
from veneer.losses.scores import chunk_rows
from veneer.model.hf_skeleton import HfSpec
from veneer.planning.batch_shape import BatchShape, RowSizes
from veneer.planning.choose import Limit, own_size
from veneer.planning.memory import GPU_START, MB
from veneer.planning.trained import LinearShape
from veneer.quant.schemes import packed_bytes, skipped

LAYER_WIDTHS = 17
"""Hidden states that each layer keeps for a token: the 34 bytes for each 16-bit number of Korthikanti et al., 2022
(arXiv:2205.05198), section 4, without the scores of attention."""
TYPICAL_TOKENS = 1024
"""The micro-batch size, in tokens, if the longest row is shorter. On a CPU larger ones gain nothing
(docs/benchmarks.md)."""
TRAINED_BYTES = 16
"""Bytes for each trained number: the number, its gradient and two moments, in float32."""
SCORES = 3
"""Copies of a chunk's logits: the logits, their gradient, and one more while the loss is computed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Estimated memory in bytes, and the micro-batch."""

    runtime: int
    """Interpreter, torch, transformers and the libraries that they load."""
    base: int
    """Weights of the base in the form of the method, and those of a teacher in the same process."""
    trained: int
    """The adapter with its gradients and the optimiser's state."""
    activations: int
    """Tensors kept from forward to backward, and the logits."""
    limit: Limit
    micro_batch_tokens: int
    recompute: bool

    @property
    def refusal(self) -> None:
        """None: nothing is refused for an estimate."""
        return None

    @property
    def peak(self) -> int:
        """The sum of all components."""
        return self.runtime + self.base + self.trained + self.activations

    def lines(self) -> list[str]:
        """The estimate in a sentence or two."""
        kept = "layers computed again in backward" if self.recompute else "activations kept"
        lines = [
            f"not planned, because transformers computes the model: about {self.peak / MB:,.0f} MB at most (weights "
            f"{self.base / MB:,.0f}; activations by {LAYER_WIDTHS} hidden states a layer and what enters and leaves "
            f"the linear layers); micro-batches of up to {self.micro_batch_tokens:,} tokens, {kept}"
        ]
        if self.peak > self.limit.bytes:
            lines.append(
                f"that is more than the {self.limit.bytes / MB:,.0f} MB allowed ({self.limit.source}); the run is "
                "tried nevertheless, because this is an estimate"
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Every number, for programs. Sizes are in bytes."""
        return {**asdict(self), "peak": self.peak, "limit": self.limit.known, "exact": False}


def hf_linears(spec: HfSpec, lora: LoraSpec, targets: Sequence[str]) -> list[dict[str, LinearShape]]:
    """The linear layers with the updates of `lora`, in the form of `veneer.planning.setup.decoder_linears`.

    Args:
        spec: sizes of the model.
        lora: the adapter.
        targets: paths that get an update.
    """
    adapted = set(targets)
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
    targets: Sequence[str],
    quant: QuantSection | None,
    compute: ComputeSection,
    rows: RowSizes,
    limit: Limit,
    *,
    dtype: torch.dtype,
    device: str,
    beside: int = 0,
    start: int,
) -> Estimate:
    """Choose a micro-batch, and keep activations if the estimate is within the limit.

    Args:
        spec: sizes of the model.
        lora: the adapter.
        targets: paths that get an update.
        quant: quantisation of the linear layers, or None.
        compute: section `compute` of the configuration. Its explicit settings are not changed.
        rows: sizes of the run's rows.
        limit: the limit of memory.
        dtype: dtype of activations and of weights that are not quantised.
        device: kind of device, `cpu` or `cuda`.
        beside: bytes of a teacher in the same process.
        start: resident bytes of the process before the model is loaded.

    Raises:
        ConfigError: `quant` skips layers that do not exist.
    """
    linears = [linear for layer in hf_linears(spec, lora, targets) for linear in layer.values()]
    base = dtype.itemsize * spec.others + linear_bytes(linears, quant, dtype) + beside
    runtime = start if device == "cpu" else GPU_START
    trained = TRAINED_BYTES * sum(linear.factors for linear in linears)
    kept = _kept(spec, linears, dtype, chunk_rows(device))

    def option(tokens: int, recompute: bool) -> Estimate:
        return Estimate(
            runtime=runtime,
            base=base,
            trained=trained,
            activations=kept(rows.batch_shape(tokens), recompute),
            limit=limit,
            micro_batch_tokens=tokens,
            recompute=recompute,
        )

    tried = compute.recompute.tried if spec.recomputable else compute.recompute.tried[:1]
    options = [option(tokens, how) for how in tried for tokens in _tokens(compute, rows.longest)]
    return next((one for one in options if one.peak <= limit.bytes), options[-1])


def linear_bytes(linears: Sequence[LinearShape], quant: QuantSection | None, dtype: torch.dtype) -> int:
    """Bytes of the linear layers' weights: packed, unless nothing is quantised or `quant` skips the layer."""
    if quant is None:
        return dtype.itemsize * sum(linear.weights for linear in linears)
    dense = skipped([linear.path for linear in linears], quant.skip_modules)
    return sum(
        dtype.itemsize * linear.weights if linear.path in dense else packed_bytes(linear.outputs, linear.inputs, quant)
        for linear in linears
    )


def _tokens(compute: ComputeSection, longest: int) -> list[int]:
    """The micro-batch sizes, in tokens, that are considered, the preferred one first."""
    if compute.micro_batch_tokens != "auto":
        return [compute.micro_batch_tokens]
    own = own_size(longest)
    return list(dict.fromkeys((max(own, TYPICAL_TOKENS), own)))


def _kept(
    spec: HfSpec, linears: list[LinearShape], dtype: torch.dtype, chunk: int
) -> Callable[[BatchShape, bool], int]:
    whole = LAYER_WIDTHS * spec.num_layers * spec.hidden_size + sum(
        linear.inputs + linear.outputs for linear in linears
    )
    recomputed = spec.num_layers * spec.hidden_size + whole // max(1, spec.num_layers)

    def kept(batch: BatchShape, recompute: bool) -> int:
        by_token = recomputed if recompute else whole
        scores = SCORES * min(chunk, batch.supervised) * spec.vocab_size
        return dtype.itemsize * (batch.tokens * by_token + scores)

    return kept
