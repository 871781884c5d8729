from __future__ import annotations

import pytest

from veneer.errors import ConfigError
from veneer.io.web_address import web_address

BAD = {
    "http://h:99999/v1": "a port that is none; give one between 1 and 65535",
    "http://h:0/v1": "a port that is none",
    "http://h:-1": "a port that is none",
    "http://h:port": "a port that is none",
    "http://[::1/v1": "no address as http://127.0.0.1:8000",
    "http://[": "no address as",
    "127.0.0.1:8000": "no address as",
    "ftp://a": "no address as",
    "": "no address as",
    "http://": "no address as",
    "http://:8000": "no address as",
    "http://a..b/v1": "no address as",
    f"http://{'a' * 80}/v1": "no address as",
    "http://h/v1\n": "no address as",
    "http://h/a b": "no address as",
    "http://h/ü": "letters beyond ASCII",
    "https://host/v1?api-version=2": r"behind its path \(\?…\), which is not sent; leave it out",
    "https://host/v1#top": r"behind its path \(#…\)",
    "https://me:secret@host/v1": "a user name or a password, which are not sent; leave them out",
    "https://me@host": "a user name or a password",
}


@pytest.mark.parametrize("text", BAD)
def test_what_cannot_be_asked_or_would_be_dropped_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^--server: .*{BAD[text]}") as caught:
        web_address(text, "--server")
    assert "secret" not in str(caught.value)


def test_addresses_of_web_servers_are_taken_apart() -> None:
    parts = web_address("HTTPS://Host.example:65535/v1/", "url")
    assert (parts.scheme, parts.hostname, parts.port, parts.path) == ("https", "host.example", 65535, "/v1/")
    for text, host in (
        ("http://[::1]:80", "::1"),
        ("http://127.0.0.1", "127.0.0.1"),
        ("http://bücher.de", "bücher.de"),
    ):
        assert web_address(text, "url").hostname == host
