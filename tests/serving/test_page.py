"""The page at `/`: one file that reaches nothing but its server, and has no place for what a model writes but text."""

from __future__ import annotations

import re

from served import call
from veneer.serving.server import HttpServer


def test_the_page_is_one_file_without_a_network(server: HttpServer) -> None:
    status, headers, body = call(server, "GET", "/")
    page = body.decode()
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    assert not re.findall(r"https?://|//[a-z]|@import|<link|src=", page)
    rules = headers["content-security-policy"]
    assert "default-src 'none'" in rules
    assert "connect-src 'self'" in rules
    (nonce,) = set(re.findall(r'nonce="([^"]+)"', page))
    assert f"script-src 'nonce-{nonce}'" in rules
    assert nonce not in call(server, "GET", "/")[2].decode()


def test_what_a_model_writes_is_text_to_the_page(server: HttpServer) -> None:
    page = call(server, "GET", "/")[2].decode()
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|\son\w+=", page)
    assert "textContent" in page
