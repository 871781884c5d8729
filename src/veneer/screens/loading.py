"""Loading a model under a progress bar."""

from __future__ import annotations

from veneer.assistant.assistant import Assistant
from veneer.assistant.load import load_assistant
from veneer.assistant.request import AssistantRequest
from veneer.screens.console import console
from veneer.screens.events import EventScreen


def open_visibly(request: AssistantRequest) -> Assistant:
    """Load a model under a progress bar."""
    with EventScreen(console()) as screen:
        return load_assistant(request, screen)
