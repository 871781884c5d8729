"""What `veneer chat` shows: a conversation in the terminal."""

from __future__ import annotations

import sys

import click
from rich.text import Text

from veneer.assistant import Conversation
from veneer.data.json_values import half_character
from veneer.errors import DataError
from veneer.screens.console import console, say


def converse(conversation: Conversation) -> None:
    """A conversation in the terminal, until an empty line or the end of input."""
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
        at = half_character(line)
        if at is not None:
            raise DataError(f"standard input is not UTF-8 text, at character {at}; give it in UTF-8")
        if line == "/new":
            conversation.restart()
            continue
        conversation.say(line, lambda text: click.echo(text, nl=False))
        click.echo("")
