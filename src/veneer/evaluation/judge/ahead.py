"""Ask many questions, some of them at the same time and few ahead: an answer is paid for, so that none is asked for
that nobody would take."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from types import TracebackType
from typing import Generic, Self, TypeVar

from veneer.errors import OutputError

Asked = TypeVar("Asked")

AHEAD = 2
"""Questions that are handed in for every one that is asked at the same time."""
HOPELESS = 20
"""Questions that are refused without one answer before, after which the rest is not asked."""
OnAnswer = Callable[[int, str], None]
"""Told of every answer as it comes: the number of the question, and the text."""


class RefusedError(Exception):
    """A question has no answer."""

    def __init__(self, message: str, *, passing: bool = False, for_all: bool = False, after: float = 0.0) -> None:
        super().__init__(message)
        self.passing, self.for_all, self.after = passing, for_all, after


def ask_ahead(
    ask: Callable[[Asked, threading.Event], str], questions: Sequence[Asked], at_once: int, on_answer: OnAnswer
) -> dict[int, str]:
    """Ask all questions, in threads.

    Where `on_answer` fails or the process is stopped, nothing more is asked; of the answers that are under way then,
    `on_answer` is told as they come, unless it failed because they cannot be kept (OutputError).

    Args:
        ask: gives the answer to a question, or raises RefusedError. It is not to wait once the event is set.
        questions: what is asked.
        at_once: questions that are asked at the same time.
        on_answer: told of every answer, on the caller's thread.

    Returns:
        Why questions have no answer, by their number. Where one was refused for all, or the first HOPELESS were, the
        rest is not asked.
    """
    problems: dict[int, str] = {}
    answered = False
    with ThreadPoolExecutor(at_once) as pool, _Asking(ask, questions, pool, on_answer) as asking:
        while asking.hand_in(AHEAD * at_once):
            for done in wait(asking.waiting, return_when=FIRST_COMPLETED).done:
                number = asking.waiting[done]
                try:
                    on_answer(number, done.result())
                    answered = True
                except RefusedError as error:
                    problems[number] = str(error)
                    if error.for_all or (len(problems) >= HOPELESS and not answered):
                        problems |= dict.fromkeys(asking.give_up(), "not asked, after the others were refused")
                del asking.waiting[done]
    return problems


class _Asking(Generic[Asked]):
    """The questions that are asked and those that are not yet. As a context manager it stops with its block."""

    def __init__(
        self,
        ask: Callable[[Asked, threading.Event], str],
        questions: Sequence[Asked],
        pool: ThreadPoolExecutor,
        on_answer: OnAnswer,
    ) -> None:
        self._ask, self._pool, self._on_answer = ask, pool, on_answer
        self._left, self._halt = deque(enumerate(questions)), threading.Event()
        self.waiting: dict[Future[str], int] = {}
        """The number of each question that is handed in and of whose answer nobody was told."""

    def hand_in(self, most: int) -> bool:
        """Hand in questions until so many wait. Returns whether any does."""
        while self._left and len(self.waiting) < most:
            number, question = self._left.popleft()
            self.waiting[self._pool.submit(self._ask, question, self._halt)] = number
        return bool(self.waiting)

    def give_up(self) -> list[int]:
        """Hand in nothing more, and take back what is not asked yet. Returns the numbers of these."""
        taken = [one for one in self.waiting if one.cancel()]
        numbers = [self.waiting.pop(one) for one in taken] + [number for number, _ in self._left]
        self._left.clear()
        return numbers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        self._halt.set()
        self.give_up()
        if not isinstance(error, OutputError):
            for done in as_completed(self.waiting):
                if done.exception() is None:
                    self._on_answer(self.waiting[done], done.result())
