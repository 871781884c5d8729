"""A model is loaded under a spinner."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from veneer.assistant import Assistant, AssistantRequest, load_assistant
from veneer.screens.console import console


def open_visibly(request: AssistantRequest, *, screen: Console | None = None) -> Assistant:
    """Load a model under a spinner that names the tensor being read."""
    screen = screen or console()
    with screen.status(escape(f"loading {request.model}")) as status:
        return load_assistant(request, progress=lambda name: status.update(escape(f"loading {request.model}: {name}")))
