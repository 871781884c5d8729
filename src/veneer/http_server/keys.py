"""The server's keys: read from files that other users may not read, and compared in constant time."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from veneer.errors import ConfigError

SHORTEST_KEY_CHARS = 16
"""The least number of characters of a key."""


class Keys:
    """Keys, any of which opens the server. Only their digests are kept.

    Args:
        keys: the keys themselves.
    """

    def __init__(self, keys: Sequence[str]):
        self._digests = [_digest(key.encode()) for key in keys]

    def accepts(self, authorization: str | None) -> bool:
        """Whether a request's `Authorization` header holds one of the keys: as a bearer token, or as the password of
        basic authentication, which browsers ask for.

        The time that this takes reveals nothing about the keys: digests are compared, each to its end.
        """
        given = _digest(_credential(authorization or ""))
        # All are compared, so the time does not reveal which one matched.
        return sum(hmac.compare_digest(given, digest) for digest in self._digests) > 0


def first_key(file: Path) -> str:
    """The first key of a file, for a client. Raises as `read_keys`."""
    return read_lines(file)[0]


def read_keys(file: Path) -> Keys:
    """The keys of a file. Raises as `read_lines`."""
    return Keys(read_lines(file))


def read_lines(file: Path) -> list[str]:
    """The keys of a file, one a line; empty lines and lines that begin with `#` are skipped.

    Raises:
        ConfigError: the file cannot be read, other users may read it, it has no key, or one is too short or has
            characters that no client can send.
    """
    try:
        mode = file.stat().st_mode
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: the keys cannot be read: {error}") from error
    if sys.platform != "win32" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{file}: other users may read or write the keys (mode {mode & 0o777:03o}); chmod 600 {file}")
    lines = map(str.strip, text.split("\n"))
    keys = [line for line in lines if line and not line.startswith("#")]
    strange = [number for number, key in enumerate(keys, 1) if not (key.isascii() and key.isprintable())]
    if strange:
        raise ConfigError(
            f"{file}: a key must have only printable ASCII characters, because clients cannot send others; other "
            f"keys in the file: number {', '.join(map(str, strange))}"
        )
    short = [number for number, key in enumerate(keys, 1) if len(key) < SHORTEST_KEY_CHARS]
    if not keys or short:
        fault = f"shorter ones in the file: number {', '.join(map(str, short))}" if keys else "the file has no key"
        raise ConfigError(
            f"{file}: a key must have at least {SHORTEST_KEY_CHARS} characters; {fault}; make one with: "
            'python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return keys


def _credential(header: str) -> bytes:
    scheme, _, value = header.strip().partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
