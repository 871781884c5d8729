"""Write a safetensors file one tensor at a time, so that a model is never held to be written.

The format (https://github.com/huggingface/safetensors#format): eight bytes with the header's length, the header as
JSON, then the tensors end to end. The header comes first but is known last; it is written into room that was kept for
it, and filled up with spaces, which the format allows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch
from torch import Tensor

from veneer.errors import OutputError
from veneer.io.files import reported

_KINDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8", torch.int8: "I8"}
_ENTRY = 160
"""Bytes of header kept for a tensor beyond its name: type, up to eight dimensions and two offsets."""


class TensorWriter:
    """A safetensors file that grows tensor by tensor. Use as a context manager.

    Not atomic by itself: use it inside `atomic_folder`. If the block fails, the file is left without a header.

    Args:
        path: a fresh file.
        names: at least the names that will be written; they say how long the header may become.
        metadata: texts for the header.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, path: Path, names: Iterable[str], metadata: Mapping[str, str]):
        self.path = path
        self._header: dict[str, object] = {"__metadata__": dict(metadata)}
        room = len(json.dumps(self._header)) + sum(len(json.dumps(name)) + _ENTRY for name in names)
        self._room = -(-room // 8) * 8
        self._offset = 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> TensorWriter:
        with reported(self.path):
            self._file = self.path.open("xb")
            self._file.seek(8 + self._room)
        return self

    def write(self, name: str, tensor: Tensor) -> None:
        """Append one tensor.

        Raises:
            OutputError: it cannot be written, is of a type that is not, or its name is taken or was not announced.
        """
        assert self._file is not None
        if tensor.dtype not in _KINDS:
            raise OutputError(f"{self.path}: {name} is {tensor.dtype}; written are {', '.join(map(str, _KINDS))}")
        if name in self._header:
            raise OutputError(f"{self.path}: {name} was written already; each tensor has one name")
        # One dimension, since a view in bytes needs one.
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        with reported(self.path):
            self._file.write(data.data)
        ends = [self._offset, self._offset + data.nbytes]
        self._header[name] = {"dtype": _KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": ends}
        self._offset = ends[1]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        with self._file, reported(self.path):
            if kind is not None:
                return
            header = json.dumps(self._header, separators=(",", ":")).encode()
            if len(header) > self._room:
                raise OutputError(f"{self.path}: the header takes {len(header)} bytes, and {self._room} were kept")
            self._file.seek(0)
            self._file.write(self._room.to_bytes(8, "little") + header.ljust(self._room))
