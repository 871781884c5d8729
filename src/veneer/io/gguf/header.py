"""The header of a GGUF file, parsed without trust in it.

A GGUF file is ``magic, version, tensor count, metadata count``, then the metadata pairs, then one record per
tensor, then padding to the alignment, then the tensors' bytes. Every count and length below comes from the file,
so each is compared with the bytes that are left before anything is allocated, and each tensor's range is compared
with the size of the file before anybody may read it. A damaged file is a `ModelError` that says where and why.

We parse it ourselves because the reader of the ``gguf`` package keeps one numpy object per vocabulary entry (it
takes seconds for a small model) and clips out-of-range slices silently instead of refusing them.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from veneer.errors import ModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_ENTRIES = 1 << 16
"""The largest number of tensors, and of metadata keys, in a header (the largest known models have some thousands)."""
MAX_ARRAY = 1 << 22
"""The largest number of elements of one metadata array (the largest known vocabularies have some 300,000 tokens)."""
MAX_ELEMENTS = 1 << 23
"""The largest number of elements of all metadata arrays together; as Python objects they take some hundreds of MB."""
MAX_BYTES = 1 << 28
"""The largest size of metadata and tensor table together, in bytes (the largest known headers have some 20 MB)."""
MAX_KEY = 1 << 16
MAX_NAME = 256
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 16
DEFAULT_ALIGNMENT = 32

_STRING, _ARRAY = 8, 9
_SCALARS: dict[int, str] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_TYPES: dict[int, GGMLQuantizationType] = {int(kind): kind for kind in GGML_QUANT_SIZES}


@dataclass(frozen=True)
class TensorInfo:
    """The place of one tensor in the file; the range was checked against the file's size."""

    name: str
    shape: tuple[int, ...]
    """The shape in torch's order (row-major), which is GGUF's own order reversed."""
    kind: GGMLQuantizationType
    offset: int
    """Where the tensor starts, in bytes from the start of the file."""
    nbytes: int


@dataclass(frozen=True)
class GgufHeader:
    """Everything in a GGUF file but the tensors' bytes."""

    version: int
    metadata: dict[str, Any]
    """The value of each key: an int, float, bool or str, or a list of them."""
    tensors: dict[str, TensorInfo]


class _Cursor:
    """Reads little-endian values one after another, never past the end of the file."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data = data
        self.path = path
        self.at = 0
        self.size = len(data)
        self.elements = 0

    def fail(self, why: str) -> ModelError:
        return ModelError(
            f"{self.path} is not a usable GGUF file: {why} (at byte {self.at} of {self.size}). "
            "Download or convert the file again."
        )

    def claim(self, count: int, what: str) -> int:
        """Move over `count` bytes and return the position before them."""
        start = self.at
        if count > self.size - start:
            raise self.fail(f"{what} needs {count} bytes, but {self.size - start} are left")
        self.at = start + count
        self.spend()
        return start

    def spend(self, elements: int = 0) -> None:
        """Count the size of the header, and refuse more than a model needs."""
        self.elements += elements
        if self.elements > MAX_ELEMENTS or self.at > MAX_BYTES:
            raise self.fail(
                f"its header takes {self.at:,} bytes and {self.elements:,} array elements so far; at most "
                f"{MAX_BYTES:,} and {MAX_ELEMENTS:,} are allowed"
            )

    def number(self, code: str, what: str) -> Any:
        layout = struct.Struct("<" + code)
        return layout.unpack_from(self.data, self.claim(layout.size, what))[0]

    def string(self, what: str, limit: int | None = None) -> str:
        length = self.number("Q", f"the length of {what}")
        if limit is not None and length > limit:
            raise self.fail(f"{what} is {length} bytes long; at most {limit} are allowed")
        start = self.claim(length, what)
        try:
            return self.data[start : start + length].decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} is not UTF-8 text") from None

    def strings(self, count: int, what: str) -> list[str]:
        """Read `count` strings; the loop is flat because vocabularies have hundreds of thousands of them."""
        data, at, end = self.data, self.at, self.size
        length_of = struct.Struct("<Q").unpack_from
        out = []
        for index in range(count):
            if end - at < 8:
                raise self.fail(f"{what} ends after {index} of {count} strings")
            (length,) = length_of(data, at)
            at += 8
            if length > end - at:
                raise self.fail(f"string {index} of {what} needs {length} bytes, but {end - at} are left")
            try:
                out.append(data[at : at + length].decode("utf-8"))
            except UnicodeDecodeError:
                raise self.fail(f"string {index} of {what} is not UTF-8 text") from None
            at += length
            if at > MAX_BYTES:
                break
        self.at = at
        self.spend()
        return out

    def value(self, key: str) -> Any:
        kind = self.number("I", f"the type of {key!r}")
        if kind == _STRING:
            return self.string(f"the value of {key!r}")
        if kind == _ARRAY:
            return self.array(key)
        if kind not in _SCALARS:
            raise self.fail(f"{key!r} has the unknown type {kind}")
        return self.number(_SCALARS[kind], f"the value of {key!r}")

    def array(self, key: str) -> list[Any]:
        kind = self.number("I", f"the element type of {key!r}")
        count = self.number("Q", f"the length of {key!r}")
        if count > MAX_ARRAY:
            raise self.fail(f"{key!r} has {count} elements; at most {MAX_ARRAY} are allowed")
        self.spend(count)
        if kind == _STRING:
            return self.strings(count, repr(key))
        if kind not in _SCALARS:
            raise self.fail(f"{key!r} is an array of the type {kind}, which is unknown or nested")
        width = struct.calcsize("<" + _SCALARS[kind])
        start = self.claim(count * width, repr(key))
        return list(struct.unpack_from(f"<{count}{_SCALARS[kind]}", self.data, start))


def read_header(path: Path) -> GgufHeader:
    """Parse and check the header of the GGUF file at `path`.

    Raises:
        ModelError: the file cannot be opened, is not GGUF version 2 or 3, is truncated, or declares counts, types or
            tensor ranges that do not fit it.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(_Cursor(data, path))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # mmap raises it for an empty file; nothing in _parse does
        raise ModelError(f"{path} is not a usable GGUF file: it is empty. Download the file again.") from error


def _parse(cursor: _Cursor) -> GgufHeader:
    start = cursor.claim(4, "the magic number")
    if cursor.data[start : start + 4] != MAGIC:
        raise cursor.fail("it does not start with 'GGUF'")
    version = cursor.number("I", "the version")
    if version not in VERSIONS:
        why = "the byte order is big-endian" if version & 0xFFFF == 0 else f"its version is {version}"
        raise cursor.fail(f"{why}; Veneer reads versions 2 and 3 in little-endian order")
    tensor_count = cursor.number("Q", "the tensor count")
    pair_count = cursor.number("Q", "the metadata count")
    if tensor_count > MAX_ENTRIES or pair_count > MAX_ENTRIES:
        raise cursor.fail(
            f"it declares {tensor_count} tensors and {pair_count} keys; at most {MAX_ENTRIES} each are allowed"
        )
    metadata: dict[str, Any] = {}
    for _ in range(pair_count):
        key = cursor.string("a metadata key", MAX_KEY)
        if key in metadata:
            raise cursor.fail(f"the key {key!r} appears twice")
        metadata[key] = cursor.value(key)
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise cursor.fail(f"general.alignment is {alignment!r}, which is not a power of two up to {MAX_ALIGNMENT}")
    tensors: dict[str, TensorInfo] = {}
    for _ in range(tensor_count):
        info = _tensor(cursor, alignment)
        if info.name in tensors:
            raise cursor.fail(f"the tensor {info.name!r} appears twice")
        tensors[info.name] = info
    base = cursor.at + -cursor.at % alignment
    placed = {name: _place(cursor, info, base) for name, info in tensors.items()}
    _refuse_overlap(cursor, placed)
    return GgufHeader(version, metadata, placed)


def _tensor(cursor: _Cursor, alignment: int) -> TensorInfo:
    """Read one tensor record; its offset still counts from the start of the data section."""
    name = cursor.string("a tensor name", MAX_NAME)
    rank = cursor.number("I", f"the rank of {name!r}")
    if not 1 <= rank <= MAX_DIMENSIONS:
        raise cursor.fail(f"the tensor {name!r} has {rank} dimensions; 1 to {MAX_DIMENSIONS} are allowed")
    shape = tuple(cursor.number("Q", f"the shape of {name!r}") for _ in range(rank))[::-1]
    code = cursor.number("I", f"the type of {name!r}")
    offset = cursor.number("Q", f"the offset of {name!r}")
    if code not in _TYPES:
        raise cursor.fail(f"the tensor {name!r} has the unknown type {code}")
    block, width = GGML_QUANT_SIZES[_TYPES[code]]
    if min(shape) < 1 or shape[-1] % block:
        raise cursor.fail(f"the tensor {name!r} has the shape {shape}, which rows of {block} elements cannot fill")
    if offset % alignment:
        raise cursor.fail(f"the tensor {name!r} starts at {offset}, which is not a multiple of {alignment}")
    elements = 1
    for extent in shape:  # Python integers: a product that would overflow 64 bits stays exact and is refused later
        elements *= extent
    return TensorInfo(name, shape, _TYPES[code], offset, elements // block * width)


def _place(cursor: _Cursor, info: TensorInfo, base: int) -> TensorInfo:
    start = base + info.offset
    if start + info.nbytes > cursor.size:
        raise cursor.fail(
            f"the tensor {info.name!r} takes bytes {start} to {start + info.nbytes}, beyond the end of the file"
        )
    return TensorInfo(info.name, info.shape, info.kind, start, info.nbytes)


def _refuse_overlap(cursor: _Cursor, tensors: dict[str, TensorInfo]) -> None:
    ordered = sorted(tensors.values(), key=lambda info: info.offset)
    for before, after in pairwise(ordered):
        if before.offset + before.nbytes > after.offset:
            raise cursor.fail(f"the tensors {before.name!r} and {after.name!r} overlap")
