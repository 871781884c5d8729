"""Messages and tables on a console: paths stay whole, and NO_COLOR is obeyed."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from helpers.models.tiny import CommandLine
from helpers.processes.consoles import recorded
from veneer.screens.console import console, new_table, output_console, say, say_error, show_table

PATH = "/a/folder/of/results/" + "x" * 40


def test_a_message_in_a_log_is_one_line() -> None:
    console = recorded(width=40)
    say(console, "word " * 60)
    assert console.export_text().count("\n") == 1


def test_a_message_in_a_terminal_is_broken_between_words() -> None:
    console = recorded(terminal=True, width=80)
    say(console, f"everything that was measured stands in {PATH}")
    assert console.export_text().splitlines() == ["everything that was measured stands in", PATH]


def test_lines_of_a_message_stay_lines_and_keep_their_indent() -> None:
    console = recorded(terminal=True, width=20)
    say(console, "these are wrong:\n  - the first of many\n\n- b")
    assert console.export_text().splitlines() == ["these are wrong:", "  - the first of", "many", "", "- b"]


def test_a_path_that_is_longer_than_a_line_can_be_copied_in_one_piece() -> None:
    console = recorded(terminal=True, width=40)
    say(console, f"see {PATH}")
    assert PATH in console.export_text()


def test_what_a_terminal_would_obey_is_written_as_an_escape() -> None:
    hostile, shown = "\x1b]0;title\x07 \x1b[2J\u202eab", "\\x1b]0;title\\x07 \\x1b[2J\\u202eab"
    console = recorded(width=120)
    say(console, f"a\tb\r\nfamily: 👨‍👩‍👧, かな　です\n{hostile}")
    table = new_table(hostile, hostile)
    table.add_row(hostile)
    table.add_row(Text("\x1b[2Jred", style="red"))
    show_table(console, table)
    text = console.export_text()
    assert text.count(shown) == 1
    assert text.count(r"\x1b]0;title") == 4
    assert r"\x1b[2Jred" in text
    assert not set(text) & set("\x1b\x07\u202e")
    assert "family: 👨‍👩‍👧, かな　です\n" in text


def test_brackets_are_text() -> None:
    console = recorded()
    say(console, "rows [/x] of [bold]y[/bold]")
    assert console.export_text() == "rows [/x] of [bold]y[/bold]\n"


def test_brackets_in_a_table_are_text() -> None:
    table = new_table("t [/x]", "[spam]", "[/ham]", ":x:")
    table.add_row("[b]bold", "[/none]", ":smile:")
    console = recorded(width=80)
    show_table(console, table)
    text = console.export_text()
    assert [word for word in ("[spam]", "[/ham]", ":x:", "[b]bold", "[/none]", ":smile:") if word not in text] == []


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("width", [80, 24])
def test_borders_stand_below_each_other_whatever_the_encoding_has(encoding: str, width: int) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    table = new_table("names", "", "größte")
    for name in ("Prüfung … 猫" * 2, "plain"):
        table.add_row(name, Text("−1 €", style="bold"))
    show_table(Console(file=stream, width=width), table)
    stream.seek(0)
    lines = stream.read().splitlines()[1:]
    assert len({cell_len(line) for line in lines}) == 1, lines


def test_a_table_that_a_terminal_has_no_room_for_is_lines() -> None:
    def table() -> Table:
        made = new_table("m (4 rows)", "", "base", "adapter", "95 % interval")
        made.add_row("json", "-219.5123", "-1.5", "-217 to -2")
        made.add_row("json fields", "", Text("+3.25", style="green"), "")
        made.caption = "below"
        return made

    narrow, log, wide = recorded(terminal=True, width=30), recorded(width=30), recorded(terminal=True, width=60)
    for screen in (narrow, log, wide):
        show_table(screen, table())
    assert narrow.export_text().splitlines() == [
        "m (4 rows)", "json", "  base -219.5123, adapter", "  -1.5, 95 % interval -217 to", "  -2", "json fields",
        "  adapter +3.25", "below",
    ]  # fmt: skip
    assert "│" in wide.export_text()
    assert "│" in log.export_text()


def test_a_title_is_as_wide_as_the_screen_and_not_as_its_table() -> None:
    table = Table(title=f"{PATH} (3 rows)", caption=f"also in {PATH}")
    table.add_column("a")
    table.add_row("b")
    console = recorded(width=120)
    show_table(console, table)
    lines = console.export_text().splitlines()
    assert lines[0] == f"{PATH} (3 rows)"
    assert lines[-1] == f"also in {PATH}"


@pytest.mark.parametrize(("columns", "width"), [("0", 80), ("5", 20), ("19", 20), ("20", 20), ("100", 100)])
def test_columns_that_have_no_room_for_a_word_are_not_believed(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert [screen.width for screen in (console(), output_console(), output_console(io.StringIO()))] == [width] * 3
    say_error("no such file")
    table = new_table("results", "", "figure")
    table.add_row("loss", "1.5")
    show_table(output_console(), table)
    shown = capsys.readouterr()
    assert shown.err == "error: no such file\n"
    assert "loss" in shown.out
    assert "1.5" in shown.out


def on_a_terminal(command_line: CommandLine, *argv: str, **environment: str) -> str:
    """What a command writes to a terminal."""
    terminal, screen = pty.openpty()
    written: list[bytes] = []

    def read() -> None:
        # The error is Linux's end of a terminal that nobody holds open any more.
        with suppress(OSError):
            while part := os.read(terminal, 4096):
                written.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    ended = command_line.run(*argv, screen=os.ttyname(screen), environment=environment)
    os.close(screen)
    reader.join()
    os.close(terminal)
    assert ended.code >= 0, f"the command was ended by signal {-ended.code}"
    return b"".join(written).decode()


@pytest.mark.skipif(sys.platform != "linux", reason="a terminal is made in Linux's way")
def test_errors_are_red_unless_no_color_is_set(command_line: CommandLine, tmp_path: Path) -> None:
    asked = ("evaluate", "--model", str(tmp_path / "absent"), "--data", str(tmp_path / "absent.jsonl"))
    coloured = on_a_terminal(command_line, *asked, TERM="xterm-256color")
    assert "\x1b[1;31merror:" in coloured
    plain = on_a_terminal(command_line, *asked, TERM="xterm-256color", NO_COLOR="1")
    assert "error:" in plain
    assert "\x1b[1;31m" not in plain
    assert "\x1b[31m" not in plain


COLOUR = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[0-9]+)*m")


@pytest.mark.skipif(sys.platform != "linux", reason="a terminal is made in Linux's way")
@pytest.mark.parametrize("verb", ["train", "evaluate", "plan", "data", "doctor"])
def test_no_verb_writes_a_colour_where_no_color_is_set(
    verb: str, command_line: CommandLine, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    model, data = ("--model", str(tiny_model)), ("--data", str(tiny_data))
    run = (*model, *data, "--output", str(tmp_path / "run"), "--method", "lora", "--steps", "1", "--device", "cpu")
    asked = {
        "train": ("train", *run),
        "evaluate": ("evaluate", *model, *data, "--limit", "2", "--max-new-tokens", "2", "--device", "cpu"),
        "plan": ("plan", *model, *data, "--method", "lora", "--device", "cpu"),
        "data": ("data", str(tiny_data), *model),
        "doctor": ("doctor",),
    }[verb]
    written = on_a_terminal(command_line, *asked, TERM="xterm-256color", NO_COLOR="1")
    assert len(written) > 100
    assert COLOUR.search(written) is None, COLOUR.search(written)
