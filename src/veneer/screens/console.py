"""The console for people: standard error, because standard output is for results that can be piped."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TextIO, cast

from rich.console import Console, RenderableType
from rich.file_proxy import FileProxy
from rich.measure import Measurement
from rich.style import StyleType
from rich.table import Table
from rich.text import Text

from veneer.screens.streams import LossyStream
from veneer.text.visible import visible

NARROWEST = 20
"""The fewest characters of a line: in less, a table is a frame with nothing in it."""


def console() -> Console:
    """Where people read: standard error. Colours are left out where NO_COLOR asks for it. A reader that has gone, or a
    disk that is full, does not matter to the result."""
    return _wide_enough(Console(file=cast(IO[str], LossyStream(_standard_error))))


def output_console(file: IO[str] | None = None) -> Console:
    """Where results are printed: standard output, or a file in its place."""
    return _wide_enough(Console(file=file))


def _wide_enough(screen: Console) -> Console:
    # A terminal without a size passes COLUMNS=0 on; rich believes it, and prints nothing.
    if screen.width < NARROWEST:
        screen.width = max(NARROWEST, shutil.get_terminal_size().columns)
    return screen


def _standard_error() -> TextIO | None:
    # While bars are shown, rich replaces the stream by a proxy that prints through the console of the bars. That
    # console would print through itself without end.
    stream: object = sys.stderr
    return cast(TextIO | None, stream.rich_proxied_file if isinstance(stream, FileProxy) else stream)


def say(screen: Console, message: str, style: str = "") -> None:
    """Print a message: wrapped between words in a terminal, on one line in a log.

    A word longer than a line, such as a path, is left to the terminal to wrap, so that it can be copied in one piece.
    """
    screen.print(Text(fitted(screen, visible(message)), style=style), soft_wrap=True)


def fitted(screen: Console, message: str, *, indent: int = 0) -> str:
    """A message wrapped to the width of a terminal; for a log it is unchanged.

    Args:
        screen: the console that prints it.
        message: the text.
        indent: the number of characters to leave free in each line.
    """
    if not screen.is_terminal:
        return message
    lines = (
        textwrap.wrap(line, max(1, screen.width - indent), break_long_words=False, break_on_hyphens=False) or [""]
        for line in message.split("\n")
    )
    return "\n".join(part for parts in lines for part in parts)


def say_error(message: str) -> None:
    """Print an error, formatted as by `say`."""
    screen = console()
    text = Text(fitted(screen, visible(f"error: {message}")))
    text.stylize("bold red", 0, len("error:"))
    screen.print(text, soft_wrap=True)


class TextTable(Table):
    """A table whose cells are plain text: a label `[spam]` or `:x:` is neither markup nor an emoji."""

    def add_row(
        self, *renderables: RenderableType | None, style: StyleType | None = None, end_section: bool = False
    ) -> None:
        """Add a line of cells."""
        cells = (Text(cell) if isinstance(cell, str) else cell for cell in renderables)
        super().add_row(*cells, style=style, end_section=end_section)


def new_table(title: str, *headings: str, no_wrap: bool = False) -> Table:
    """A table without rows, for `show_table`. Columns with a heading hold figures and are aligned to the right.

    Args:
        title: the text above the table.
        headings: one for each column; more columns may be added.
        no_wrap: whether the cells of these columns stay on one line.
    """
    table = TextTable(title=Text(title))
    for heading in headings:
        table.add_column(Text(heading), justify="right" if heading else "left", no_wrap=no_wrap)
    return table


def show_table(screen: Console, table: Table, *, whole: bool = False) -> None:
    """Print a table with its title above and its caption below; neither is squeezed into the table's width. If a
    terminal has no room for the table without cutting words, its rows are printed as lines.

    Args:
        screen: the console that prints it.
        table: the table.
        whole: whether a log gets every cell whole, on lines as long as needed, so that names can be searched for.
    """
    _spell_out(screen, table)
    with _room(screen, table if whole else None):
        _show_table(screen, table)


def width_of(screen: Console, table: Table) -> int:
    """The width of a table whose cells are whole, in characters."""
    _spell_out(screen, table)
    return _measured(screen, table).maximum


def _measured(screen: Console, table: Table) -> Measurement:
    return Measurement.get(screen, screen.options.update(max_width=sys.maxsize), table)


def _spell_out(screen: Console, table: Table) -> None:
    """Escape control characters, and characters that the screen's encoding lacks (as the stream would: `\\xfc`), before
    columns get their widths."""
    for column in table.columns:
        for text in (column.header, *column.cells):
            if isinstance(text, Text):
                text.plain = _escaped(visible(text.plain), screen.encoding)
        if column.overflow == "ellipsis" and _escaped("…", screen.encoding) != "…":
            column.overflow = "fold"


def _escaped(text: str, encoding: str) -> str:
    return text if encoding.startswith("utf") else text.encode(encoding, errors="backslashreplace").decode(encoding)


@contextmanager
def _room(screen: Console, table: Table | None) -> Iterator[None]:
    """Within the block, lines of a log may be as long as a table is wide."""
    before = screen.width
    if table is not None and not screen.is_terminal:
        screen.width = max(before, width_of(screen, table))
    yield
    if screen.width != before:
        screen.width = before


def _show_table(screen: Console, table: Table) -> None:
    if table.title is not None:
        say(screen, str(table.title), style="bold")
    caption, table.title, table.caption = table.caption, None, None
    if screen.is_terminal and table.show_header and _measured(screen, table).minimum > screen.width:
        _show_lines(screen, table)
    else:
        screen.print(table)
    if caption is not None:
        say(screen, str(caption), style="italic")


def _show_lines(screen: Console, table: Table) -> None:
    """Print the rows of a table as lines: the first cell of each, and below it the others with their headings."""
    headings = [str(column.header) for column in table.columns]
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        name, *known = (f"{heading} {cell}".strip() for heading, cell in zip(headings, cells, strict=True) if str(cell))
        say(screen, name, style="bold")
        if known:
            say(screen, textwrap.indent(fitted(screen, ", ".join(known), indent=2), "  "))
