"""A user's own program, which prints a line for each row: run so that it cannot fill the memory or hang."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Thread
from typing import IO

from veneer.runtime.posix import end_group
from veneer.runtime.stream_end import StreamEnd
from veneer.text.counting import count_of

LONGEST_LINE_BYTES = 1_000_000
"""The longest line that a program may print, in bytes."""
SILENCE_SECONDS, SILENCE_SECONDS_A_ROW = 3600.0, 10.0
"""The seconds for which a program may print nothing, and those that each row adds: most programs print only at their
end."""
SHOWN = 2000
"""The number of characters of a program's standard error that are shown, from the end."""
_POLL_SECONDS = 0.1


class ProgramFailed(Exception):
    """A program could not be run, failed, was silent for too long, or printed wrong lines."""


@dataclass(slots=True)
class _Heard:
    """What a program has printed so far."""

    lines: list[bytes] = field(default_factory=list)
    """The lines that are not empty."""
    long: bool = False
    """Whether a line is longer than allowed."""
    at: float = field(default_factory=time.monotonic)
    """When the program last printed a line."""


def printed_lines(arguments: Sequence[str], given: bytes, count: int, silence: float | None = None) -> list[bytes]:
    """The lines that a program prints, without empty ones: as many as asked for.

    Args:
        arguments: the program and its arguments.
        given: the input that the program can read from standard input.
        count: the number of lines that the program must print.
        silence: the seconds in which it may neither print a line nor write to standard error; None follows `count`.

    Raises:
        ProgramFailed: the program cannot be run, ends with a code other than 0, is silent for longer, or prints more
            or fewer lines, or a line of more than `LONGEST_LINE_BYTES`.
    """
    with tempfile.TemporaryFile() as stdin:
        # A program may print before it has read everything, and a pipe buffers little.
        stdin.write(given)
        stdin.seek(0)
        try:
            process = subprocess.Popen(
                arguments, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
            )
        except OSError as error:
            raise ProgramFailed(f"cannot be run: {error}") from error
    assert process.stderr is not None
    heard, errors, allowed = _Heard(), StreamEnd(process.stderr, SHOWN), SILENCE_SECONDS + SILENCE_SECONDS_A_ROW * count
    try:
        code = _heard_out(process, heard, errors, count, allowed if silence is None else silence)
    finally:
        if process.poll() is None:
            end_group(process)
    if code:
        raise ProgramFailed(f"ended with code {code}: {errors.text() or 'it wrote nothing to standard error'}")
    if len(heard.lines) != count:
        raise ProgramFailed(
            f"printed {count_of(len(heard.lines), 'line')} for {count_of(count, 'row')}; print one for each"
        )
    return heard.lines


def _heard_out(process: subprocess.Popen[bytes], heard: _Heard, errors: StreamEnd, count: int, silence: float) -> int:
    """Read the output of a program until it ends; returns its exit code."""
    assert process.stdout is not None
    lines = Thread(target=_read_lines, args=(process.stdout, heard, count), daemon=True)
    lines.start()

    def awaited(ended: Callable[[], bool]) -> None:
        while not ended():
            if time.monotonic() - max(heard.at, errors.read_at) > silence:
                raise ProgramFailed(f"printed nothing for {silence:,.0f} s and was stopped; print a line for each row")

    def read() -> bool:
        lines.join(_POLL_SECONDS)
        return not lines.is_alive()

    def gone() -> bool:
        if not errors.ended(_POLL_SECONDS):
            return False
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_SECONDS)
        return process.poll() is not None

    awaited(read)
    if heard.long:
        raise ProgramFailed(
            f"printed a line of more than {LONGEST_LINE_BYTES:,} bytes; print a number, or an object of numbers"
        )
    if len(heard.lines) > count:
        raise ProgramFailed(
            f"printed more than {count_of(count, 'line')} for {count_of(count, 'row')}; print one for each"
        )
    awaited(gone)
    return process.returncode


def _read_lines(stream: IO[bytes], heard: _Heard, count: int) -> None:
    """Read lines until the stream ends, or until there is one too many or one too long."""
    # Bytes end a line at line feeds only; text would also end it at U+2028, which JSON may contain.
    with stream:
        while len(heard.lines) <= count and (line := stream.readline(LONGEST_LINE_BYTES + 1)):
            if len(line) > LONGEST_LINE_BYTES:
                heard.long = True
                return
            if line.strip():
                heard.lines.append(line)
                heard.at = time.monotonic()
