"""Writes a safetensors file tensor by tensor, so that a model need not be in memory as a whole.

The format (https://github.com/huggingface/safetensors#format): eight bytes with the header's length, the header as
JSON, then the tensors end to end. The header stands first but is known last: room is reserved for it, and padded
with spaces, which the format allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch
from torch import Tensor

from veneer.errors import OutputError
from veneer.io.files import reported
from veneer.text.strict_json import to_text

_KINDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8", torch.int8: "I8"}
_ENTRY = 160
"""Bytes of header reserved for a tensor in addition to its name: dtype, up to eight dimensions and two offsets."""


class TensorWriter:
    """A safetensors file that is written tensor by tensor. Use it as a context manager.

    Writing is not atomic: use it inside `atomic_folder`. If the block fails, the file is left without a header.

    Args:
        path: path of a new file.
        names: at least the names that will be written; they reserve room for the header.
        metadata: strings for the header.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, path: Path, names: Iterable[str], metadata: Mapping[str, str]):
        self.path = path
        self._header: dict[str, object] = {"__metadata__": dict(metadata)}
        room = len(to_text(self._header)) + sum(len(to_text(name)) + _ENTRY for name in names)
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
            OutputError: the tensor cannot be written, has an unsupported dtype, or its name was written already.
        """
        assert self._file is not None
        if tensor.dtype not in _KINDS:
            raise OutputError(f"{self.path}: {name} is {tensor.dtype}; supported: {', '.join(map(str, _KINDS))}")
        if name in self._header:
            raise OutputError(f"{self.path}: {name} was written already; each tensor has one name")
        # A view as bytes needs one dimension.
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        with reported(self.path, 8 + self._room + self._offset + data.nbytes):
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
            header = to_text(self._header, separators=(",", ":")).encode()
            if len(header) > self._room:
                raise OutputError(f"{self.path}: the header takes {len(header)} bytes, but {self._room} were reserved")
            self._file.seek(0)
            self._file.write(self._room.to_bytes(8, "little") + header.ljust(self._room))
