"""What the first bytes of a file say of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from veneer.data.files.file_starts import text_start
from veneer.errors import DataError


def test_text_is_given_back_without_its_byte_order_mark() -> None:
    for start in (b"", b"P", b"PKW", b"text"):
        assert text_start(Path("f"), start) == text_start(Path("f"), b"\xef\xbb\xbf" + start) == start


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-be"])
def test_text_of_another_encoding_is_named_by_it(encoding: str) -> None:
    with pytest.raises(DataError, match=f"^f is {encoding[:6].upper()}; save it as UTF-8"):
        text_start(Path("f"), "\ufefftext".removeprefix("\ufeff" * (len(encoding) == 6)).encode(encoding))


@pytest.mark.parametrize("start", [b"\x1f\x8b", b"PK\x03\x04x", b"PAR1", b"\x28\xb5\x2f\xfd", b"\xff\xfe", b"\xfe\xff"])
def test_what_is_no_text_is_named_with_a_remedy(start: bytes) -> None:
    with pytest.raises(DataError, match=r"^f is [^;]+; \w+ it"):
        text_start(Path("f"), start)
