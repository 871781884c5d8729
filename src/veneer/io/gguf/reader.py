"""GGUF model files behind the checkpoint protocol: Hugging Face names, shapes, values and configuration.

A GGUF file differs from the Hugging Face checkpoint that it was made from in a few ways, and each is undone here.
Tensors have other names. The rows of q and k may be interleaved, because llama.cpp rotates neighbouring pairs where
Hugging Face rotates the two halves of a head. Gemma's norm weights are larger by one. Most matrices are quantised in
blocks; they are dequantised a few rows at a time straight into the result, so reading a tensor costs its own size and
little more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from veneer.bounds import check_numbers
from veneer.errors import ModelError, listing
from veneer.io.finite import check_finite
from veneer.io.gguf.config import family_in, read_config
from veneer.io.gguf.ends import read_ends
from veneer.io.gguf.families import Family
from veneer.io.gguf.header import GgufHeader, TensorInfo, read_header
from veneer.io.gguf.metadata import Metadata
from veneer.io.gguf.names import Piece, pieces, row_order
from veneer.io.gguf.rope import FACTOR_TENSORS
from veneer.io.gguf.tokenizer import from_gguf
from veneer.io.prequantised import StoredFormat, StoredWeight
from veneer.io.protocol import BlockTensor
from veneer.io.tokenizer import Tokenizer
from veneer.machine.large_pages import room_for
from veneer.native.stored import Format

CHUNK = 1 << 18
"""How many elements are dequantised at once: the temporaries stay in the processor's cache."""
MAPPED_BYTES = 1 << 22
"""A file is mapped again after this many bytes are read. Touched pages of a mapping count as the process's memory; in
the end that would be the whole file in addition to the model."""
QUANTISED = (
    Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K,
    Kind.IQ4_NL, Kind.IQ4_XS, Kind.IQ3_S, Kind.IQ3_XXS, Kind.IQ2_S, Kind.IQ2_XS, Kind.IQ2_XXS, Kind.IQ1_S, Kind.IQ1_M,
    Kind.TQ1_0, Kind.TQ2_0, Kind.MXFP4,
)  # fmt: skip
BLOCKS = {Kind.Q4_0: Format.Q4_0, Kind.Q4_1: Format.Q4_1, Kind.Q8_0: Format.Q8_0}
"""The formats that kernels read as they are stored."""
HEADS = {Kind.Q4_0: 2, Kind.Q4_1: 4, Kind.Q8_0: 2}
"""The number of bytes of a block in these formats that are scales, float16."""
FLOATS: dict[Kind, tuple[str, torch.dtype]] = {
    Kind.F32: ("<f4", torch.float32),
    Kind.F16: ("<f2", torch.float16),
    Kind.BF16: ("<i2", torch.bfloat16),  # numpy has no bfloat16, so its bits are carried as integers
}


@dataclass(frozen=True)
class _Entry:
    """The place of one Hugging Face tensor in the file."""

    info: TensorInfo
    piece: Piece
    index: int | None
    """Its index if the file's tensor is a stack of several; None if it is the whole of the file's tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.info.shape if self.index is None else self.info.shape[1:]


class GgufCheckpoint:
    """A GGUF model file (see `veneer.io.checkpoint.Checkpoint`).

    Raises:
        ModelError: the file is damaged, or a part of a model; Veneer does not read its architecture or the type of a
            tensor; or a tensor is missing, unknown or of the wrong shape.
    """

    def __init__(self, path: Path | str) -> None:
        self.source = str(path)
        self.path = Path(path)
        self.header = read_header(self.path)
        _refuse_part(self.path, self.header.metadata)
        family = family_in(self.path, self.header.metadata)
        metadata = Metadata(self.path, self.header.metadata, family.architecture)
        self.config: Mapping[str, Any] = read_config(family, metadata, self.header)
        check_numbers(self.config)
        self.generation_config: Mapping[str, Any] = {"eos_token_id": read_ends(metadata)}
        self.stored: Mapping[str, StoredFormat] = {}  # none is in a format of bitsandbytes
        self._entries = _entries(self.path, self.header, family, self.config)
        self.blocks: Mapping[str, BlockTensor] = {
            name: BlockTensor(BLOCKS[entry.info.kind], partial(self._read_blocks, name))
            for name, entry in self._entries.items()
            if entry.info.kind in BLOCKS and len(entry.shape) == 2
        }
        self._data, self._touched = self._mapped(), 0

    def names(self) -> list[str]:
        """The Hugging Face names of all tensors, in the file's order."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor, row-major. Raises ModelError for an unknown name."""
        return self._entry(name).shape

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Read one tensor as Hugging Face has it: a fresh, contiguous CPU tensor in `dtype`.

        Block-quantised values are computed in float32 and rounded once.

        Raises:
            ModelError: there is no such tensor, or a value is NaN or infinite, in the file or in `dtype`.
        """
        entry = self._entry(name)
        shape, heads, offset = entry.shape, entry.piece.heads, entry.piece.offset
        raw = self._rows(entry)
        rows, columns = len(raw), math.prod(shape) // len(raw)
        out = room_for((rows, columns), dtype)
        target = row_order(rows, heads) if heads else None
        step = max(1, CHUNK // columns)
        for first in range(0, rows, step):
            exact = decode(raw[first : first + step], entry.info.kind).view(-1, columns)
            if offset:
                exact = exact.float() - offset
            part = self._rounded(name, exact, dtype)
            if target is None:
                out[first : first + step] = part
            else:
                out[target[first : first + step]] = part
        return out.view(shape)

    def _rounded(self, name: str, exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Round a part of a tensor to `dtype`.

        Raises:
            ModelError: a value is not finite there.
        """
        part = exact.to(dtype)
        check_finite(self.source, name, part, lambda: exact)
        return part

    def _read_blocks(self, name: str) -> torch.Tensor:
        """Copy the blocks of a matrix, with its rows as Hugging Face has them; see `BlockTensor`."""
        entry = self._entry(name)
        raw, heads = self._rows(entry), entry.piece.heads
        scales = raw.reshape(-1, GGML_QUANT_SIZES[entry.info.kind][1])[:, : HEADS[entry.info.kind]]
        check_finite(self.source, f"the scales of {name}", torch.from_numpy(scales.copy()).view(torch.float16).float())
        out = room_for(raw.shape, torch.uint8)
        out.numpy()[row_order(len(raw), heads).numpy() if heads else slice(None)] = raw
        return out

    def _rows(self, entry: _Entry) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The bytes of a tensor in the mapped file, a line for each row."""
        shape, info = entry.shape, entry.info
        # Of the bias of q or k, one element belongs to a row of the weight.
        rows = shape[0] if len(shape) == 1 and entry.piece.heads else math.prod(shape[:-1])
        nbytes = info.nbytes * math.prod(shape) // math.prod(info.shape)
        start = info.offset + (entry.index or 0) * nbytes
        self._touched += nbytes
        if self._touched > MAPPED_BYTES:
            self._data, self._touched = self._mapped(), nbytes
        return self._data[start : start + nbytes].reshape(rows, nbytes // rows)

    def read_stored(self, name: str) -> StoredWeight:
        """Raise ModelError: no weight of a GGUF file is in a format of bitsandbytes."""
        raise ModelError(f"{self.path}: the tensor {name} is not stored in a format of bitsandbytes.")

    def tokenizer(self) -> Tokenizer:
        """Make the tokenizer in the file's metadata.

        Raises:
            ModelError: it is missing or of an unknown kind.
        """
        return from_gguf(self.header.metadata, source=self.source)

    def files(self) -> list[Path]:
        """The list of the one file."""
        return [self.path]

    def _mapped(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        # This is a plain array over the mapping: with np.memmap's own class, every slice costs several times as much.
        return np.asarray(np.memmap(self.path, dtype=np.uint8, mode="r"))

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise ModelError(f"{self.path} has no tensor {name!r}; it has {len(self._entries)} others.")
        return entry


def dtype_in_gguf(path: Path) -> torch.dtype | None:
    """The dtype of most of a file's weights, or None if they are quantised.

    Single tensors (norms, routers) are float32 in files of every type.

    Raises:
        ModelError: see `read_header`.
    """
    weights: Counter[Kind] = Counter()
    for info in read_header(path).tensors.values():
        weights[info.kind] += math.prod(info.shape)
    ((kind, _),) = weights.most_common(1)
    return FLOATS[kind][1] if kind in FLOATS else None


def decode(raw: np.ndarray[Any, np.dtype[np.uint8]], kind: Kind) -> torch.Tensor:
    """Decode the bytes of whole rows to a flat tensor: float32 if quantised in blocks, else the stored type."""
    if kind in FLOATS:
        # The copy makes the memory writable and aligned, as torch requires.
        layout, dtype = FLOATS[kind]
        return torch.from_numpy(np.array(raw).reshape(-1).view(layout)).view(dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # scales that are infinite or NaN in the file stay so
        # Blocks do not depend on each other, so they are decoded as one long row, without overhead for each row.
        values = dequantize(np.ascontiguousarray(raw).reshape(1, -1), kind)
    return torch.from_numpy(values.reshape(-1))


def _refuse_part(path: Path, metadata: Mapping[str, Any]) -> None:
    """Raise ModelError if a file is one of several parts of a model. Only the first of them has the model's names."""
    count, number = metadata.get("split.count"), metadata.get("split.no")
    if type(count) is int and count > 1:
        which = f"part {number + 1}" if type(number) is int else "one"
        raise ModelError(
            f"{path} is {which} of {count} files of one model, but only models of one file can be read. Join them by "
            "llama.cpp's `llama-gguf-split --merge FIRST-PART WHOLE.gguf`, and give the whole."
        )


def _entries(path: Path, header: GgufHeader, family: Family, config: Mapping[str, Any]) -> dict[str, _Entry]:
    """Find every tensor in the file.

    Raises:
        ModelError: tensors are missing, unknown, misshapen or of a type that Veneer does not read; the error lists all
            of a kind at once.
    """
    expected = {piece.name: piece for piece in pieces(family.names, config)}
    found: dict[str, _Entry] = {}
    unknown, misshapen, kinds = [], [], []
    for name, info in header.tensors.items():
        if name in FACTOR_TENSORS:
            continue
        piece = expected.get(name)
        if piece is None:
            unknown.append(name)
            continue
        if info.shape != piece.shape:
            misshapen.append(f"{name}: {info.shape}, the metadata says {piece.shape}")
        if info.kind not in FLOATS and info.kind not in QUANTISED:
            kinds.append(f"{name}: {info.kind.name}")
        for index, source in enumerate(piece.sources):
            found[source] = _Entry(info, piece, index if piece.stacked else None)
    missing = [name for name in expected if name not in header.tensors]
    for offenders, what in (
        (unknown, "has tensors that its architecture does not have"),
        (missing, "lacks tensors"),
        (misshapen, "has tensors of another shape than its metadata says"),
        (kinds, f"holds tensors of types that are not read ({', '.join(k.name for k in (*FLOATS, *QUANTISED))} are)"),
    ):
        if offenders:
            raise ModelError(f"{path} {what}:\n{listing(offenders)}")
    return found
