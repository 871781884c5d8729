"""A reward that is a Python function of the user, called as in TRL: `reward(prompts, completions, **columns)`.

It runs in its own process (`veneer.rewards.child`), which is started once, and again after it was ended.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from veneer.errors import ConfigError
from veneer.rewards.base import AnswerToJudge, RewardFailed
from veneer.rewards.process import LineProcess
from veneer.text.strict_json import NOT_FINITE, to_text, with_reasons

LOAD_SECONDS = 300.0
"""Seconds within which a file must be loaded: it may import large libraries."""
RESERVED = ("prompts", "completions", "completion_ids")
"""Names of arguments that no column can have."""

_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from veneer.rewards.child import serve; serve()"
_PACKAGE_ROOT = str(Path(__file__).parents[2])


class PythonReward:
    """A function `FILE.py:FUNCTION` (`AnswerReward`).

    The function gets `prompts` and `completions` (texts, or lists of turns if the row's prompt is one),
    `completion_ids`, and every column of the rows, each a list with one item for each answer. It gets only those that
    it names, or all if it has `**kwargs`. A column that a row lacks is None. It returns a list of numbers and None, and
    may be asynchronous.

    Args:
        named: file and function, as `FILE.py:FUNCTION`.
        seconds: the time limit of one call.
        stop: called while it runs; true ends it.

    Raises:
        ConfigError: there is no such file or function, or the file cannot be loaded.
    """

    def __init__(self, named: str, *, seconds: float, stop: Callable[[], bool] = lambda: False):
        file, _, function = named.rpartition(":")
        if not Path(file).is_file():
            raise ConfigError(f"rewards: python {named!r}: {file or named} is not a file; give FILE.py:FUNCTION")
        self._named, self._seconds, self._stop = named, seconds, stop
        self._described = {"file": str(Path(file).resolve()), "function": function}
        self._needs: list[str] = []
        self._process: LineProcess | None = None
        try:
            self._started()
        except RewardFailed as error:
            raise ConfigError(f"rewards: python {named!r}: {error}") from error

    def refusals(self, rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """See `AnswerReward.refusals`: the columns that the function needs must occur in some row, as it gets None for
        the others."""
        known = {*RESERVED}.union(*rows)
        missing = [name for name in self._needs if name not in known]
        said = f"it needs {', '.join(missing)}; there are {', '.join(sorted(known))}" if missing else None
        return [said] * len(rows)

    def values(self, answers: Sequence[AnswerToJudge]) -> list[float | None]:
        """See `AnswerReward.values`."""
        given: dict[str, Any] = {
            key: [answer.columns.get(key) for answer in answers]
            for key in dict.fromkeys([*self._needs, *(key for answer in answers for key in answer.columns)])
            if key not in RESERVED
        }
        given |= {
            "prompts": [answer.prompt for answer in answers],
            "completions": [answer.completion for answer in answers],
            "completion_ids": [list(answer.tokens) for answer in answers],
        }
        given = {key: value for key, value in with_reasons(given).items() if key != NOT_FINITE}
        line = to_text(given, default=str).encode()
        answer = json.loads(self._started().ask(line, self._seconds, self._stop))
        if "error" in answer:
            raise RewardFailed(answer["error"])
        found: list[float | None] = answer["rewards"]
        return found

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _started(self) -> LineProcess:
        if self._process is None or not self._process.alive:
            self.close()
            # The parent's own sys.path, so that imports of the function work as in this program.
            process = LineProcess([sys.executable, "-c", _PROGRAM, *sys.path, _PACKAGE_ROOT])
            ready = json.loads(process.ask(to_text(self._described).encode(), LOAD_SECONDS, self._stop))
            if "error" in ready:
                process.close()
                raise RewardFailed(ready["error"])
            self._process, self._needs = process, ready["needs"]
        return self._process
