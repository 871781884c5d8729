"""The quantisation schemes by name: how a weight becomes a layer, which layers are left out, and their size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from veneer.config import QuantSection
from veneer.enums import Scheme
from veneer.errors import ConfigError, ModelError, listing, nearest
from veneer.quant.codes import packed_sizes
from veneer.quant.four_bit import QuantConfig, QuantLinear
from veneer.quant.nested import NESTED_BLOCK
from veneer.quant.packed import PackedLinear
from veneer.quant.rowwise import CHUNK_ELEMENTS, DEVICE_CHUNK_ELEMENTS, RowwiseLinear

HEAD = "lm_head"
"""A name that `skip_modules` may contain, as in other programs' settings, although the head is never quantised."""


def pack(weight: Tensor, bias: Tensor | None, quant: QuantSection, name: str = "a weight") -> PackedLinear:
    """Make the frozen layer of `weight` [out, in] that `quant` asks for; neither tensor is changed.

    Raises:
        ModelError: the weight cannot be quantised; the message contains `name`.
    """
    try:
        return _packed(weight, bias, quant)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error


def _packed(weight: Tensor, bias: Tensor | None, quant: QuantSection) -> PackedLinear:
    if quant.scheme is Scheme.INT8:
        return RowwiseLinear.from_weight(weight, bias)
    return QuantLinear.from_weight(weight, bias, QuantConfig.of(quant))


def skipped(paths: Sequence[str], skip_modules: Sequence[str]) -> frozenset[str]:
    """The layers among `paths` that `skip_modules` keeps dense: a name is a whole path or the end of one.

    Raises:
        ConfigError: names match no layer; the message lists all of them.
    """
    matching: dict[str, list[str]] = {
        name: [path for path in paths if path == name or path.endswith(f".{name}")] for name in skip_modules
    }
    unknown = [name for name, matched in matching.items() if not matched and name != HEAD]
    if unknown:
        leaves = sorted({path.rpartition(".")[2] for path in paths})
        offenders = listing(f"{name!r}{nearest(name, leaves)}" for name in unknown)
        raise ConfigError(
            f"quant.skip_modules names layers that the model does not have:\n{offenders}\n"
            f"It has: {', '.join(leaves)}; or give a whole path such as {paths[0]}"
        )
    return frozenset(path for matched in matching.values() for path in matched)


def packed_bytes(outputs: int, inputs: int, quant: QuantSection) -> int:
    """The size in bytes of a weight [outputs, inputs] quantised by `quant`: codes and scales, without the bias."""
    count = outputs * inputs
    if quant.scheme is Scheme.INT8:
        return count + 4 * outputs
    codes, blocks = packed_sizes(count, quant.block)
    return codes + (blocks + 4 * -(-blocks // NESTED_BLOCK) + 4 if quant.double_quant else 4 * blocks)


def decode_scratch(count: int, quant: QuantSection, device: str) -> int:
    """The bytes that decoding `count` weights on `cpu` or `cuda` needs in addition to codes and result."""
    if quant.scheme is Scheme.INT8:
        return 4 * min(count, CHUNK_ELEMENTS if device == "cpu" else DEVICE_CHUNK_ELEMENTS)
    return count // quant.block * 8
