"""A model is loaded under a spinner."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from veneer.assistant import Assistant, open_assistant
from veneer.config import ComputeSection
from veneer.enums import Method
from veneer.screens.console import console


def open_visibly(
    model: str, adapter: Path | None, method: Method | None, compute: ComputeSection, *, screen: Console | None = None
) -> Assistant:
    """Load a model under a spinner that names the tensor being read."""
    screen = screen or console()
    with screen.status(escape(f"loading {model}")) as status:
        return open_assistant(
            model,
            adapter=adapter,
            method=method,
            compute=compute,
            progress=lambda name: status.update(escape(f"loading {model}: {name}")),
        )
