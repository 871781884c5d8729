"""What `veneer chat` shows: a conversation in the terminal."""

from __future__ import annotations

import sys

import click
from rich.text import Text

from veneer.assistant import Assistant
from veneer.data.records import Message
from veneer.errors import DataError
from veneer.generation import Sampling
from veneer.screens.console import console, say


def converse(assistant: Assistant, system: str | None, sampling: Sampling) -> None:
    """A conversation in the terminal, until an empty line or the end of input."""
    beginning: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    history = list(beginning)
    screen = console()
    say(screen, "Type a message; an empty line ends, /new starts over.")
    while True:
        screen.print(Text("> ", style="bold blue"), end="")
        try:
            line = sys.stdin.readline().strip()
        except UnicodeDecodeError as error:
            raise DataError(f"standard input is not UTF-8 text: {error}") from error
        if not line:
            return
        if line == "/new":
            history = list(beginning)
            continue
        history.append({"role": "user", "content": line})
        reply = assistant.stream(history, sampling, lambda text: click.echo(text, nl=False))
        click.echo("")
        history.append({"role": "assistant", "content": reply})
