from __future__ import annotations

import pytest

from veneer.errors import ConfigError
from veneer.io.web_address import web_address

BAD = {
    "http://h:99999/v1": "an invalid port; give one between 1 and 65535",
    "http://h:0/v1": "an invalid port",
    "http://h:-1": "an invalid port",
    "http://h:port": "an invalid port",
    "http://[::1/v1": "not an address like http://127.0.0.1:8000",
    "http://[": "not an address like",
    "127.0.0.1:8000": "not an address like",
    "ftp://a": "not an address like",
    "": "not an address like",
    "http://": "not an address like",
    "http://:8000": "not an address like",
    "http://a..b/v1": "not an address like",
    f"http://{'a' * 80}/v1": "not an address like",
    "http://h/v1\n": "not an address like",
    "http://h/a b": "not an address like",
    "http://h/ü": "letters beyond ASCII",
    "https://host/v1?api-version=2": r"after its path \(\?…\), which is not sent; leave it out",
    "https://host/v1#top": r"after its path \(#…\)",
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
