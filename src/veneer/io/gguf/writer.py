"""Writes a GGUF file one tensor at a time, in any order: the size of every tensor is known before any is made.

A file consists of magic, version 3, counts, metadata pairs, one record for each tensor, padding to the alignment, and
the tensors' bytes, each padded again (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Kind

from veneer.errors import OutputError, listing
from veneer.io.files import reported
from veneer.io.gguf.header import DEFAULT_ALIGNMENT, MAGIC
from veneer.io.gguf.metadata import Value

VERSION = 3
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor that will be written."""

    name: str
    shape: tuple[int, ...]
    """The shape, row-major."""
    kind: Kind

    @property
    def nbytes(self) -> int:
        """The number of bytes in the file, without padding."""
        block, width = GGML_QUANT_SIZES[self.kind]
        elements = 1
        for extent in self.shape:
            elements *= extent
        return elements // block * width


class GgufWriter:
    """A GGUF file whose header is written first and whose tensors follow. Use it as a context manager.

    A failure leaves a part of the file, so write inside `atomic_folder`.

    Args:
        path: a file that does not exist yet.
        metadata: the metadata by full key. A whole number is stored in 32 bits: unsigned if alone, signed in a list.
        tensors: everything that will be written.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, path: Path, metadata: Mapping[str, Value], tensors: Sequence[Planned]):
        self.path = path
        header = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
        header += [_string(key) + _value(value) for key, value in metadata.items()]
        self._planned: dict[str, Planned] = {}
        self._places: dict[str, int] = {}
        self._left: dict[str, int] = {}
        offset = 0
        for tensor in tensors:
            header.append(_string(tensor.name) + struct.pack("<I", len(tensor.shape)))
            header.append(struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape)))
            header.append(struct.pack("<IQ", int(tensor.kind), offset))
            self._planned[tensor.name] = tensor
            self._places[tensor.name] = offset
            self._left[tensor.name] = tensor.nbytes
            offset += tensor.nbytes + -tensor.nbytes % DEFAULT_ALIGNMENT
        self._header = b"".join(header)
        self._base = len(self._header) + -len(self._header) % DEFAULT_ALIGNMENT
        self._end = self._base + offset
        self._file: BinaryIO | None = None

    def __enter__(self) -> GgufWriter:
        with reported(self.path, self._end):
            self._file = self.path.open("xb")
            self._file.write(self._header)
            self._file.truncate(self._end)
        return self

    def write(self, name: str, data: Bytes, at: int = 0) -> None:
        """Write some bytes of one tensor.

        Args:
            name: the name of a planned tensor.
            data: the encoded bytes.
            at: the place of the bytes, counted from the tensor's start.

        Raises:
            OutputError: the bytes cannot be written, or the tensor has no such room.
        """
        assert self._file is not None
        planned = self._planned.get(name)
        if planned is None or at + data.nbytes > planned.nbytes or data.nbytes > self._left[name]:
            raise OutputError(f"{self.path}: {data.nbytes} bytes of {name} at {at} were not planned")
        with reported(self.path, self._end):
            self._file.seek(self._base + self._places[name] + at)
            self._file.write(np.ascontiguousarray(data).data)
        self._left[name] -= data.nbytes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        with self._file, reported(self.path):
            if kind is not None:
                return
            missing = [f"{name}: {left} bytes" for name, left in self._left.items() if left]
            if missing:
                raise OutputError(f"{self.path}: tensors were planned but not written:\n{listing(missing)}")


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    if isinstance(value, list):
        code = _code(value[0]) if value else _STRING
        code = _I32 if code == _U32 else code
        return struct.pack("<IIQ", _ARRAY, code, len(value)) + b"".join(_plain(item, code) for item in value)
    code = _code(value)
    return struct.pack("<I", code) + _plain(value, code)


def _code(value: bool | int | float | str) -> int:
    if isinstance(value, bool):
        return _BOOL
    return _U32 if isinstance(value, int) else _F32 if isinstance(value, float) else _STRING


def _plain(value: bool | int | float | str, code: int) -> bytes:
    if code == _STRING:
        return _string(str(value))
    return struct.pack({_BOOL: "<?", _U32: "<I", _I32: "<i", _F32: "<f"}[code], value)
