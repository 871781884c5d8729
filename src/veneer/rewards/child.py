"""The process in which a Python reward runs: `serve` loads the function and answers requests until its input ends.

The function may hang, print, exit or use up all memory: the parent (`veneer.rewards.python_reward`) ends this process
and continues. It is not a sandbox: the function may do whatever the user may.

A request and an answer are one line of JSON each. The first line that comes in names file and function. Prints of the
function go to standard error, so that they never mix with the answers. Its standard input is empty, so that it never
reads the next request. A copy of the process that it forks can neither read requests nor answer them.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from veneer.runtime.posix import close_in_forks
from veneer.text.counting import count_of
from veneer.text.strict_json import to_text


class NotUsable(Exception):
    """There is no such function, or it returned no rewards."""


def serve() -> None:
    """Answer requests until the input ends."""
    with suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    close_in_forks(requests, answers)
    with open(os.devnull, "rb") as empty:
        os.dup2(empty.fileno(), 0)
    os.dup2(2, 1)

    def tell(make: Callable[[], dict[str, Any]]) -> bool:
        try:
            answer = make()
        except NotUsable as error:
            answer = {"error": str(error)}
        except Exception as error:
            # A user's code may raise anything; the answer has the error and the line where it happened.
            answer = {"error": _told(error)}
        answers.write(to_text(answer).encode() + b"\n")
        answers.flush()
        return "error" not in answer

    functions: list[Callable[..., Any]] = []

    def load(file: str, function: str) -> dict[str, Any]:
        functions.append(loaded(Path(file), function))
        return {"needs": needs_of(functions[0])}

    def rewards(given: dict[str, Any]) -> dict[str, Any]:
        return {"rewards": asked(functions[0], given)}

    described = json.loads(requests.readline())
    if not tell(lambda: load(described["file"], described["function"])):
        return
    for line in requests:
        tell(partial(rewards, json.loads(line)))


def loaded(file: Path, name: str) -> Callable[..., Any]:
    """The function of a Python file, which may import from the file's folder.

    Raises:
        NotUsable: there is no such function.
    """
    sys.path.insert(0, str(file.parent.resolve()))
    spec = spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise NotUsable(f"{file} is not a Python file")
    module = module_from_spec(spec)
    sys.modules[file.stem] = module  # dataclasses and pickles look their module up there
    spec.loader.exec_module(module)
    function = vars(module).get(name)
    if not callable(function):
        known = ", ".join(key for key, value in vars(module).items() if inspect.isfunction(value))
        raise NotUsable(f"{file} has no function {name!r}; it has {known or 'none'}")
    found: Callable[..., Any] = function
    return found


def needs_of(function: Callable[..., Any]) -> list[str]:
    """The arguments that a function cannot be called without."""
    return [name for name, one in inspect.signature(function).parameters.items() if _needed(one)]


def asked(function: Callable[..., Any], given: dict[str, Any]) -> list[float | None]:
    """The checked result of a function for some answers.

    Args:
        function: called with those of `given` that it accepts, or with all if it accepts any keyword.
        given: `prompts`, `completions`, `completion_ids` and the columns of the rows, each a list with one item for
            each answer.

    Raises:
        NotUsable: it returned anything but a list with a finite number or None for each answer.
    """
    count = len(given["prompts"])
    taken = inspect.signature(function).parameters
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values()):
        given = {key: value for key, value in given.items() if key in taken}
    found = function(**given)
    if inspect.isawaitable(found):
        found = asyncio.run(_awaited(found))
    # A set has no order, so its numbers could not be matched with the answers.
    if isinstance(found, str | bytes | dict | set | frozenset) or not isinstance(found, Iterable):
        raise NotUsable(f"it returned {str(found)[:40]!r}; return a list with a number or None for each answer")
    values = list(found)
    if len(values) != count:
        raise NotUsable(
            f"it returned {count_of(len(values), 'reward')} for {count_of(count, 'answer')}; return one for each"
        )
    return [_checked(value) for value in values]


async def _awaited(found: Awaitable[Any]) -> Any:
    return await found


def _needed(one: inspect.Parameter) -> bool:
    """Whether a function cannot be called without this argument."""
    collects = one.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return one.default is inspect.Parameter.empty and not collects


def _checked(value: Any) -> float | None:
    if value is None:
        return None
    number = _number(value)
    if number is None:
        raise NotUsable(f"it returned {str(value)[:40]!r} for an answer; a reward is a number, or None")
    if not math.isfinite(number):
        raise NotUsable(f"it returned {number}; a reward is a finite number, or None for no score")
    return number


def _number(value: Any) -> float | None:
    """A number that a function returned; None for anything else, including text that looks like a number."""
    if isinstance(value, str | bytes):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return None


def _told(error: Exception) -> str:
    """An error with the place where it was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"it raised {type(error).__name__}: {error} ({last.filename}:{last.lineno})"
