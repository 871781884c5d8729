"""The first bytes of a file, which show if a supposed text file is not text, or is text in another encoding."""

from __future__ import annotations

from pathlib import Path

from veneer.errors import DataError

_KINDS = (
    (b"\x1f\x8b", "compressed by gzip", "decompress it (gunzip), and give the resulting file"),
    (b"\x28\xb5\x2f\xfd", "compressed by Zstandard", "decompress it (unzstd), and give the resulting file"),
    (b"PK\x03\x04", "a ZIP archive, like spreadsheets (.xlsx)", "unpack it, or save the sheet as CSV in UTF-8"),
    (b"PAR1", "Parquet", "name it .parquet"),
    (b"\xff\xfe\x00\x00", "UTF-32", "save it as UTF-8"),  # begins as UTF-16 does
    (b"\x00\x00\xfe\xff", "UTF-32", "save it as UTF-8"),
    (b"\xff\xfe", "UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16", "save it as UTF-8"),
)
_MARK = b"\xef\xbb\xbf"


def text_start(path: Path, start: bytes) -> bytes:
    """The beginning of a text file, without a byte-order mark.

    Args:
        path: the file, for messages.
        start: the file's first bytes, at least four if it has that many.

    Raises:
        DataError: the file is not text in UTF-8.
    """
    for first, is_what, remedy in _KINDS:
        if start.startswith(first):
            raise DataError(f"{path} is {is_what}; {remedy}")
    return start.removeprefix(_MARK)
