"""Headers of safetensors files that lie: refused in a second and 200 MB, in models and in adapters."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from helpers.rows.untrusted_files import at_most
from veneer.adapters.files.store import read_tensors
from veneer.errors import AdapterError, ModelError
from veneer.io.checkpoint import open_checkpoint

ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def file(header: Any, body: int, *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(body)


def entries(count: int, **changes: Any) -> dict[str, Any]:
    return {f"t{n}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * n, 4 * n + 4]} | changes for n in range(count)}


LIES: dict[str, Callable[[], bytes]] = {
    "header of 2^63 bytes": lambda: file({"a": ENTRY}, 16, length=1 << 63),
    "header of 2^64 - 1 bytes": lambda: file({"a": ENTRY}, 16, length=(1 << 64) - 1),
    "header beyond the file": lambda: file({"a": ENTRY}, 16, length=90_000_000),
    "header of another encoding": lambda: file(b'{"\xff": {}}', 16),
    "no object": lambda: file(b"[" * 50_000 + b"]" * 50_000, 16),
    "overlap": lambda: file({"a": ENTRY, "b": {**ENTRY, "data_offsets": [8, 24]}}, 24),
    "hole": lambda: file({"a": ENTRY, "b": {**ENTRY, "data_offsets": [24, 40]}}, 40),
    "bytes behind the last tensor": lambda: file({"a": ENTRY}, 32),
    "tensor beyond the file": lambda: file(
        {"a": {**ENTRY, "shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 42]}}, 16
    ),
    "shape that overflows": lambda: file({"a": {**ENTRY, "shape": [1 << 62, 1 << 62, 4]}}, 16),
    "another dtype than the bytes": lambda: file({"a": {**ENTRY, "dtype": "F64"}}, 16),
    "no such dtype": lambda: file({"a": {**ENTRY, "dtype": "F128"}}, 16),
    "offsets that go back": lambda: file({"a": {**ENTRY, "data_offsets": [16, 0]}}, 16),
    "negative offsets": lambda: file({"a": {**ENTRY, "data_offsets": [-16, 0]}}, 16),
    "name twice": lambda: file(
        json.dumps({"a": ENTRY})[:-1].encode() + b"," + json.dumps({"a": ENTRY})[1:].encode(), 16
    ),
    "100,000 entries of one place": lambda: file(entries(100_000, data_offsets=[0, 4]), 4),
    "100,000 names twice": lambda: file(
        json.dumps(entries(50_000))[:-1].encode() + b"," + json.dumps(entries(50_000))[1:].encode(), 200_000
    ),
}
"""Files, each made where it is tested: some have a hundred thousand entries."""


def model(folder: Path, content: bytes) -> Callable[[], object]:
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(content)

    def read() -> None:
        checkpoint = open_checkpoint(folder)
        for name in checkpoint.names():
            checkpoint.read(name, torch.float32)

    return read


def adapter(folder: Path, content: bytes) -> Callable[[], object]:
    (folder / "adapter_model.safetensors").write_bytes(content)
    return lambda: read_tensors(folder)


@pytest.mark.scenario(number=29)
@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize(("prepare", "refusal"), [(model, ModelError), (adapter, AdapterError)])
def test_a_header_that_lies_is_refused_soon_and_in_little_memory(
    prepare: Callable[[Path, bytes], Callable[[], object]], refusal: type[Exception], lie: str, tmp_path: Path
) -> None:
    save_file({"a": torch.ones(2, 2)}, tmp_path / "sound.safetensors")
    prepare(tmp_path, (tmp_path / "sound.safetensors").read_bytes())()
    read = prepare(tmp_path, LIES[lie]())
    begun = time.process_time()
    with pytest.raises(refusal, match=r"model\.safetensors"), at_most(200):
        read()
    assert time.process_time() - begun < 1.0
