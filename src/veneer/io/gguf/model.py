"""Writes a model as one GGUF file, from Hugging Face's tensors as they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gguf.constants import GGMLQuantizationType as Kind
from torch import Tensor

from veneer.errors import ModelError, listing
from veneer.io.gguf.config import Described, completed, describe, family_of
from veneer.io.gguf.encode import FILE_TYPES, Quant, encode, fitting, kind_of
from veneer.io.gguf.metadata import Value
from veneer.io.gguf.names import OUTPUT, Piece, interleaved, pieces
from veneer.io.gguf.stripping import stripping_name
from veneer.io.gguf.vocabulary import write_vocabulary
from veneer.io.gguf.writer import GgufWriter, Planned
from veneer.io.tokenizer import Tokenizer

QUANTIZATION_VERSION = 2
"""The version of ggml's block formats (`general.quantization_version`)."""


@dataclass(frozen=True, slots=True)
class WrittenGguf:
    """The content of a GGUF file."""

    architecture: str
    quant: str
    tensors: int
    bytes: int
    kinds: dict[str, int]
    """How many tensors have each type."""
    notes: tuple[str, ...]


def write_model(
    path: Path,
    config: Mapping[str, Any],
    tokenizer: Tokenizer,
    tensors: Iterable[tuple[str, Tensor]],
    quant: Quant,
    *,
    name: str = "",
    ends: Collection[int] = (),
    progress: Callable[[str], None] = lambda name: None,
) -> WrittenGguf:
    """Write one model, holding one tensor at a time.

    Everything that can be refused from configuration and tokenizer is refused before the first tensor is requested.

    Args:
        path: a file that does not exist yet; a failure leaves a part of it, so write inside `atomic_folder`.
        config: config.json; its vocabulary and its tie must be those of `tensors`.
        tokenizer: the model's tokenizer.
        tensors: the model's tensors under their Hugging Face names, in any order and float type; a tied head is
            left out.
        quant: the format of the matrices.
        name: the model's name, for people. It is changed if llama.cpp would split text differently because of it.
        ends: ids that end an answer, in addition to the tokenizer's end of text.
        progress: receives the Hugging Face name of every tensor.

    Raises:
        ModelError: GGUF cannot carry the model, a tensor is missing, unknown or misshapen, or a value does not fit.
        OutputError: the file cannot be written.
    """
    described = describe(config)
    vocabulary = write_vocabulary(tokenizer, int(described.config["vocab_size"]), ends)
    values = _values(described, quant, stripping_name(name, tokenizer)) | dict(vocabulary.values)
    plan = _plan(described, quant, values)
    notes = [*described.notes, *vocabulary.notes, *_narrowed(plan, quant, described)]
    with GgufWriter(path, values, list(plan.values())) as file:
        for factors, data in described.factors.items():
            file.write(factors, encode(factors, torch.from_numpy(data.copy()), Kind.F32))
        _fill(file, described, plan, tensors, progress)
    kinds = Counter(planned.kind.name for planned in plan.values())
    return WrittenGguf(
        described.family.architecture, quant.value, len(plan), path.stat().st_size, dict(kinds), tuple(notes)
    )


def needed(config: Mapping[str, Any]) -> list[str]:
    """The Hugging Face names of all tensors that `write_model` needs, each once.

    Raises:
        ModelError: veneer does not write the family.
    """
    parts = pieces(family_of(config).names, completed(config))
    return list(dict.fromkeys(source for piece in parts for source in piece.sources))


def plan_kinds(config: Mapping[str, Any], quant: Quant) -> dict[str, str]:
    """The type of each tensor that `write_model` writes, by GGUF names.

    Raises:
        ModelError: see `describe`.
    """
    described = describe(config)
    return {name: planned.kind.name for name, planned in _plan(described, quant, _values(described, quant, "")).items()}


def metadata(
    config: Mapping[str, Any], tokenizer: Tokenizer, quant: Quant, ends: Collection[int] = ()
) -> dict[str, Value]:
    """The content that `write_model` writes in addition to tensors and the model's name.

    Raises:
        ModelError: see `write_model`.
    """
    described = describe(config)
    vocabulary = write_vocabulary(tokenizer, int(described.config["vocab_size"]), ends)
    return _values(described, quant, "") | dict(vocabulary.values)


def divisors(config: Mapping[str, Any]) -> dict[str, list[float]]:
    """The tensors of rope divisors that `write_model` writes, by name.

    Raises:
        ModelError: see `describe`.
    """
    return {name: values.tolist() for name, values in describe(config).factors.items()}


def _values(described: Described, quant: Quant, name: str) -> dict[str, Value]:
    values: dict[str, Value] = {
        "general.architecture": described.family.architecture,
        "general.type": "model",
        "general.file_type": FILE_TYPES[quant],
        "general.quantization_version": QUANTIZATION_VERSION,
    }
    if name:
        values["general.name"] = name
    return values | dict(described.values)


def _plan(described: Described, quant: Quant, values: Mapping[str, Value]) -> dict[str, Planned]:
    parts = pieces(described.family.names, described.config)
    tied = all(piece.name != OUTPUT for piece in parts)
    plan = {name: Planned(name, data.shape, Kind.F32) for name, data in described.factors.items()}
    for piece in parts:
        kind = kind_of(piece.name, piece.shape, quant, values, tied=tied)
        plan[piece.name] = Planned(piece.name, piece.shape, kind)
    return plan


def _narrowed(plan: Mapping[str, Planned], quant: Quant, described: Described) -> list[str]:
    """A note if the type's blocks do not divide the rows of some tensors."""
    if quant is not Quant.Q4_K_M:
        return []
    odd = sorted({tensor.shape[-1] for tensor in plan.values() if len(tensor.shape) > 1} - {0})
    odd = [columns for columns in odd if fitting(Kind.Q4_K, columns) is not Kind.Q4_K]
    if not odd:
        return []
    return [
        f"rows of {', '.join(map(str, odd))} are not multiples of 256: written in Q5_0, Q5_1 and Q8_0 instead of Q4_K, "
        "Q5_K and Q6_K, as llama.cpp does"
    ]


def _fill(
    file: GgufWriter,
    described: Described,
    plan: Mapping[str, Planned],
    tensors: Iterable[tuple[str, Tensor]],
    progress: Callable[[str], None],
) -> None:
    places: dict[str, list[tuple[Piece, int]]] = {}
    for piece in pieces(described.family.names, described.config):
        for index, source in enumerate(piece.sources):
            places.setdefault(source, []).append((piece, index))
    left = dict.fromkeys(places)
    for name, tensor in tensors:
        if name not in left:
            raise ModelError(
                f"GGUF files of {described.family.architecture} have no place for {name} (or it came twice): keep the "
                "adapter separate, or export with --to merged"
            )
        del left[name]
        progress(name)
        for piece, index in places[name]:
            shape = piece.shape[1:] if piece.stacked else piece.shape
            if tuple(tensor.shape) != shape:
                raise ModelError(f"{name} is {list(tensor.shape)}, but the configuration says {list(shape)}")
            planned = plan[piece.name]
            at = index * (planned.nbytes // len(piece.sources))
            file.write(piece.name, encode(name, laid_out(tensor, piece), planned.kind), at)
    if left:
        raise ModelError(f"the model lacks tensors:\n{listing(left)}")


def laid_out(tensor: Tensor, piece: Piece) -> Tensor:
    """A Hugging Face tensor with its rows in the file's order and the piece's offset added."""
    if piece.heads:
        tensor = interleaved(tensor, piece.heads)
    return tensor.double() + piece.offset if piece.offset else tensor
