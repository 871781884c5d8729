"""What `veneer chat` shows: a conversation in the terminal."""

from __future__ import annotations

import sys

import click
from rich.text import Text

from veneer.assistant import Conversation
from veneer.screens.console import console, say
from veneer.screens.standard_input import text_of

ENDS = ("", "/exit", "/quit", "/bye")
"""Lines that end a conversation; other programs' words are among them."""


def converse(conversation: Conversation) -> None:
    """A conversation in the terminal, until an empty line, `/exit` or the end of input."""
    screen = console()
    say(screen, "Type a message; an empty line or /exit ends, /new starts over.")
    while True:
        screen.print(Text("> ", style="bold blue"), end="")
        line = text_of(sys.stdin.readline)
        if line in ENDS:
            return
        if line == "/new":
            conversation.restart()
            continue
        conversation.say(line, lambda text: click.echo(text, nl=False))
        click.echo("")
