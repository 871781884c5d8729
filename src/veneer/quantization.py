"""`quantize` writes a quantised model into a directory that veneer, transformers and bitsandbytes open.

It works tensor by tensor: each is read, packed and released before the next, so that memory holds the quantised model
and one tensor. The files are those that transformers' `save_pretrained` writes (`veneer.io.prequantised` has the
format).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from veneer.adapters.files.origin import computes, write_source
from veneer.arguments import check_types
from veneer.backends.choose import refuse_hf
from veneer.config import QuantSection, quant_problems
from veneer.enums import Scheme
from veneer.errors import ConfigError, ModelError, listing, reading
from veneer.events import Result, Stage, Subscriber, broadcast
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.io.digests import BackgroundDigests
from veneer.io.files import atomic_folder, claimed, refuse_filled
from veneer.io.model_files import DTYPES, save_model, written_dtype
from veneer.io.prequantised import StoredFormat, StoredWeight, parts_of, quantization_config
from veneer.io.proofs import prove_new_folder
from veneer.loading.expected import check_tensors, expected_tensors, linear_paths
from veneer.model.families.choose import spec_from_hf
from veneer.model.shape import DecoderSpec
from veneer.quant.codes import code_values
from veneer.quant.dynamic import DynamicMap, map_values
from veneer.quant.four_bit import QuantLinear
from veneer.quant.packed import PackedLinear
from veneer.quant.rowwise import RowwiseLinear
from veneer.quant.schemes import HEAD, pack, skipped


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizeResult:
    """The facts of the model that `quantize` wrote."""

    output: Path
    quant: QuantSection
    layers: int
    """The number of quantised linear layers."""
    dense: tuple[str, ...]
    """The linear layers that stay dense because of `quant.skip_modules`."""
    weights: int
    """The number of elements of the quantised layers' weights."""
    packed_bytes: int
    """The size of these weights in bytes, including scales."""
    bytes: int
    """The size of all tensors of the model in bytes, including dense ones."""

    @property
    def bits(self) -> float:
        """The bits per weight of the quantised layers."""
        return 8 * self.packed_bytes / max(1, self.weights)

    def to_json(self) -> dict[str, Any]:
        """The facts as plain values."""
        return {
            "output": str(self.output), "quant": self.quant.model_dump(mode="json"), "layers": self.layers,
            "dense": list(self.dense), "weights": self.weights, "bits": self.bits, "bytes": self.bytes,
        }  # fmt: skip


def quantize(
    model: str | Path,
    output: str | Path,
    *,
    quant: QuantSection | None = None,
    dtype: str = "auto",
    revision: str | None = None,
    subscribers: Sequence[Subscriber] = (),
) -> QuantizeResult:
    """Quantise a model's weights, and write them with its configuration and tokenizer into a new directory.

    Args:
        model: a directory, a GGUF file or a hub id.
        output: the directory to create. If it exists, it must be empty.
        quant: the scheme, the block size, double quantisation, and the layers to leave dense. Embedding, norms and head
            always stay dense.
        dtype: the dtype of dense tensors, and of the weights before they are quantised: `auto` (from the model's
            configuration or, failing that, its files; bfloat16 for a quantised GGUF file), `bfloat16`, `float16` or
            `float32`.
        revision: a branch, tag or commit of a hub id.
        subscribers: receive every event: the progress, and the facts of the written model.

    Raises:
        ConfigError: `quant` contradicts itself or skips layers that do not exist, or the model is already quantised, a
            mixture, or of an architecture that veneer's own decoder does not know.
        ModelError: the model's files cannot be used.
        OutputError: the directory is not empty, is being written by another process, or cannot be written. No partial
            output is left.
    """
    check_types(quantize, locals())
    quant = quant or QuantSection()
    _check_settings(quant, dtype)
    output = prove_new_folder(Path(output))
    checkpoint = open_checkpoint(model, revision=revision)
    spec = _quantisable(checkpoint)
    layers = packed_paths(spec, quant)
    chosen = written_dtype(dtype, checkpoint)
    tensors: dict[str, Tensor] = {}
    weights = packed_bytes = 0
    names = expected_tensors(spec)
    emit = broadcast(subscribers)
    with claimed(output, refuse_filled):
        source = BackgroundDigests({file.name: file for file in checkpoint.files() if computes(file.name)})
        with Stage(emit, f"quantising {model}", total=len(names), unit="tensors") as stage:
            for name in names:
                stage.advance(item=name)
                tensor = checkpoint.read(name, chosen)
                if name.removesuffix(".weight") not in layers:
                    tensors[name] = tensor
                    continue
                packed = pack(tensor, None, quant, name)
                weights, packed_bytes = weights + tensor.numel(), packed_bytes + packed.nbytes
                tensors |= parts_of(name, stored_weight(packed), chosen)
        digests = _result(source)
        with atomic_folder(output) as folder:
            save_model(folder, tensors, checkpoint, quantization=packed_config(spec, quant, chosen))
            write_source(folder, digests)
    done = QuantizeResult(
        output=output,
        quant=quant,
        layers=len(layers),
        dense=tuple(path for path in linear_paths(spec) if path not in layers),
        weights=weights,
        packed_bytes=packed_bytes,
        bytes=sum(tensor.nbytes for tensor in tensors.values()),
    )
    emit(Result(verb="quantize", values=done.to_json()))
    return done


def _result(source: BackgroundDigests) -> dict[str, str]:
    """The digests of the model's files.

    Raises:
        ModelError: a file can no longer be read.
    """
    with reading(ModelError):
        return source.result()


def _check_settings(quant: QuantSection, dtype: str) -> None:
    """Refuse settings that cannot be used, all at once."""
    problems = quant_problems(quant)
    if dtype not in ("auto", *DTYPES):
        problems.append(f"dtype {dtype!r} is unknown; use auto, {', '.join(DTYPES)}")
    if problems:
        raise ConfigError(f"the settings cannot be used:\n{listing(problems)}")


def _quantisable(checkpoint: Checkpoint) -> DecoderSpec:
    """The specification of a model that can be quantised. Others are refused before a weight is read."""
    if checkpoint.stored:
        raise ConfigError(f"{checkpoint.source} is already quantised; give the model's unquantised checkpoint")
    refuse_hf("veneer quantize", checkpoint.config)
    spec = spec_from_hf(checkpoint.config)
    refuse_packing(spec)
    check_tensors(checkpoint, spec)
    checkpoint.tokenizer()
    return spec


def packed_paths(spec: DecoderSpec, quant: QuantSection) -> frozenset[str]:
    """The linear layers that are quantised.

    Raises:
        ConfigError: `quant` skips layers that do not exist.
    """
    paths = linear_paths(spec)
    return frozenset(paths) - skipped(paths, quant.skip_modules)


def packed_config(spec: DecoderSpec, quant: QuantSection, dtype: torch.dtype) -> dict[str, Any]:
    """The config.json of a model whose layers are quantised this way; `dtype` is that of the other tensors."""
    layers = packed_paths(spec, quant)
    return quantization_config(quant, [HEAD, *(path for path in linear_paths(spec) if path not in layers)], dtype)


def refuse_packing(spec: DecoderSpec) -> None:
    """Refuse to write a mixture in the format of bitsandbytes.

    Raises:
        ConfigError: the model is a mixture.
    """
    if spec.mixture is not None:
        raise ConfigError(
            f"{spec.model_type} has its weights in experts, which transformers holds as one parameter per layer "
            "and bitsandbytes' files cannot store. Method qlora holds them in 4 bits in memory; write the model in "
            "bfloat16"
        )


def stored_weight(layer: PackedLinear) -> StoredWeight:
    """The parts of a layer as a file holds them; the inverse of `veneer.loading.stored.packed_layer`."""
    shape = (layer.out_features, layer.in_features)
    if isinstance(layer, RowwiseLinear):
        kind = StoredFormat(scheme=Scheme.INT8, shape=shape, block=0, nested=False)
        return StoredWeight(format=kind, codes=layer.weight, scales=layer.SCB)
    if not isinstance(layer, QuantLinear):
        raise TypeError(f"{type(layer).__name__} has no format in files")
    config = layer.config
    kind = StoredFormat(
        scheme=Scheme(config.codebook.value), shape=shape, block=config.block, nested=config.double_quant
    )
    values = code_values(config.codebook)
    if not config.double_quant:
        return StoredWeight(format=kind, codes=layer.codes, scales=layer.absmax, values=values)
    return StoredWeight(
        format=kind,
        codes=layer.codes,
        scales=layer.absmax_codes,
        values=values,
        nested_scales=layer.nested_absmax,
        nested_values=map_values(DynamicMap.SIGNED).clone(),
        nested_offset=float(layer.nested_offset),
    )
