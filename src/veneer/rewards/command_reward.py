"""A reward that is a program: it reads a line of JSON for each answer, and prints one."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from veneer.errors import ConfigError
from veneer.rewards.base import AnswerToJudge, RewardFailed, RewardsStopped
from veneer.rewards.process import POLL_SECONDS, SHOWN, last_words
from veneer.runtime.posix import end_group
from veneer.runtime.stream_end import StreamEnd
from veneer.text.counting import count_of
from veneer.text.strict_json import to_text, with_reasons

MOST_BYTES = 2**20
"""The most bytes that a program may print for each answer: one that prints without end would fill the disk."""


def arguments_of(command: str) -> list[str]:
    """A program and its arguments, split as by a shell.

    Raises:
        ConfigError: there is no program in it, or a quotation mark has no partner.
    """
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"rewards: command {command!r}: {error}; quote it as for a shell") from error
    if not arguments:
        raise ConfigError("rewards: command is empty; give a program and its arguments")
    return arguments


class CommandReward:
    """A program that runs once for the answers of a step (`AnswerReward`).

    It reads a line of JSON for each answer from standard input (`where`, `prompt`, `completion`, `columns`), and prints
    a line of JSON for each, in order: a number, null, or an object with the key `reward`.

    Args:
        command: the program and its arguments, split as by a shell; no shell runs.
        seconds: the time limit of one run.
        stop: called while it runs; true ends it.

    Raises:
        ConfigError: there is no program in it, or there is no program with that name.
    """

    def __init__(self, command: str, *, seconds: float, stop: Callable[[], bool] = lambda: False):
        self._arguments = arguments_of(command)
        if shutil.which(self._arguments[0]) is None:
            raise ConfigError(
                f"rewards: command {command!r}: there is no program {self._arguments[0]!r} that can be run; give its "
                "path, or the program that runs the file (python3 FILE)"
            )
        self._seconds, self._stop = seconds, stop

    def refusals(self, rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """See `AnswerReward.refusals`: it is not known what a program needs."""
        return [None] * len(rows)

    def values(self, answers: Sequence[AnswerToJudge]) -> list[float | None]:
        """See `AnswerReward.values`."""
        # Not splitlines(): a text would end a line at U+2028 too, which JSON may hold.
        printed = [line for line in self._output(answers).split("\n") if line.strip()]
        if len(printed) != len(answers):
            raise RewardFailed(
                f"it printed {count_of(len(printed), 'line')} for {count_of(len(answers), 'answer')}; "
                f"print one for each"
            )
        return [_value(line) for line in printed]

    def close(self) -> None:
        """Nothing is left running."""

    def _output(self, answers: Sequence[AnswerToJudge]) -> str:
        lines = [
            {"where": one.where, "prompt": one.prompt, "completion": one.completion, "columns": dict(one.columns)}
            for one in answers
        ]
        # Through files: a program may print before it has read everything, and a pipe holds little.
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output:
            text = "".join(to_text(with_reasons(line), ensure_ascii=False, default=str) + "\n" for line in lines)
            given.write(text.encode("utf-8", errors="surrogatepass"))
            given.seek(0)
            try:
                process = subprocess.Popen(
                    self._arguments, stdin=given, stdout=output, stderr=subprocess.PIPE, process_group=0
                )
            except OSError as error:
                raise RewardFailed(f"{self._arguments[0]} cannot be run: {error.strerror or error}") from error
            assert process.stderr is not None
            errors = StreamEnd(process.stderr, SHOWN)

            def check_size() -> None:
                most = MOST_BYTES * len(answers)
                if os.fstat(output.fileno()).st_size > most:
                    count = count_of(len(answers), "answer")
                    raise RewardFailed(f"it printed more than {most:,} bytes for {count}; print a short line for each")

            code = self._waited(process, check_size)
            if code:
                raise RewardFailed(f"it ended with code {code}{last_words(errors)}")
            check_size()
            output.seek(0)
            return output.read().decode("utf-8", errors="replace")

    def _waited(self, process: subprocess.Popen[bytes], check_size: Callable[[], None]) -> int:
        """The exit code of a process, within its time limit; `check_size` is called again and again meanwhile."""
        end = time.monotonic() + self._seconds
        try:
            while True:
                try:
                    return process.wait(timeout=min(POLL_SECONDS, max(0.0, end - time.monotonic())))
                except subprocess.TimeoutExpired:
                    check_size()
                    if self._stop():
                        raise RewardsStopped from None
                    if time.monotonic() >= end:
                        raise RewardFailed(f"it took longer than {self._seconds:g} s") from None
        finally:
            if process.poll() is None:
                end_group(process)


def _value(line: str) -> float | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RewardFailed(f"it printed a line that is not JSON: {line[:80]!r}") from error
    if isinstance(value, dict):
        if "reward" not in value:
            raise RewardFailed(f"it printed an object without the key reward: {line[:80]!r}")
        value = value["reward"]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise RewardFailed(f"it printed {line[:80]!r}; a reward is a finite number, or null")
    return float(value)
