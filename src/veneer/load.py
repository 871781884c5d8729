"""From files to a model in memory: one tensor at a time, straight to its final form.

The decoder asks for its leaves in order; each is read, quantised if the method says so, and placed on the device
before the next one is read. The full-precision model never stands in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import nn

from veneer.config import Products
from veneer.errors import ConfigError, ModelError, listing
from veneer.hardware import check_products
from veneer.io.checkpoint import Checkpoint
from veneer.model.decoder import CausalLM, DenseLinear
from veneer.model.spec import DecoderSpec, spec_from_hf
from veneer.quant.int8 import Int8Linear
from veneer.quant.linear import QuantConfig, QuantLinear


class Holding(Enum):
    """How the weights are held."""

    FROZEN = "frozen"
    """In the compute dtype, without gradients: the base of LoRA."""
    QUANTIZED = "quantized"
    """Linear layers in 4 bits, the rest as FROZEN: the base of QLoRA."""
    TRAINABLE = "trainable"
    """In float32, with gradients: full fine-tuning."""


@dataclass
class _StreamedWeights:
    """Reads each tensor from the checkpoint as the decoder asks for it (`veneer.model.decoder.Weights`)."""

    checkpoint: Checkpoint
    dtype: torch.dtype
    device: torch.device
    holding: Holding
    products: Products
    quant: QuantConfig
    progress: Callable[[str], None]

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        weight = self._read(f"{path}.weight", (out_features, in_features))
        bias_tensor = self._read(f"{path}.bias", (out_features,)) if bias else None
        if self.holding is Holding.QUANTIZED:
            quant = self.quant
            packed = QuantLinear.from_weight(
                weight, bias_tensor, block=quant.block, double_quant=quant.double_quant, codebook=quant.codebook
            )
            if self.products is Products.EXACT:
                return packed
            weight = packed.dequantize(self.dtype)
        if self.products is Products.INT8:
            return Int8Linear(weight, bias_tensor)
        return DenseLinear(self._parameter(weight), None if bias_tensor is None else self._parameter(bias_tensor))

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        return self._parameter(self._read(path, shape))

    def _parameter(self, tensor: torch.Tensor) -> nn.Parameter:
        return nn.Parameter(tensor, requires_grad=self.holding is Holding.TRAINABLE)

    def _read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        self.progress(name)
        return self.checkpoint.read(name, self.dtype).to(self.device)


def check_tensors(checkpoint: Checkpoint, spec: DecoderSpec) -> None:
    """Compare the tensors that `spec` needs with those that the files have, before anything is read.

    Raises:
        ModelError: tensors are missing or of another shape; all are named.
    """
    present = frozenset(checkpoint.names())
    problems = []
    for name, shape in expected_tensors(spec).items():
        if name not in present:
            problems.append(f"{name}: missing")
        elif checkpoint.shape(name) != shape:
            problems.append(f"{name}: shape {list(checkpoint.shape(name))}, config.json says {list(shape)}")
    if problems:
        raise ModelError(f"the tensors of {checkpoint.source} do not fit its configuration:\n{listing(problems)}")


def expected_tensors(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model, in checkpoint order."""
    recorder = _Recorder()
    CausalLM(spec, recorder, torch.float32)
    return recorder.shapes


class _Recorder:
    """A `Weights` that holds nothing: it notes what it is asked for."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        weight = self.parameter(f"{path}.weight", (out_features, in_features))
        return DenseLinear(weight, self.parameter(f"{path}.bias", (out_features,)) if bias else None)

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        self.shapes[path] = shape
        return nn.Parameter(torch.empty(shape, device="meta"))


def load_model(
    checkpoint: Checkpoint,
    *,
    holding: Holding = Holding.FROZEN,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    products: Products = Products.EXACT,
    quant: QuantConfig | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> CausalLM:
    """Build the model of `checkpoint`.

    Args:
        checkpoint: opened files.
        holding: dense and frozen, quantised, or trainable (then stored in float32 whatever `dtype` is).
        dtype: of activations and products, and of frozen weights.
        device: where the weights go, tensor by tensor.
        products: of the linear layers; INT8 makes 8-bit copies of the weights that `holding` would hold, in their
            place (those of QUANTIZED decoded). Not with TRAINABLE.
        quant: settings for `Holding.QUANTIZED`.
        progress: called with the name of every tensor that is read.

    Raises:
        ModelError: the architecture is unknown or tensors do not fit the configuration.
        ConfigError: `products` cannot be made here.
    """
    device = torch.device(device)
    check_products(products, device)
    if products is Products.INT8 and holding is Holding.TRAINABLE:
        raise ConfigError("compute.products int8 is for a frozen base; weights that are trained are multiplied exactly")
    spec = spec_from_hf(checkpoint.config)
    check_tensors(checkpoint, spec)
    weights = _StreamedWeights(
        checkpoint=checkpoint,
        dtype=torch.float32 if holding is Holding.TRAINABLE else dtype,
        device=device,
        holding=holding,
        products=products,
        quant=quant or QuantConfig(),
        progress=progress,
    )
    return CausalLM(spec, weights, dtype)
