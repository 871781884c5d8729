"""A llama.cpp to compare tokenizers with."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.texts.tiny_tokenizers import Tokenize


@pytest.fixture(scope="module")
def llama_cpp() -> Iterator[Callable[[Path], Tokenize]]:
    """Starts llama.cpp on a GGUF file, on the loopback interface, and gives its tokenize function."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reference")
    servers = []

    def start(path: Path) -> Tokenize:
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.port = 0
        params.n_ctx = 64
        params.warmup = False
        params.cpuparams.n_threads = 1
        server = xllamacpp.Server(params)
        servers.append(server)
        url = f"{server.listening_address}/tokenize"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def tokenize(text: str) -> list[int]:
            body = json.dumps({"content": text, "add_special": False, "parse_special": True}).encode()
            request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
            with opener.open(request, timeout=30) as answer:
                return [int(token) for token in json.load(answer)["tokens"]]

        return tokenize

    yield start
    servers.clear()
