"""A program that judges answers in its own process. It is asked line by line, and ended if it takes too long."""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self

from veneer.rewards.base import RewardFailed, RewardsStopped
from veneer.runtime.posix import end_group
from veneer.runtime.stream_end import StreamEnd

POLL_SECONDS = 0.1
"""Seconds between two checks for a signal while waiting."""
SHOWN = 500
"""The most characters from the end of a program's standard error that an error repeats."""
END_SECONDS = 1.0
"""The most seconds in which the rest of an ended program's standard error is read."""


def last_words(errors: StreamEnd) -> str:
    """What an ended program last said on its standard error, after a colon; empty if it said nothing."""
    errors.ended(END_SECONDS)
    said = errors.text()
    return f": {said}" if said else ""


class LineProcess:
    """A process that answers each line with a line.

    The end of its standard error is kept, so that it never mixes with the program's own lines. Processes that it has
    started end with it.

    Args:
        command: the program and its arguments.

    Raises:
        RewardFailed: it cannot be started.
    """

    def __init__(self, command: Sequence[str]):
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, process_group=0)
        except OSError as error:
            raise RewardFailed(f"{command[0]} cannot be run: {error.strerror or error}") from error
        assert self._process.stderr is not None
        self._errors = StreamEnd(self._process.stderr, SHOWN)
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, line: bytes, seconds: float, stop: Callable[[], bool]) -> bytes:
        """Send a line, and wait for one.

        Args:
            line: the line, without its line break.
            seconds: the time after which the process is ended.
            stop: called while waiting; true ends the process.

        Raises:
            RewardFailed: it took too long, or has ended; it is then closed.
            RewardsStopped: `stop` returned true.
        """
        # In a thread, since a process that hangs reads no lines, and the pipe holds few.
        threading.Thread(target=self._write, args=(line + b"\n",), daemon=True).start()
        end = time.monotonic() + seconds
        while True:
            try:
                answer = self._lines.get(timeout=min(POLL_SECONDS, max(0.0, end - time.monotonic())))
            except queue.Empty:
                if stop():
                    self.close()
                    raise RewardsStopped from None
                if time.monotonic() >= end:
                    self.close()
                    raise RewardFailed(f"it took longer than {seconds:g} s") from None
                continue
            if not answer.endswith(b"\n"):
                code = self._process.wait()
                self.close()  # before its last words: what it has started may hold the stream open
                raise RewardFailed(f"its process ended with code {code}{last_words(self._errors)}")
            return answer

    @property
    def alive(self) -> bool:
        """Whether the process can be asked."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        end_group(self._process)
        with suppress(OSError):  # nobody reads what was not written yet
            if self._process.stdin is not None:
                self._process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(b"")

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):  # it has ended, which the caller that waits for its answer notices
            self._process.stdin.write(line)
            self._process.stdin.flush()
