"""From files to a model in memory: one tensor at a time, straight to its final form.

The decoder asks for its leaves in order; each is read, quantised if the method says so, and placed on the device
before the next one is read. The full-precision model never stands in memory. What the files hold quantised is taken as
it is, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import NoReturn

import torch
from torch import nn

from veneer.config import QuantSection
from veneer.enums import Products, Scheme
from veneer.errors import ConfigError, ModelError, listing
from veneer.hardware import check_products
from veneer.io.checkpoint import Checkpoint
from veneer.io.prequantised import StoredFormat, StoredWeight
from veneer.model.decoder import CausalLM, DenseLinear
from veneer.model.spec import DecoderSpec, spec_from_hf
from veneer.quant.codes import BLOCKS, CodeBook, NestedScales, code_values, nested_values
from veneer.quant.int8 import Int8Linear
from veneer.quant.linear import QuantLinear
from veneer.quant.packed import PackedLinear
from veneer.quant.rowwise import RowwiseLinear
from veneer.quant.schemes import pack, skipped

TABLES = ("model.embed_tokens.weight", "lm_head.weight")
"""Embedding and head."""


class Holding(Enum):
    """How the weights are held."""

    FROZEN = "frozen"
    """In the compute dtype, without gradients: the base of LoRA. What the files hold quantised stays so."""
    QUANTIZED = "quantized"
    """Linear layers in 4 or 8 bits, the rest as FROZEN: the base of QLoRA. Files that hold quantised weights are taken
    as they are, and none of their other weights is quantised."""
    TRAINABLE = "trainable"
    """In float32, with gradients: full fine-tuning."""


@dataclass
class StreamedWeights:
    """Reads each tensor from the checkpoint as the decoder asks for it (`veneer.model.decoder.Weights`)."""

    checkpoint: Checkpoint
    dtype: torch.dtype
    device: torch.device
    holding: Holding
    products: Products
    quant: QuantSection
    dense: frozenset[str]
    """Paths of linear layers that are not quantised here."""
    progress: Callable[[str], None]

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        """See `veneer.model.decoder.Weights`."""
        name = f"{path}.weight"
        packed, weight = None, None
        if name in self.checkpoint.stored:
            self.progress(name)
            packed = self._stored(name)
        else:
            weight = self._read(name, (out_features, in_features))
        bias_tensor = self._read(f"{path}.bias", (out_features,)) if bias else None
        if weight is not None and path not in self.dense:
            packed, weight = pack(weight, bias_tensor, self.quant), None
        elif packed is not None:
            packed.bias = bias_tensor
        if packed is not None:
            if self.products is Products.EXACT:
                return packed
            weight = packed.dequantize(self.dtype)
        assert weight is not None
        if self.products is Products.INT8:
            return Int8Linear(weight, bias_tensor)
        return DenseLinear(self._parameter(weight), None if bias_tensor is None else self._parameter(bias_tensor))

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        """See `veneer.model.decoder.Weights`."""
        if path in self.checkpoint.stored:
            # A head that transformers was told to quantise: decoded once, which changes none of its values.
            self.progress(path)
            return self._parameter(self._stored(path).dequantize(self.dtype))
        return self._parameter(self._read(path, shape))

    def _parameter(self, tensor: torch.Tensor) -> nn.Parameter:
        return nn.Parameter(tensor, requires_grad=self.holding is Holding.TRAINABLE)

    def _read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        self.progress(name)
        return self.checkpoint.read(name, self.dtype).to(self.device)

    def _stored(self, name: str) -> PackedLinear:
        return packed_layer(name, self.checkpoint.read_stored(name)).to(self.device)


def packed_layer(name: str, stored: StoredWeight) -> PackedLinear:
    """The layer of a weight as its file holds it, on the CPU and without a bias.

    Raises:
        ModelError: its parts do not fit each other, or its codes mean other values than the format's.
    """
    kind = stored.format
    if kind.scheme is Scheme.INT8:
        return RowwiseLinear(stored.codes, stored.scales)
    codebook = CodeBook(kind.scheme.value)
    tables = [(stored.values, code_values(codebook)), (stored.nested_values, nested_values() if kind.nested else None)]
    for found, expected in tables:
        if found is not None and expected is not None and not torch.equal(found, expected):
            raise ModelError(
                f"the codes of {name} mean other values than {kind.scheme.value}'s: it was written by a program, or a "
                "version, whose code book is not read. Use the model's unquantised checkpoint."
            )
    scales: torch.Tensor | NestedScales = stored.scales
    if stored.nested_scales is not None:
        scales = NestedScales(stored.scales, stored.nested_scales, torch.tensor(stored.nested_offset))
    shape = (kind.shape[0], kind.shape[1])
    return QuantLinear(shape, stored.codes, scales, block=kind.block, codebook=codebook)


def linear_paths(spec: DecoderSpec) -> list[str]:
    """Paths of the decoder's linear layers, the head left out, in checkpoint order."""
    return list(_recorded(spec).linears)


def linear_shapes(spec: DecoderSpec) -> dict[str, tuple[int, int, bool]]:
    """Inputs, outputs and whether there is a bias, of every one of those layers."""
    return dict(_recorded(spec).linears)


def norm_shapes(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that is of no linear layer, router, embedding or head, in checkpoint order."""
    routers = () if spec.mixture is None else tuple(f"{path}." for path in spec.mixture.routers(spec.num_layers))
    return {name: shape for name, shape in _recorded(spec).norms.items() if not name.startswith(routers)}


def stored_quantisation(checkpoint: Checkpoint, spec: DecoderSpec) -> QuantSection | None:
    """How the files of `checkpoint` hold its linear layers, or None where they hold none of them quantised.

    `skip_modules` of what is returned has the whole path of every layer that they hold dense.

    Raises:
        ModelError: layers are stored in different formats, or in blocks of a size that is not read.
    """
    return stored_layers(checkpoint, linear_paths(spec))


def stored_layers(checkpoint: Checkpoint, paths: Sequence[str]) -> QuantSection | None:
    """The same of any model, whose linear layers have these paths."""
    found = {path: checkpoint.stored[f"{path}.weight"] for path in paths if f"{path}.weight" in checkpoint.stored}
    formats: dict[tuple[Scheme, int, bool], list[str]] = {}
    for path, kind in found.items():
        formats.setdefault((kind.scheme, kind.block, kind.nested), []).append(path)
    if len(formats) > 1:
        several = listing(f"{_spoken(found[layers[0]])}: {len(layers)}, {layers[0]}" for layers in formats.values())
        raise ModelError(f"the layers of {checkpoint.source} are stored in different formats:\n{several}")
    if not formats:
        return None
    ((scheme, block, nested),) = formats
    dense = tuple(path for path in paths if path not in found)
    if scheme is Scheme.INT8:
        return QuantSection(scheme=scheme, skip_modules=dense)
    if block not in BLOCKS:
        known = ", ".join(map(str, BLOCKS))
        raise ModelError(f"{checkpoint.source} is stored in blocks of {block} weights; those of {known} are read")
    return QuantSection.model_validate(
        {"scheme": scheme, "block": block, "double_quant": nested, "skip_modules": dense}
    )


def _spoken(kind: StoredFormat) -> str:
    if kind.scheme is Scheme.INT8:
        return "int8"
    return f"{kind.scheme.value} in blocks of {kind.block}, {'double' if kind.nested else 'single'} quantisation"


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


def refuse_training(source: str, scheme: Scheme) -> NoReturn:
    """Full fine-tuning of weights that the files hold quantised: always raises ConfigError."""
    raise ConfigError(
        f"{source} holds its weights quantised ({scheme.value}), and method full trains all of them in float32: what "
        "was rounded away would be missing from the result. Take method qlora, or the model's unquantised checkpoint"
    )


def expected_tensors(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model, in checkpoint order."""
    return dict(_recorded(spec).shapes)


@cache
def _recorded(spec: DecoderSpec) -> _Recorder:
    """What a model asks for; a tenth of a second for a hundred layers, and asked for several times."""
    recorder = _Recorder()
    CausalLM(spec, recorder, torch.float32)
    return recorder


class _Recorder:
    """A `Weights` that holds nothing: it notes what it is asked for."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.linears: dict[str, tuple[int, int, bool]] = {}

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        self.linears[path] = (in_features, out_features, bias)
        weight = self.parameter(f"{path}.weight", (out_features, in_features))
        return DenseLinear(weight, self.parameter(f"{path}.bias", (out_features,)) if bias else None)

    @property
    def norms(self) -> dict[str, tuple[int, ...]]:
        """What is neither of a linear layer nor a table."""
        others = {f"{path}.{name}" for path in self.linears for name in ("weight", "bias")} | {*TABLES}
        return {name: shape for name, shape in self.shapes.items() if name not in others}

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
    quant: QuantSection | None = None,
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
        quant: settings for `Holding.QUANTIZED`; without effect on files that are quantised already.
        progress: called with the name of every tensor that is read.

    Raises:
        ModelError: the architecture is unknown or tensors do not fit the configuration.
        ConfigError: `products` cannot be made here, `quant` skips layers that there are not, or weights that the files
            hold quantised are to be trained.
    """
    device = torch.device(device)
    check_products(products, device)
    if products is Products.INT8 and holding is Holding.TRAINABLE:
        raise ConfigError("compute.products int8 is for a frozen base; weights that are trained are multiplied exactly")
    spec = spec_from_hf(checkpoint.config)
    check_tensors(checkpoint, spec)
    stored = stored_quantisation(checkpoint, spec)
    if holding is Holding.TRAINABLE and checkpoint.stored:
        refuse_training(checkpoint.source, next(iter(checkpoint.stored.values())).scheme)
    quant = quant or QuantSection()
    paths = linear_paths(spec)
    quantizing = holding is Holding.QUANTIZED and stored is None
    weights = StreamedWeights(
        checkpoint=checkpoint,
        dtype=torch.float32 if holding is Holding.TRAINABLE else dtype,
        device=device,
        holding=holding,
        products=products,
        quant=quant,
        dense=skipped(paths, quant.skip_modules) if quantizing else frozenset(paths),
        progress=progress,
    )
    return CausalLM(spec, weights, dtype)
