"""Ask many questions, some of them at the same time and few ahead: every answer costs money, so none is asked for that
would not be used."""

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
"""The number of questions that are handed in for every one that is asked at the same time."""
HOPELESS = 20
"""The number of refusals without any answer before them after which the rest is not asked."""
OnAnswer = Callable[[int, str], None]
"""Gets every answer as it comes: the index of the question, and the text."""


class RefusedError(Exception):
    """A question has no answer.

    Args:
        message: the reason.
        passing: whether the same question may get an answer later.
        for_all: whether all other questions would be refused too.
        after: the seconds after which the question may be asked again; 0 if they are not known.
    """

    def __init__(self, message: str, *, passing: bool = False, for_all: bool = False, after: float = 0.0) -> None:
        super().__init__(message)
        self.passing, self.for_all, self.after = passing, for_all, after


def ask_ahead(
    ask: Callable[[Asked, threading.Event], str], questions: Sequence[Asked], at_once: int, on_answer: OnAnswer
) -> dict[int, str]:
    """Ask all questions, in threads.

    If `on_answer` fails or the process is stopped, nothing more is asked. `on_answer` still gets the answers to the
    questions that are under way then, unless it failed because answers cannot be kept (OutputError).

    Args:
        ask: gives the answer to a question, or raises RefusedError. It must not wait once the event is set.
        questions: the questions.
        at_once: the number of questions that are asked at the same time.
        on_answer: gets every answer, on the caller's thread.

    Returns:
        The reason for each question without an answer, by its index. If one refusal was for all questions, or the first
        HOPELESS were refused, the rest is not asked.
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
    """The questions that are being asked and those that are not yet. As a context manager it stops with its block."""

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
        """The index of each question that is handed in and whose answer `on_answer` has not got."""

    def hand_in(self, most: int) -> bool:
        """Hand in questions until this many wait. Returns whether any does."""
        while self._left and len(self.waiting) < most:
            number, question = self._left.popleft()
            self.waiting[self._pool.submit(self._ask, question, self._halt)] = number
        return bool(self.waiting)

    def give_up(self) -> list[int]:
        """Hand in nothing more, and take back the questions that are not asked yet. Returns their indices."""
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
