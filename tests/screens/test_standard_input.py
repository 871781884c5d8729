"""Text from standard input is UTF-8, however Python marks bytes that are not."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from veneer.errors import DataError
from veneer.screens.standard_input import standard_input, text_of


def stream(content: bytes, errors: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", errors=errors)


def test_white_space_around_a_text_is_left_out() -> None:
    assert text_of(stream("  é 😀\nb \n".encode(), "strict").read) == "é 😀\nb"
    assert text_of(stream(b" a \nb\n", "strict").readline) == "a"
    assert text_of(stream(b"", "strict").readline) == ""


def test_nothing_is_read_where_it_was_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert text_of(standard_input().read) == ""
    assert text_of(standard_input().readline) == ""


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_what_is_not_utf_8_is_refused(errors: str) -> None:
    with pytest.raises(DataError, match=r"standard input is not UTF-8 text"):
        text_of(stream(b"a\xe9b\n", errors).readline)


def test_the_character_is_named_where_python_hands_halves_on() -> None:
    with pytest.raises(DataError, match=r"at character 2; give it in UTF-8"):
        text_of(stream(" éa".encode() + b"\xff", "surrogateescape").read)


def test_where_the_locale_is_none_of_utf_8_that_is_said() -> None:
    program = "from veneer.screens.standard_input import not_text as f; print(f('\\udcc3\\udcbc', 0), f('\\udcfc', 0))"
    place = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    asked = [sys.executable, "-c", program]
    said = subprocess.run(asked, env={**os.environ, **place}, capture_output=True, text=True, check=True).stdout
    assert "it decodes text as ascii. Set a UTF-8 locale (LC_ALL=C.UTF-8)" in said
    assert said.endswith("is not UTF-8 text, at character 0; give it in UTF-8\n")
