"""Reads and writes weights that bitsandbytes quantised, as transformers stores them in safetensors.

A linear layer's weight in 4 bits takes several tensors under its own name,

    {path}.weight                                    codes, uint8 [ceil(n/2), 1], or the same bytes as another dtype
    {path}.weight.absmax                             float32 [blocks], or uint8 codes of them where they are nested
    {path}.weight.quant_map                          what the 16 codes mean, float32
    {path}.weight.nested_absmax, .nested_quant_map   float32 [ceil(blocks/256)] and [256], where scales are nested
    {path}.weight.quant_state.bitsandbytes__nf4      JSON as uint8: block size, shape, offset of nested scales (or fp4)

and in 8 bits three: `{path}.weight` int8 [out, in], `{path}.SCB` float32 [out], `{path}.weight_format` (0: row by row).
All other tensors are stored unchanged. `quantization_config` in config.json does not have the block size, so that the
format is read from the tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from veneer.config import QuantSection
from veneer.enums import Scheme
from veneer.errors import ModelError
from veneer.text.expressions import endless
from veneer.text.strict_json import to_text

CONFIG_KEY = "quantization_config"
METHOD = "bitsandbytes"
NESTED_BLOCK = 256
"""Number of scales that share one nested scale. bitsandbytes writes no other number."""
_STATES = {f".quant_state.bitsandbytes__{scheme.value}": scheme for scheme in (Scheme.NF4, Scheme.FP4)}
_DTYPES = ("float32", "bfloat16", "float16")
"""Names of the dtypes that a weight had before it was quantised."""
_MAPS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFormat:
    """Format of one quantised weight."""

    scheme: Scheme
    shape: tuple[int, ...]
    """Shape of the weight, [out, in]."""
    block: int
    """Number of weights that share a scale; 0 for int8, where each row has one."""
    nested: bool
    """Whether the scales are quantised too (double quantisation)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredWeight:
    """Codes and scales of one weight, copied out of the file."""

    format: StoredFormat
    codes: Tensor
    """Codes: uint8 [ceil(n/2)] with two in a byte, or int8 [out, in]."""
    scales: Tensor
    """Scales: float32 [blocks] or [out]; uint8 [blocks] if they are nested."""
    values: Tensor | None = None
    """Values of the 16 codes, float32."""
    nested_scales: Tensor | None = None
    nested_values: Tensor | None = None
    nested_offset: float = 0.0


class StoredTensors:
    """The weights of a checkpoint that bitsandbytes has quantised.

    Args:
        where: name of the checkpoint in errors.
        names: names of all tensors in the files.
        raw: gives a copy of a stored tensor.
        shape: gives the stored shape of a tensor.

    Raises:
        ModelError: a quantisation state is damaged, or has a value that bitsandbytes does not write.
    """

    def __init__(
        self,
        where: str,
        names: Collection[str],
        raw: Callable[[str], Tensor],
        shape: Callable[[str], tuple[int, ...]],
    ) -> None:
        self._where, self._raw, self._shape = where, raw, shape
        self._states: dict[str, dict[str, Any]] = {}
        self.formats: dict[str, StoredFormat] = {}
        self.parts: set[str] = set()
        """Names of stored tensors that are not tensors of the model."""
        for name in names:
            for ending, scheme in _STATES.items():
                if name.endswith(ending):
                    self._add_4bit(name.removesuffix(ending), name, scheme, names)
            if name.endswith(".SCB"):
                self._add_int8(name.removesuffix(".SCB"), names)

    def _add_4bit(self, weight: str, state_name: str, scheme: Scheme, names: Collection[str]) -> None:
        try:
            state = json.loads(bytes(self._raw(state_name).tolist()))
            shape, block = tuple(int(size) for size in state["shape"]), int(state["blocksize"])
            nested = "nested_offset" in state
            if state["quant_type"] != scheme.value or state["dtype"] not in _DTYPES:
                raise ValueError(f"quant_type {state['quant_type']!r}, dtype {state['dtype']!r}")
            if nested:
                state["nested_offset"] = float(state["nested_offset"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise ModelError(f"{self._where}: the tensor {state_name} is damaged: {error!r}.") from error
        if weight in self._states:
            raise ModelError(f"{self._where}: {weight} has two quantisation states. Save the model again.")
        if nested and (state.get("nested_blocksize"), state.get("nested_dtype")) != (NESTED_BLOCK, "float32"):
            raise ModelError(
                f"{self._where}: {weight} has nested scales in blocks of {state.get('nested_blocksize')} and "
                f"{state.get('nested_dtype')}; {NESTED_BLOCK} and float32 are read."
            )
        needed = [weight, *(weight + part for part in (_MAPS if nested else _MAPS[:2]))]
        self._demand(needed, names)
        self.parts |= {state_name, *needed[1:]}
        self._states[weight] = state
        self.formats[weight] = StoredFormat(scheme=scheme, shape=shape, block=block, nested=nested)

    def _add_int8(self, path: str, names: Collection[str]) -> None:
        weight, order = f"{path}.weight", f"{path}.weight_format"
        self._demand([weight], names)
        self.parts |= {f"{path}.SCB"}
        if order in names:
            self.parts.add(order)
            found = self._raw(order)
            if bool((found != 0).any()):
                given = ", ".join(map(str, found.view(-1)[:3].tolist()))
                raise ModelError(
                    f"{self._where}: {order} is {given}; only 0, row by row, can be read. Save the model again."
                )
        self.formats[weight] = StoredFormat(scheme=Scheme.INT8, shape=self._shape(weight), block=0, nested=False)

    def _demand(self, needed: Sequence[str], names: Collection[str]) -> None:
        missing = [name for name in needed if name not in names]
        if missing:
            raise ModelError(f"{self._where} lacks parts of a quantised weight: {', '.join(missing)}.")

    def read(self, weight: str) -> StoredWeight:
        """Codes and scales of a weight in `formats`."""
        found = self.formats[weight]
        if found.scheme is Scheme.INT8:
            scales = self._raw(weight.removesuffix("weight") + "SCB")
            return StoredWeight(format=found, codes=self._raw(weight), scales=scales)
        codes = self._raw(weight).contiguous().view(-1).view(torch.uint8)
        scales, values = (self._raw(weight + part) for part in _MAPS[:2])
        if not found.nested:
            return StoredWeight(format=found, codes=codes, scales=scales, values=values)
        nested_scales, nested_values = (self._raw(weight + part) for part in _MAPS[2:])
        return StoredWeight(
            format=found,
            codes=codes,
            scales=scales,
            values=values,
            nested_scales=nested_scales,
            nested_values=nested_values,
            nested_offset=self._states[weight]["nested_offset"],
        )


def parts_of(weight: str, stored: StoredWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of one quantised weight in a file, by name.

    Args:
        weight: name of the weight, `{path}.weight`.
        stored: codes and scales.
        dtype: dtype of the weight before quantisation, which the file records.
    """
    kind = stored.format
    if kind.scheme is Scheme.INT8:
        path = weight.removesuffix(".weight")
        return {
            weight: stored.codes,
            f"{path}.SCB": stored.scales,
            f"{path}.weight_format": torch.tensor(0, dtype=torch.uint8),
        }
    state: dict[str, Any] = {
        "quant_type": kind.scheme.value,
        "blocksize": kind.block,
        "dtype": str(dtype).removeprefix("torch."),
        "shape": list(kind.shape),
    }
    found = {weight: stored.codes.view(-1, 1), f"{weight}.absmax": stored.scales, f"{weight}.quant_map": stored.values}
    if kind.nested:
        state |= {
            "nested_blocksize": NESTED_BLOCK,
            "nested_dtype": "float32",
            "nested_offset": stored.nested_offset,
        }
        found |= {
            f"{weight}.nested_absmax": stored.nested_scales,
            f"{weight}.nested_quant_map": stored.nested_values,
        }
    name = f"{weight}.quant_state.bitsandbytes__{kind.scheme.value}"
    found[name] = torch.tensor(list(to_text(state).encode()), dtype=torch.uint8)
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def quantization_config(quant: QuantSection, dense: Sequence[str], dtype: torch.dtype) -> dict[str, Any]:
    """`quantization_config` for config.json.

    Args:
        quant: settings of the quantisation.
        dense: full paths of the linear layers that are not quantised, the head among them.
        dtype: compute dtype.
    """
    eight = quant.scheme is Scheme.INT8
    return {
        "_load_in_4bit": not eight,
        "_load_in_8bit": eight,
        "bnb_4bit_compute_dtype": "float32" if eight else str(dtype).removeprefix("torch."),
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "fp4" if eight else quant.scheme.value,
        "bnb_4bit_use_double_quant": not eight and quant.double_quant,
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_skip_modules": list(dense),
        "llm_int8_threshold": 6.0,
        "load_in_4bit": not eight,
        "load_in_8bit": eight,
        "quant_method": METHOD,
    }


def described_quantisation(config: Mapping[str, Any], paths: Sequence[str]) -> QuantSection | None:
    """The quantisation of a model's files by config.json, or None. The block size is not in it; the usual 64 is
    assumed.

    Args:
        config: content of config.json.
        paths: paths of the decoder's linear layers.

    Raises:
        ModelError: an expression in it does not end.
    """
    settings = config.get(CONFIG_KEY)
    if not isinstance(settings, Mapping) or settings.get("quant_method", METHOD) != METHOD:
        return None
    # As in transformers: a regular expression for the beginning of a path, or the end of a path.
    given = settings.get("llm_int8_skip_modules")
    names = [str(name) for name in given] if isinstance(given, list) else []
    if endless((_beginning(name) for name in names), paths):
        raise ModelError("quantization_config.llm_int8_skip_modules has an expression that takes too long to match.")
    dense = [path for path in paths if any(path.endswith(name) or _begins(path, name) for name in names)]
    if settings.get("load_in_8bit"):
        return QuantSection(scheme=Scheme.INT8, skip_modules=tuple(dense))
    if settings.get("bnb_4bit_quant_type") not in (Scheme.NF4.value, Scheme.FP4.value):
        return None
    return QuantSection(
        scheme=Scheme(settings["bnb_4bit_quant_type"]),
        double_quant=bool(settings.get("bnb_4bit_use_double_quant")),
        skip_modules=tuple(dense),
    )


def _begins(path: str, name: str) -> bool:
    try:
        return re.match(_beginning(name), path) is not None
    except re.error:
        return False


def _beginning(name: str) -> str:
    """The expression for paths that begin with a match of a module's name."""
    return rf"(?:{name})(?:(?<=\.)|(?=\.|$))"


FLOAT_METHODS = ("fp8", "fbgemm_fp8", "mxfp4")
"""Methods of transformers whose weights are floats with scales (`veneer.io.scaled`)."""


def check_method(where: str, config: Mapping[str, Any]) -> None:
    """Refuse a model that was quantised by an unsupported method.

    Raises:
        ModelError: the method is not supported, and named; or config.json does not name one.
    """
    settings = config.get(CONFIG_KEY)
    if settings is None:
        return
    if not isinstance(settings, Mapping):
        raise ModelError(
            f"{where}: {CONFIG_KEY} of config.json is {settings!r:.100}; a JSON object with quant_method is needed. "
            "Use the config.json of the model's original repository."
        )
    method = settings.get("quant_method", METHOD)
    if method in (METHOD, *FLOAT_METHODS):
        return
    detail = ""
    if method == "compressed-tensors":
        found = _compressed(settings)
        if not found:
            return
        detail = f" ({found})"
    raise ModelError(
        f"{where} was quantised by {method!r}{detail}, which is not read; of quantised models those of bitsandbytes (4 "
        "and 8 bits), fp8, MXFP4 and GGUF files are. Use the model's unquantised checkpoint."
    )


def _compressed(settings: Mapping[str, Any]) -> str:
    """The formats in a model of compressed-tensors that are not 8-bit floats, or an empty text."""
    groups = settings.get("config_groups")
    kinds = []
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(weights, Mapping):
            continue
        if (weights.get("type"), weights.get("num_bits")) != ("float", 8) or weights.get("strategy") == "group":
            kinds.append(f"{weights.get('type')}, {weights.get('num_bits')} bits, {weights.get('strategy')}")
    if not groups:
        kinds.append(f"format {settings.get('format')!r}")
    sparsity = settings.get("sparsity_config") or {}
    kind = sparsity.get("format", "dense") if isinstance(sparsity, Mapping) else sparsity
    if kind != "dense" or settings.get("transform_config"):
        kinds.append("sparse or transformed weights")
    return "; ".join(dict.fromkeys(kinds))
