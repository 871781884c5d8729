"""Quantised weights in files: their format, and the layers that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from veneer.config import QuantSection
from veneer.enums import Scheme
from veneer.errors import ModelError, listing
from veneer.io.checkpoint import Checkpoint
from veneer.io.prequantised import StoredFormat, StoredWeight
from veneer.io.protocol import BlockTensor
from veneer.loading.expected import TABLE_NAMES, linear_paths
from veneer.model.shape import DecoderSpec
from veneer.native.stored import Format, NestedScales
from veneer.quant.codes import BLOCK_SIZES, CodeBook, code_values
from veneer.quant.dynamic import DynamicMap, map_values
from veneer.quant.four_bit import QuantLinear
from veneer.quant.nested import nested_scales
from veneer.quant.packed import PackedLinear
from veneer.quant.rowwise import RowwiseLinear


def stored_quantisation(checkpoint: Checkpoint, spec: DecoderSpec) -> QuantSection | None:
    """The quantisation of the linear layers in the files of a decoder, or None if none is quantised.

    `skip_modules` of the result has the whole path of every layer that is dense in the files.

    Raises:
        ModelError: layers are stored in different formats, or in blocks of an unsupported size.
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
    if block not in BLOCK_SIZES:
        known = ", ".join(map(str, BLOCK_SIZES))
        raise ModelError(
            f"{checkpoint.source} is stored in blocks of {block} weights; only those of {known} can be read"
        )
    return QuantSection.model_validate(
        {"scheme": scheme, "block": block, "double_quant": nested, "skip_modules": dense}
    )


def _describe(kind: StoredFormat) -> str:
    if kind.scheme is Scheme.INT8:
        return "int8"
    return f"{kind.scheme.value} in blocks of {kind.block}, {'double' if kind.nested else 'single'} quantisation"


def packed_layer(name: str, stored: StoredWeight) -> PackedLinear:
    """Make a layer from the stored form of a quantised weight, on the CPU and without a bias.

    Raises:
        ModelError: codes and scales do not fit each other, or the file's code book is not that of the format.
    """
    _check_code_book(name, stored)
    try:
        return _layer(stored)
    except ModelError as error:
        raise ModelError(f"{name} is damaged: {error}. Download the model again.") from error


def _check_code_book(name: str, stored: StoredWeight) -> None:
    kind = stored.format
    if kind.scheme is Scheme.INT8:
        return
    codebook = CodeBook(kind.scheme.value)
    tables = [(stored.values, code_values(codebook))]
    if kind.nested:
        tables.append((stored.nested_values, map_values(DynamicMap.SIGNED)))
    for found, expected in tables:
        if found is not None and not torch.equal(found, expected):
            raise ModelError(
                f"the codes of {name} mean other values than {kind.scheme.value}'s: it was written by a program, or a "
                "version, with an unknown code book. Use the model's unquantised checkpoint."
            )


def _layer(stored: StoredWeight) -> PackedLinear:
    kind = stored.format
    if len(kind.shape) != 2:
        raise ModelError(f"its shape is {list(kind.shape)}, and quantised weights are matrices")
    if kind.scheme is Scheme.INT8:
        return RowwiseLinear(stored.codes, stored.scales)
    scales: torch.Tensor | NestedScales = stored.scales
    if stored.nested_scales is not None:
        scales = nested_scales(stored.scales, stored.nested_scales, torch.tensor(stored.nested_offset))
    shape = (kind.shape[0], kind.shape[1])
    return QuantLinear(shape, stored.codes, scales, block=kind.block, codebook=CodeBook(kind.scheme.value))


def in_experts(path: str) -> bool:
    """Whether the linear layer at `path` belongs to one expert of a mixture."""
    return ".experts." in path


def block_formats(blocks: Mapping[str, BlockTensor], paths: Sequence[str]) -> dict[str, Format]:
    """The formats of the linear layers among `paths` that stay in the blocks of a GGUF file, where these are kept."""
    names = {path: f"{path}.weight" for path in paths if not in_experts(path)}
    return {path: blocks[name].format for path, name in names.items() if name in blocks}


def table_formats(blocks: Mapping[str, BlockTensor]) -> dict[str, Format]:
    """The formats of embedding and head, by path, if a GGUF file has them in blocks."""
    return {name.removesuffix(".weight"): blocks[name].format for name in TABLE_NAMES if name in blocks}
