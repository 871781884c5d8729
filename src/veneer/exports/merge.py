"""Merging: W' = W + s · B A replaces W, and is written as a new model.

Each tensor is summed in float32 or wider and rounded once, to the dtype that is written. The base is only read, so
nothing has to be unmerged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from veneer.config import QuantSection
from veneer.errors import AdapterError, ModelError, listing
from veneer.exports.base import Source
from veneer.exports.tensors import MemoryTensors
from veneer.io.model_files import stream_model
from veneer.io.prequantised import parts_of
from veneer.loading.expected import TABLE_NAMES, expected_tensors
from veneer.quant.schemes import pack
from veneer.quantization import packed_config, packed_paths, refuse_packing, stored_weight

PARTS = 7
"""The least number of tensors that hold one packed weight, with their longer names."""
EMBEDDING, HEAD = TABLE_NAMES


@dataclass(frozen=True, slots=True)
class MergeSummary:
    """The tensors of a merged model."""

    changed: int
    """The number of tensors that differ from the base's."""
    tensors: int
    tied: bool
    """Whether the embedding is the head."""


def write_merged(
    folder: Path,
    source: Source,
    dtype: torch.dtype,
    quant: QuantSection | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> MergeSummary:
    """Write base and adapter as one model into an existing folder, holding one tensor at a time.

    A tied head stays tied unless the adapter changes it or the embedding alone; then both are written.

    Args:
        folder: gets config.json, model.safetensors, the tokenizer and the generation settings.
        source: base and adapter.
        dtype: the dtype of the weights; with `quant`, that of the dense ones.
        quant: how to pack the linear layers, straight from the exact sums, as bitsandbytes and transformers store them.
        progress: called with the name of every tensor that is written.

    Raises:
        ConfigError: a mixture is to be packed.
        ModelError: a value does not fit into `dtype`.
        AdapterError: the adapter adds tensors that the architecture has no place for.
        OutputError: a file cannot be written.
    """
    if quant is not None:
        refuse_packing(source.model.spec)
    names = room_of(source)
    packed = frozenset[str]() if quant is None else packed_paths(source.model.spec, quant)
    changed: set[str] = set()

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, tensor, new in merged_tensors(source):
            if new:
                changed.add(name)
            progress(name)
            yield from stored(name, tensor)

    def stored(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        if quant is None or name.removesuffix(".weight") not in packed:
            yield name, rounded(name, tensor, dtype)
        else:
            yield from parts_of(name, stored_weight(pack(tensor.float(), None, quant, name)), dtype).items()

    described, room = None, names
    if quant is not None:
        described = packed_config(source.model.spec, quant, dtype)
        room = names * PARTS
    shapes = stream_model(
        folder, room, tensors(), source.checkpoint, quantization=described, tokenizer=source.tokenizer
    )
    whole = {*expected_tensors(source.model.spec), *changed} | ({HEAD} & shapes.keys())
    return MergeSummary(len(changed), len(whole), HEAD not in shapes)


def room_of(source: Source) -> list[str]:
    """Every name that `merged_tensors` may yield."""
    expected = expected_tensors(source.model.spec)
    return [*expected, *({HEAD} - expected.keys())]


def merged_tensors(source: Source) -> Iterator[tuple[str, Tensor, bool]]:
    """The merged model, tensor by tensor, before anything is rounded: name, tensor, and whether the adapter changed it.

    Changed ones come first, in float64; the rest is the base's, in float32. A tied head is left out unless it now
    differs from its embedding.

    Raises:
        AdapterError: the adapter changes something that the architecture has no place for.
    """
    expected = expected_tensors(source.model.spec)
    changed: set[str] = set()
    for name, tensor in source.merged():
        if name == HEAD and source.adapter.keeps_tie:
            continue
        if name not in expected and name != HEAD:
            raise AdapterError(
                f"the adapter adds {name}, for which the architecture has no place; use the adapter unmerged, on its "
                "base"
            )
        changed.add(name)
        yield name, tensor, True
    parted = bool(changed & {EMBEDDING, HEAD}) and not source.adapter.keeps_tie
    for name in _rest(expected, changed, parted=parted):
        # A head that was tied until now has the embedding's values.
        held = EMBEDDING if name == HEAD and HEAD not in expected else name
        yield name, source.base(held), False


def merged_config(source: Source) -> dict[str, Any]:
    """config.json of the merged model: its vocabulary and whether it is tied are the adapter's."""
    return {
        **source.checkpoint.config,
        "vocab_size": source.model.spec.vocab_size,
        "tie_word_embeddings": stays_tied(source),
    }


def merged_in_memory(source: Source) -> MemoryTensors:
    """The whole merged model in float32, before it is rounded to the dtype of its files."""
    return MemoryTensors({name: tensor.float() for name, tensor, _ in merged_tensors(source)})


def _rest(expected: dict[str, tuple[int, ...]], changed: set[str], *, parted: bool) -> list[str]:
    """The base's own names, including a head that now differs from its embedding."""
    needed = {*expected, *([HEAD] if parted else [])}
    return [name for name in dict.fromkeys((*expected, HEAD)) if name in needed - changed]


def stays_tied(source: Source) -> bool:
    """Whether the head of the merged model is its embedding."""
    if not source.model.spec.tied_head or source.adapter.keeps_tie:
        return source.model.spec.tied_head
    changed = {path for path, _ in source.adapter.modules}
    return not changed & {name.removesuffix(".weight") for name in (EMBEDDING, HEAD)}


def rounded(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of a merged model in `dtype`.

    Raises:
        ModelError: a value does not fit.
    """
    rounded = tensor.to(dtype)
    if not bool(torch.isfinite(rounded).all()):
        largest = float(tensor.abs().max())
        raise ModelError(
            f"the merged model does not fit into {str(dtype).removeprefix('torch.')}, whose largest number is "
            f"{torch.finfo(dtype).max:g}:\n{listing([f'{name}: up to {largest:g}'])}\nUse bfloat16 or float32."
        )
    return rounded
