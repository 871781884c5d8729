"""Fixtures of tests that share one server: a tiny base with one adapter. The conftest.py of a folder imports them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from helpers.models.tiny import write_model
from helpers.servers.served import ADAPTER, serving, tiny_assistant
from veneer.assistant.assistant import Assistant
from veneer.http_server.server import HttpServer
from veneer.model.language import LanguageModel
from veneer.serving.service import Service


@pytest.fixture(scope="session")
def assistant(tiny_model: Path) -> Assistant:
    return tiny_assistant(tiny_model)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """Another model of the same shape, which stands for the base with an adapter."""
    return tiny_assistant(write_model(tmp_path_factory.mktemp("other"), seed=1)).model


@pytest.fixture(scope="session")
def running(assistant: Assistant, other: LanguageModel) -> Iterator[tuple[HttpServer, Service]]:
    with serving(assistant, adapters={ADAPTER: other}) as found:
        yield found


@pytest.fixture(scope="session")
def server(running: tuple[HttpServer, Service]) -> HttpServer:
    return running[0]


@pytest.fixture(scope="session")
def service(running: tuple[HttpServer, Service]) -> Service:
    return running[1]


@pytest.fixture(scope="session")
def client(server: HttpServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found
