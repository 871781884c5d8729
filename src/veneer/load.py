"""Loading a model from files, one tensor at a time, straight to its final form.

The decoder asks for its modules in order. Each weight is read, quantised if the method says so, and moved to the device
before the next one is read. The full-precision model is never in memory as a whole. Weights that the files hold
quantised are taken as they are, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
from veneer.io.protocol import BlockTensor
from veneer.io.tokenizer import Tokenizer
from veneer.large_pages import Slab, copied
from veneer.model.decoder import CausalLM, DenseLinear
from veneer.model.leaves import DenseTables
from veneer.model.spec import DecoderSpec, spec_from_hf
from veneer.native.stored import Format
from veneer.products import reads_blocks, reads_stored
from veneer.quant.blocks import BlockLinear
from veneer.quant.codes import BLOCKS, CodeBook, NestedScales, code_values, nested_values
from veneer.quant.int8 import Int8Linear
from veneer.quant.linear import QuantLinear
from veneer.quant.packed import PackedLinear
from veneer.quant.rowwise import RowwiseLinear
from veneer.quant.schemes import pack, skipped
from veneer.quant.tables import BlockEmbedding, BlockHead, BlockTable
from veneer.tables import TokenLookup

TABLE_NAMES = ("model.embed_tokens.weight", "lm_head.weight")
"""Names of the weights of embedding and head."""


class WeightForm(Enum):
    """The form of the weights in memory."""

    FROZEN = "frozen"
    """Weights in the compute dtype, without gradients: the base of LoRA. Quantised weights of the files stay
    quantised; those of a GGUF file in blocks that the kernels read stay in these. Linear layers that compute in float32
    keep 16 bits a weight where the kernels widen them."""
    QUANTIZED = "quantized"
    """Linear layers in 4 or 8 bits, all else as FROZEN: the base of QLoRA. Where the files hold quantised weights, no
    other weight is quantised."""
    TRAINABLE = "trainable"
    """Weights in float32, with gradients: full fine-tuning."""


class TableForm(Enum):
    """The form of embedding and head in memory."""

    DENSE = "dense"
    """Tensors, as `WeightForm` says: what can be trained and written."""
    STORED = "stored"
    """In the blocks of a GGUF file where kernels read these, else as DENSE: for models that only answer."""


@dataclass
class StreamedWeights:
    """Reads each tensor from the checkpoint as the decoder asks for it (`veneer.model.decoder.Weights`)."""

    checkpoint: Checkpoint
    dtype: torch.dtype
    device: torch.device
    form: WeightForm
    products: Products
    quant: QuantSection
    dense: frozenset[str]
    """Paths of the linear layers that are not quantised on loading."""
    progress: Callable[[str], None]
    keeps_blocks: bool = False
    """Whether linear layers are held in the blocks of a GGUF file where kernels read these."""
    narrow: bool = False
    """Whether frozen linear layers are held in 16 bits a weight where these hold the same numbers."""
    slab: Slab = field(default_factory=Slab)
    """Where frozen linear layers stand on the CPU."""

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        """See `veneer.model.decoder.Weights`."""
        name = f"{path}.weight"
        packed: PackedLinear | None = None
        weight = None
        if name in self.checkpoint.stored:
            self.progress(name)
            packed = self._stored(name)
        elif self.keeps_blocks and path in self.dense and name in self.checkpoint.blocks and not in_experts(path):
            self.progress(name)
            packed = self._blocks(name, in_features)
        else:
            weight = self._read(name, (out_features, in_features))
        bias_tensor = self._read(f"{path}.bias", (out_features,)) if bias else None
        if weight is not None and path not in self.dense:
            packed, weight = pack(weight, bias_tensor, self.quant), None
        elif packed is not None:
            packed.bias = bias_tensor
        if packed is not None:
            if self.products is Products.EXACT:
                for part, tensor in list(packed.named_buffers(recurse=False)):
                    setattr(packed, part, self._held(tensor))
                return packed
            weight = packed.dequantize(self.dtype)
        assert weight is not None
        if self.products is Products.INT8:
            return Int8Linear(weight, bias_tensor)
        if self.narrow and not in_experts(path):
            weight = narrowed(weight)
        held = self._parameter(self._held(weight))
        return DenseLinear(held, None if bias_tensor is None else self._parameter(bias_tensor))

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        """See `veneer.model.decoder.Weights`."""
        if path in self.checkpoint.stored:
            # A head that the files hold quantised is decoded once, which changes none of its values.
            self.progress(path)
            return self._parameter(self._stored(path).dequantize(self.dtype))
        return self._parameter(self._read(path, shape))

    def _held(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of a linear layer, where it stays."""
        placed = self.device.type == "cpu" and self.form is not WeightForm.TRAINABLE
        return self.slab.copied(tensor) if placed else tensor

    def _parameter(self, tensor: torch.Tensor) -> nn.Parameter:
        return nn.Parameter(tensor, requires_grad=self.form is WeightForm.TRAINABLE)

    def _read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        self.progress(name)
        tensor = self.checkpoint.read(name, self.dtype)
        if tensor.shape != shape:
            raise ModelError(f"{name} of {self.checkpoint.source} has shape {list(tensor.shape)}, not {list(shape)}")
        return tensor.to(self.device)

    def _blocks(self, name: str, columns: int) -> PackedLinear:
        held = self.checkpoint.blocks[name]
        return BlockLinear(held.read(), held.format, columns)

    def _stored(self, name: str) -> PackedLinear:
        return packed_layer(name, self.checkpoint.read_stored(name)).to(self.device)


@dataclass(frozen=True, slots=True)
class StreamedTables:
    """Reads embedding and head as the decoder asks for them (`veneer.model.leaves.Tables`): in the blocks of a GGUF
    file where it holds them so."""

    weights: StreamedWeights

    def embedding(self, path: str, shape: tuple[int, int]) -> TokenLookup:
        """See `Tables`."""
        table = self._blocks(path, shape)
        return DenseTables(self.weights).embedding(path, shape) if table is None else BlockEmbedding(table)

    def head(self, path: str, shape: tuple[int, int]) -> nn.Module:
        """See `Tables`."""
        table = self._blocks(path, shape)
        return DenseTables(self.weights).head(path, shape) if table is None else BlockHead(table)

    def _blocks(self, path: str, shape: tuple[int, int]) -> BlockTable | None:
        held = self.weights.checkpoint.blocks.get(path)
        if held is None:
            return None
        self.weights.progress(path)
        return BlockTable(held.read(), held.format, shape[1], self.weights.dtype)


def in_experts(path: str) -> bool:
    """Whether the linear layer at `path` belongs to one expert of a mixture."""
    return ".experts." in path


def narrowed(weight: torch.Tensor) -> torch.Tensor:
    """A float32 weight in bfloat16, or else float16, if that holds every number of it; else the weight itself."""
    for dtype in (torch.bfloat16, torch.float16):
        held = copied(weight, dtype)
        if torch.equal(held.float(), weight):
            return held
    return weight


def keeps_blocks(trained: bool, products: Products, device: str) -> bool:
    """Whether linear layers that are not quantised on loading stay in the blocks of a GGUF file.

    Args:
        trained: whether the weights themselves are trained.
        products: products of the linear layers.
        device: kind of device, `cpu` or `cuda`.
    """
    return not trained and products is Products.EXACT and reads_blocks(device)


def keeps_table_blocks(form: TableForm, trained: bool, device: str) -> bool:
    """Whether embedding and head stay in the blocks of a GGUF file; see `keeps_blocks`."""
    return form is TableForm.STORED and not trained and reads_blocks(device)


def packed_layer(name: str, stored: StoredWeight) -> PackedLinear:
    """Make a layer from the stored form of a quantised weight, on the CPU and without a bias.

    Raises:
        ModelError: codes and scales do not fit each other, or the file's code book is not that of the format.
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
    """Paths of the decoder's linear layers without the head, in checkpoint order."""
    return list(_recorded(spec).linears)


def linear_shapes(spec: DecoderSpec) -> dict[str, tuple[int, int, bool]]:
    """For the path of each linear layer: number of inputs, number of outputs, and whether it has a bias."""
    return dict(_recorded(spec).linears)


def norm_shapes(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor outside of linear layers, routers, embedding and head, in checkpoint order."""
    routers = () if spec.mixture is None else tuple(f"{path}." for path in spec.mixture.routers(spec.num_layers))
    return {name: shape for name, shape in _recorded(spec).norms.items() if not name.startswith(routers)}


def stored_quantisation(checkpoint: Checkpoint, spec: DecoderSpec) -> QuantSection | None:
    """The quantisation of the linear layers in the files of a decoder, or None where none is quantised.

    `skip_modules` of the result has the whole path of every layer that the files hold dense.

    Raises:
        ModelError: layers are stored in different formats, or in blocks of a size that is not read.
    """
    return stored_layers(checkpoint, linear_paths(spec))


def stored_layers(checkpoint: Checkpoint, paths: Sequence[str]) -> QuantSection | None:
    """`stored_quantisation` for any model whose linear layers have these paths."""
    found = {path: checkpoint.stored[f"{path}.weight"] for path in paths if f"{path}.weight" in checkpoint.stored}
    formats: dict[tuple[Scheme, int, bool], list[str]] = {}
    for path, kind in found.items():
        formats.setdefault((kind.scheme, kind.block, kind.nested), []).append(path)
    if len(formats) > 1:
        formats_found = listing(
            f"{_describe(found[layers[0]])}: {len(layers)}, {layers[0]}" for layers in formats.values()
        )
        raise ModelError(f"the layers of {checkpoint.source} are stored in different formats:\n{formats_found}")
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


def _describe(kind: StoredFormat) -> str:
    if kind.scheme is Scheme.INT8:
        return "int8"
    return f"{kind.scheme.value} in blocks of {kind.block}, {'double' if kind.nested else 'single'} quantisation"


def block_formats(blocks: Mapping[str, BlockTensor], paths: Sequence[str]) -> dict[str, Format]:
    """The formats of the linear layers among `paths` that stay in the blocks of a GGUF file, where these are kept."""
    names = {path: f"{path}.weight" for path in paths if not in_experts(path)}
    return {path: blocks[name].format for path, name in names.items() if name in blocks}


def table_formats(blocks: Mapping[str, BlockTensor]) -> dict[str, Format]:
    """The formats of embedding and head, by path, where a GGUF file holds them in blocks."""
    return {name.removesuffix(".weight"): blocks[name].format for name in TABLE_NAMES if name in blocks}


def check_tensors(checkpoint: Checkpoint, spec: DecoderSpec) -> None:
    """Compare the tensors that `spec` needs with the names and shapes in the files, before any tensor is read.

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


def check_vocabulary(tokenizer: Tokenizer, rows: int, source: str) -> None:
    """Refuse a tokenizer with ids that the embedding has no row for.

    Args:
        tokenizer: the tokenizer of the model.
        rows: number of rows of the model's embedding.
        source: name of the model in the error.

    Raises:
        ModelError: there are such ids; both sizes are named.
    """
    if tokenizer.vocab_size > rows:
        raise ModelError(
            f"the tokenizer of {source} has ids up to {tokenizer.vocab_size - 1:,}, and the model's embedding has "
            f"{rows:,} rows. Take the tokenizer that belongs to the model, or one without the tokens that were added; "
            "tokens of your own are added by lora.new_tokens."
        )


def refuse_training(source: str, scheme: Scheme) -> NoReturn:
    """Raise ConfigError: weights that the files hold quantised cannot be fine-tuned in full."""
    raise ConfigError(
        f"{source} holds its weights quantised ({scheme.value}), and method full trains all of them in float32: what "
        "was rounded away would be missing from the result. Take method qlora, or the model's unquantised checkpoint"
    )


def expected_tensors(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model, in checkpoint order."""
    return dict(_recorded(spec).shapes)


@cache
def _recorded(spec: DecoderSpec) -> _Recorder:
    """The tensors that a model asks for. Cached, since it takes a tenth of a second for a hundred layers."""
    recorder = _Recorder()
    CausalLM(spec, recorder, torch.float32)
    return recorder


class _Recorder:
    """A `Weights` without memory, which records what it is asked for."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.linears: dict[str, tuple[int, int, bool]] = {}

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        self.linears[path] = (in_features, out_features, bias)
        weight = self.parameter(f"{path}.weight", (out_features, in_features))
        return DenseLinear(weight, self.parameter(f"{path}.bias", (out_features,)) if bias else None)

    @property
    def norms(self) -> dict[str, tuple[int, ...]]:
        """Tensors outside of linear layers, embedding and head."""
        of_linears = {f"{path}.{name}" for path in self.linears for name in ("weight", "bias")} | {*TABLE_NAMES}
        return {name: shape for name, shape in self.shapes.items() if name not in of_linears}

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        self.shapes[path] = shape
        return nn.Parameter(torch.empty(shape, device="meta"))


def unloaded_model(checkpoint: Checkpoint, dtype: torch.dtype) -> CausalLM:
    """The model of `checkpoint` with weights that are trained, in float32 and without memory (on the meta device).

    Args:
        checkpoint: the files of the model.
        dtype: dtype of activations and products.

    Raises:
        ModelError: the architecture is unknown or tensors do not fit the configuration.
        ConfigError: the files hold quantised weights.
    """
    spec = spec_from_hf(checkpoint.config)
    check_tensors(checkpoint, spec)
    if checkpoint.stored:
        refuse_training(checkpoint.source, next(iter(checkpoint.stored.values())).scheme)
    return CausalLM(spec, _Recorder(), dtype)


def load_model(
    checkpoint: Checkpoint,
    *,
    form: WeightForm = WeightForm.FROZEN,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    products: Products = Products.EXACT,
    quant: QuantSection | None = None,
    tables: TableForm = TableForm.DENSE,
    progress: Callable[[str], None] = lambda name: None,
) -> CausalLM:
    """Build the model of `checkpoint`.

    Args:
        checkpoint: the files of the model.
        form: form of the weights. TRAINABLE weights are float32 whatever `dtype` is.
        dtype: dtype of activations and products, and of frozen weights.
        device: device that the weights are moved to, tensor by tensor.
        products: products of the linear layers. INT8 replaces the weights (decoded, where they are quantised) by 8-bit
            copies. It is not possible with TRAINABLE.
        quant: settings for `WeightForm.QUANTIZED`. They have no effect on files that are quantised already.
        tables: form of embedding and head.
        progress: function that is called with the name of every tensor that is read.

    Raises:
        ModelError: the architecture is unknown or tensors do not fit the configuration.
        ConfigError: this machine cannot make `products`, `quant` skips layers that do not exist, or the files hold
            quantised weights and `form` is TRAINABLE.
    """
    device = torch.device(device)
    check_products(products, device)
    if products is Products.INT8 and form is WeightForm.TRAINABLE:
        raise ConfigError("compute.products int8 is for a frozen base; weights that are trained are multiplied exactly")
    spec = spec_from_hf(checkpoint.config)
    check_tensors(checkpoint, spec)
    stored = stored_quantisation(checkpoint, spec)
    if form is WeightForm.TRAINABLE and checkpoint.stored:
        refuse_training(checkpoint.source, next(iter(checkpoint.stored.values())).scheme)
    quant = quant or QuantSection()
    paths = linear_paths(spec)
    quantizing = form is WeightForm.QUANTIZED and stored is None
    weights = StreamedWeights(
        checkpoint=checkpoint,
        dtype=torch.float32 if form is WeightForm.TRAINABLE else dtype,
        device=device,
        form=form,
        products=products,
        quant=quant,
        dense=skipped(paths, quant.skip_modules) if quantizing else frozenset(paths),
        progress=progress,
        keeps_blocks=keeps_blocks(form is WeightForm.TRAINABLE, products, device.type),
        narrow=form is not WeightForm.TRAINABLE and reads_stored(dtype, device.type),
    )
    stays = keeps_table_blocks(tables, form is WeightForm.TRAINABLE, device.type)
    return CausalLM(spec, weights, dtype, StreamedTables(weights) if stays else None)
