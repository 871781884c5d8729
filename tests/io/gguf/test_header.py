"""A header is parsed without trust in it: bad files raise ModelError alone."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from helpers.gguf.files import header, text
from veneer.errors import ModelError
from veneer.io.gguf import header as gguf_header
from veneer.io.gguf.header import read_header


def test_limits_are_above_what_models_need() -> None:
    assert gguf_header.MAX_ARRAY > 1_000_000
    assert gguf_header.MAX_ENTRIES > 10_000
    assert gguf_header.MAX_ELEMENTS > 4_000_000
    assert gguf_header.MAX_BYTES > 100_000_000


def test_a_header_has_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many arrays and texts within their own limits may not take more together than a model needs."""
    numbers = b"".join(text(b"k%d" % index) + struct.pack("<IIQ", 9, 0, 1000) + bytes(1000) for index in range(8))
    texts = text(b"t") + struct.pack("<IIQ", 9, 8, 100) + text(b"x" * 80) * 100
    (tmp_path / "numbers.gguf").write_bytes(header(numbers, counts=(0, 8)))
    (tmp_path / "texts.gguf").write_bytes(header(texts, counts=(0, 1)))
    for name in ("numbers", "texts"):
        read_header(tmp_path / f"{name}.gguf")
    monkeypatch.setattr(gguf_header, "MAX_ELEMENTS", 7999)
    with pytest.raises(ModelError, match=r"8,000 array elements so far; at most .* 7,999 are allowed"):
        read_header(tmp_path / "numbers.gguf")
    monkeypatch.setattr(gguf_header, "MAX_BYTES", 5000)
    with pytest.raises(ModelError, match=r"its header takes .* at most 5,000"):
        read_header(tmp_path / "texts.gguf")
