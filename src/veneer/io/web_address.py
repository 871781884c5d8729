"""The address of a web server, as a user gives it: parts that cannot be used, or would not be sent, are refused."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from veneer.errors import ConfigError

EXAMPLE = "http://127.0.0.1:8000"


def web_address(text: str, what: str) -> SplitResult:
    """The parts of an address; its `hostname` exists, and its `port` can be read.

    Args:
        text: the address.
        what: the origin of the address for messages, such as "--server".

    Raises:
        ConfigError: the text is not the address of a web server, or has parts that would not be sent.
    """
    # A password is a secret, also in a message.
    shown = f"{what}: {re.sub(r'//.*@', '//…@', text)!r}"
    try:
        parts = urlsplit(text)
        host = (parts.hostname or "").encode("idna")
    except ValueError as error:  # an open bracket, a label of a hundred letters
        raise ConfigError(f"{shown} is not an address like {EXAMPLE}: {error}") from error
    if parts.scheme not in ("http", "https") or not host or any(one.isspace() or one < " " for one in text):
        raise ConfigError(f"{shown} is not an address like {EXAMPLE}")
    if "@" in parts.netloc:
        raise ConfigError(
            f"{shown} has a user name or a password, which are not sent; leave them out, and give a key by its file"
        )
    if not _has_good_port(parts):
        raise ConfigError(f"{shown} has an invalid port; give one between 1 and 65535, as in {EXAMPLE}")
    if parts.query or parts.fragment:
        raise ConfigError(
            f"{shown} has more after its path ({'?' if parts.query else '#'}…), which is not sent; leave it out"
        )
    if not parts.path.isascii():
        raise ConfigError(f"{shown} has a path with letters beyond ASCII; write these as %XX")
    return parts


def _has_good_port(parts: SplitResult) -> bool:
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False
