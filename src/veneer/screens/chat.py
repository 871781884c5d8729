"""What `veneer chat` shows: a conversation in the terminal."""

from __future__ import annotations

import click
from rich.console import Console
from rich.text import Text

from veneer.assistant.conversation import Conversation
from veneer.errors import VeneerError
from veneer.events import Event
from veneer.screens.console import console, say, say_error
from veneer.screens.events import EventScreen
from veneer.screens.standard_input import standard_input, text_of

WORDS = "Type a message; an empty line or /exit ends, /new starts over."
ENDS = ("", "/exit", "/quit", "/bye")
"""Lines that end a conversation; other programs' words are among them."""


def converse(conversation: Conversation) -> int:
    """A conversation in the terminal, until an empty line, `/exit` or the end of input.

    If a message is refused (a full context, a busy server), the error is shown, the message is forgotten, and the
    conversation continues. Returns the exit code of the last message: 0, or that of its error.
    """
    screen = console()
    say(screen, WORDS)
    code = 0
    while True:
        screen.print(Text("> ", style="bold blue"), end="")
        line = text_of(standard_input().readline)
        if line in ENDS:
            return code
        if line == "/new":
            conversation.restart()
            continue
        if line == "/help":
            say(screen, WORDS)
            continue
        code = _answered(conversation, line, screen)


def _answered(conversation: Conversation, line: str, screen: Console) -> int:
    """Print the answer to a message, and notes on it. Returns 0, or the exit code of the error shown instead."""
    events: list[Event] = []
    pieces: list[str] = []

    def show(text: str) -> None:
        pieces.append(text)
        click.echo(text, nl=False)

    try:
        conversation.say(line, show, subscribers=[events.append])
    except VeneerError as error:
        if pieces:
            click.echo("")
        say_error(f"{error}\nThe message is not remembered. Continue, or begin a new conversation with /new.")
        return error.exit_code
    click.echo("")
    shown = EventScreen(screen)
    for event in events:  # not before the answer's line has ended
        shown(event)
    return 0
