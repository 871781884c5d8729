"""Weights that are stored as narrow floats with scales (fp8 and MXFP4), and decoded on reading.

fp8 (Micikevicius et al., 2022, arXiv:2209.05433), as transformers, compressed-tensors, FBGEMM and DeepSeek write it:

    {name}                          float8_e4m3fn (or e5m2) [out, in], or [experts, out, in]
    {name}_scale_inv, {name}_scale  one number; or one for each row, [out] or [out, 1]; or one for each block of
                                    weight_block_size, [⌈out/128⌉, ⌈in/128⌉]; float, or a power of two as e8m0

The weight is code × scale under both names: `inv` says that the scale undoes the one of quantisation.

MXFP4 (OCP Microscaling Formats specification 1.0), as gpt-oss is published:

    {name}_blocks   uint8 [experts, out, groups, 16], two e2m1 codes a byte, the lower four bits first
    {name}_scales   uint8 [experts, out, groups], e8m0: 2^(byte − 127) for the 32 codes of a group

stands for {name} [experts, 32 · groups, out], which is how transformers holds it. Products are formed in float32 and
rounded once to the dtype that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from veneer.errors import ModelError, listing

FLOAT8 = ("F8_E4M3", "F8_E5M2")
"""Dtypes of fp8 weights, by their names in safetensors."""
DEFAULT_BLOCK = (128, 128)
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""Values of the 16 codes of MXFP4."""
GROUP = 32
"""Number of codes that share a scale in MXFP4."""
CHUNK = 1 << 22
"""Number of elements that are decoded at a time, which limits the memory of their float32 values."""
_SCALES = ("_scale_inv", "_scale")
_OF_ACTIVATIONS = (".input_scale", ".activation_scale", ".input_scale_ub", ".k_scale", ".v_scale")
"""Ends of names of scales for activations at inference. The weights do not depend on them."""


def block_size(config: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of a block, by `quantization_config` or by default.

    Raises:
        ModelError: the setting is not the size of a block.
    """
    found = config.get("weight_block_size")
    groups = config.get("config_groups")
    if found is None and isinstance(groups, Mapping):
        weights = [group.get("weights") for group in groups.values() if isinstance(group, Mapping)]
        found = next(
            (w["block_structure"] for w in weights if isinstance(w, Mapping) and w.get("block_structure")), None
        )
    if found is None:
        return DEFAULT_BLOCK
    if not isinstance(found, list) or len(found) != 2 or not all(type(size) is int and size >= 1 for size in found):
        raise ModelError(f"the block size of quantization_config is {found!r}; it must be two whole numbers above 0")
    return found[0], found[1]


def decode_float8(codes: Tensor, scales: Tensor, block: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Decode fp8: code × scale, `[out, in]` in `dtype`.

    Args:
        codes: fp8 codes `[out, in]`.
        scales: one number, one for each row, or one for each block (see above); float, e8m0, or e8m0 as bytes.
        block: rows and columns of a block.
        dtype: dtype of the result.

    Raises:
        ModelError: the codes are not a matrix, or the shape of the scales does not fit them.
    """
    if codes.dim() != 2:
        raise ModelError(f"fp8 codes of shape {list(codes.shape)} have scales; a matrix is needed")
    rows, columns = codes.shape
    wide = _powers(scales) if scales.dtype == torch.uint8 else scales.float()
    grid = (-(-rows // block[0]), -(-columns // block[1]))
    if wide.numel() == 1:
        wide, height, width = wide.reshape(1, 1), rows, columns
    elif wide.shape in ((rows,), (rows, 1)):
        wide, height, width = wide.reshape(rows, 1), 1, columns
    elif wide.shape == grid:
        height, width = block
    else:
        raise ModelError(
            f"scales of shape {list(scales.shape)} for a weight {[rows, columns]}: neither one, nor one a row, nor one "
            f"for each block of {block[0]} x {block[1]}, {list(grid)}"
        )
    decoded = torch.empty(rows, columns, dtype=dtype)
    step = height * max(1, CHUNK // max(1, height * columns))
    for start in range(0, rows, step):
        part = codes[start : start + step].float()
        mine = wide[start // height : -(-(start + step) // height)]
        mine = mine.repeat_interleave(height, 0)[: len(part)].repeat_interleave(width, 1)[:, :columns]
        decoded[start : start + step] = part.mul_(mine)
    return decoded


def decode_mxfp4(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Decode MXFP4: codes uint8 `[…, groups, 16]` times scales `[…, groups]` to `[…, 32 · groups]` in `dtype`.

    Raises:
        ModelError: the shapes do not fit each other, or the scales are not bytes.
    """
    if scales.dtype not in (torch.uint8, torch.float8_e8m0fnu):
        raise ModelError(
            f"the scales of MXFP4 are {str(scales.dtype).removeprefix('torch.')}; they must be uint8, e8m0"
        )
    if not scales.dim() or blocks.shape != (*scales.shape, GROUP // 2):
        raise ModelError(f"MXFP4 blocks {list(blocks.shape)} and scales {list(scales.shape)} do not fit each other")
    values = torch.tensor(E2M1)
    decoded = torch.empty(scales.numel(), GROUP, dtype=dtype)
    flat, powers = blocks.reshape(-1, GROUP // 2), _powers(scales.reshape(-1, 1))
    step = CHUNK // GROUP
    for start in range(0, len(flat), step):
        part = flat[start : start + step]
        codes = torch.stack((part & 15, part >> 4), -1).view(len(part), GROUP)
        decoded[start : start + step] = values[codes.int()].mul_(powers[start : start + step])
    return decoded.view(*scales.shape[:-1], scales.shape[-1] * GROUP)


def _powers(codes: Tensor) -> Tensor:
    """e8m0 bytes as float32: 2^(byte − 127), and NaN for 255."""
    return codes.contiguous().view(torch.float8_e8m0fnu).float()


@dataclass(frozen=True, slots=True)
class _ScaledWeight:
    """One weight: names of its codes and scales."""

    codes: str
    scales: str
    shape: tuple[int, ...]
    """Shape of the decoded weight."""
    mxfp4: bool


class ScaledTensors:
    """The weights of a checkpoint that are narrow floats with scales.

    Args:
        where: name of the checkpoint in errors.
        names: names of all tensors in the files.
        kind: returns the stored dtype of a tensor, by its name in safetensors.
        shape: returns the stored shape of a tensor.
        raw: returns a copy of a stored tensor, or of one entry of its first dimension.
        settings: `quantization_config` of config.json, or empty.

    Raises:
        ModelError: weights lack their scales (the message names all of them), or blocks have a shape that no weight
            has.
    """

    def __init__(
        self,
        where: str,
        names: Collection[str],
        *,
        kind: Callable[[str], str],
        shape: Callable[[str], tuple[int, ...]],
        raw: Callable[[str, int | None], Tensor],
        settings: Mapping[str, Any],
    ) -> None:
        self._where, self._shape, self._raw, self._block = where, shape, raw, block_size(settings)
        self._found: dict[str, _ScaledWeight] = {}
        self.parts: set[str] = {name for name in names if name.endswith(_OF_ACTIVATIONS)}
        """Names of stored tensors that are not tensors of the model."""
        missing = []
        for name in names:
            weight = name.removesuffix("_blocks")
            if name.endswith("_blocks") and kind(name) == "U8":
                if f"{weight}_scales" in names:
                    self._add_mxfp4(weight, name)
                else:
                    missing.append(f"{weight}_scales")
            elif kind(name) in FLOAT8:
                scales = next((name + end for end in _SCALES if name + end in names), None)
                if scales is not None:
                    self.parts.add(scales)
                    self._found[name] = _ScaledWeight(name, scales, shape(name), mxfp4=False)
                elif settings and not name.endswith(_SCALES):
                    missing.append(name + _SCALES[0])
        if missing:
            raise ModelError(f"{where} lacks scales of quantised weights:\n{listing(missing)}")

    def _add_mxfp4(self, weight: str, blocks: str) -> None:
        shape = self._shape(blocks)
        if len(shape) < 2:
            raise ModelError(
                f"{self._where}: the MXFP4 blocks {blocks} have shape {list(shape)}, which lacks groups of "
                f"{GROUP // 2} bytes. Download the file again."
            )
        *outer, groups, size = shape
        inner = groups * size * 2
        decoded = (outer[0], inner, outer[1]) if len(outer) == 2 else (*outer, inner)
        self.parts |= {blocks, f"{weight}_scales"}
        self._found[weight] = _ScaledWeight(blocks, f"{weight}_scales", decoded, mxfp4=True)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the decoded weights, by name."""
        return {name: scaled.shape for name, scaled in self._found.items()}

    def __contains__(self, name: str) -> bool:
        """Whether a name belongs to one of these weights."""
        return name in self._found

    def read(self, name: str, dtype: torch.dtype, index: int | None = None) -> Tensor:
        """Decode a weight, or one entry of its first dimension, and round it once to `dtype`.

        Raises:
            ModelError: codes and scales do not fit each other.
        """
        scaled = self._found[name]
        if index is None and len(scaled.shape) == 3:
            # Decoded one entry at a time: all experts in float32 would be the largest tensor of all.
            whole = torch.empty(scaled.shape, dtype=dtype)
            for entry in range(scaled.shape[0]):
                whole[entry] = self.read(name, dtype, entry)
            return whole
        # All experts may share one scale.
        own = index if self._shape(scaled.scales)[:1] == scaled.shape[:1] else None
        codes, scales = self._raw(scaled.codes, index), self._raw(scaled.scales, own)
        try:
            if scaled.mxfp4:
                decoded = decode_mxfp4(codes, scales, dtype)
                return decoded.t().contiguous() if len(scaled.shape) == 3 else decoded
            return decode_float8(codes, scales, self._block, dtype)
        except ModelError as error:
            raise ModelError(f"{self._where}: {name} cannot be decoded: {error}") from error
