"""SIGINT, SIGTERM, SIGHUP and SIGUSR1 end the command line in good order, each with an exit code of its own: 128 + its
number.

The first signal raises `Stopped` where the program stands, so that unfinished files are deleted on the way out. While a
module is imported it waits for the end of the import. Where Python drops what is raised (in `__del__`, or in what is
called when a weak reference dies), it is raised again a moment later. Where steps are made (`deferred`) it is only
noted: the micro-batch under way ends, and a checkpoint is written. A SIGINT after that ends the process at once. A
further SIGTERM, SIGHUP or SIGUSR1 changes nothing, because supervisors and terminals send them twice. SIGUSR1 is what
SLURM is asked to send some time before it ends a job.

From the first signal on nothing that is printed holds the end up: a pipe or a terminal that takes nothing (a pager, a
stopped reader, Ctrl-S) blocks whoever writes, so that its rest goes to the null device.

Only the command line has these handlers. A program that imports veneer keeps its own.
"""

from __future__ import annotations

import _thread
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

SIGNALS = (
    signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP, signal.SIGUSR1) if sys.platform != "win32" else ()),
)  # fmt: skip
GRACE = 8.0
"""Seconds that the way out may take after a signal; then the process ends where it stands."""
PATIENCE = 0.5
"""Seconds that a standard stream may take nothing after a signal."""
RETRY = 0.02
"""Seconds after which a signal is tried again that came during an import, or whose `Stopped` Python dropped."""
NOTICE = "stopping after this micro-batch; Ctrl-C now ends at once (the last checkpoint stays)"


class Stopped(BaseException):
    """A signal asked the process to end. No `except Exception` on the way out holds it up."""


class SignalHandler:
    """The handler of the command line."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        """The first signal that came."""
        self.then: Callable[[], None] | None = None
        """What the first signal does where it is only noted; None raises `Stopped`."""
        self.notice = NOTICE
        """What is said where it is only noted."""
        self.speaks = True
        """Whether this process says that it was signalled."""
        self.raised = False
        """Whether `Stopped` was raised."""
        self.again = False
        """Whether the next signal is the first one once more, because it could not stop anything where it came."""
        self.outer_hook = sys.unraisablehook
        """What told of dropped exceptions before."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """See `signal.signal`."""
        if self.again:
            self.again = False
            if not self.raised:
                self._stop_outside_imports(number, frame)
            return
        if self.received is not None:
            if number == signal.SIGINT:
                _leave(128 + number)
            return
        self.received = signal.Signals(number)
        _drop_what_nobody_reads()
        if self.then is None:
            _beside(_leave_after, GRACE, self.received)
            self._stop_outside_imports(number, frame)
            return
        if self.speaks:
            _say(f"{self.received.name}: {self.notice}")
        self.then()

    def stop(self) -> NoReturn:
        """Raise `Stopped`."""
        self.raised = True
        raise Stopped

    def dropped(self, found: sys.UnraisableHookArgs) -> None:
        """See `sys.unraisablehook`: Python dropped an exception. A `Stopped` is raised again, others go on."""
        if self.received is None or found.exc_type is not Stopped:
            self.outer_hook(found)
            return
        self.raised = False
        self._try_again(self.received)

    def _stop_outside_imports(self, number: int, frame: FrameType | None) -> None:
        """Stop, or come again when no import is under way.

        A library may swallow what is raised while it is imported, and fail later for what it lacks. Libraries whose C++
        calls Python meanwhile (nanobind) end the process by SIGABRT.
        """
        if not _importing(frame):
            self.stop()
        self._try_again(number)

    def _try_again(self, number: int) -> None:
        _thread.start_new_thread(self._come_again, (number, _thread.get_ident()))

    def _come_again(self, number: int, thread: int) -> None:
        time.sleep(RETRY)
        self.again = True
        if sys.platform == "win32":
            _thread.interrupt_main(number)
        else:  # A signal of the system also ends a wait of the thread.
            signal.pthread_kill(thread, number)


def end_by_signals(program: Callable[[], None]) -> None:
    """Run a program so that signals end it, as this module says.

    A signal that is ignored already (`nohup`, a job in the background) stays ignored.
    """
    handler = SignalHandler()
    try:
        try:
            sys.unraisablehook = handler.dropped
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, handler)
            program()
        finally:
            # What is done is done: on the way out there is nothing left to stop.
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            sys.unraisablehook = handler.outer_hook
    except BaseException as error:
        # A library that calls Python from C may swallow `Stopped`, and fail later for what it lacks since then.
        stopped = isinstance(error, Stopped) or (
            handler.raised and not (isinstance(error, SystemExit) and not error.code)
        )
        if handler.received is None or not stopped:
            raise
        if handler.speaks:
            _say(
                f"error: stopped by {handler.received.name}. What was complete stays, and nothing half done does. "
                "The same command does it again; a run that has a checkpoint goes on with --resume."
            )
        # Libraries may stand in the middle of their work: Python's own way out could fail on them.
        leave(128 + handler.received)


@contextmanager
def deferred(then: Callable[[], None] = lambda: None, notice: str = NOTICE) -> Iterator[Callable[[], None]]:
    """Within the block the first signal is only noted; `stop_signalled` says so. When the block ends well in spite of
    it, the signal takes effect, unless the function that is yielded was called: the block has then stopped for the
    signal, and whoever called it says so.

    Args:
        then: called when the signal comes, from within its handler.
        notice: what is said then.
    """
    heeded = False

    def heed() -> None:
        nonlocal heeded
        heeded = True

    handler = _installed()
    if handler is None:
        yield heed
        return
    outer, said = handler.then, handler.notice
    if handler.received is not None and outer is None:
        handler.stop()
    handler.then, handler.notice = then, notice
    try:
        yield heed
    finally:
        handler.then, handler.notice = outer, said
    if handler.received is not None and outer is None and not heeded:
        handler.stop()


def stop_signalled() -> bool:
    """Whether a signal has asked the command line to end."""
    handler = _installed()
    return handler is not None and handler.received is not None


def signal_exit_code() -> int | None:
    """The exit code of the signal that came; None where none did."""
    handler = _installed()
    return None if handler is None or handler.received is None else 128 + handler.received


def leave_speaking_to_another() -> None:
    """Say nothing of signals from here on: another process, which gets them too, does so."""
    handler = _installed()
    if handler is not None:
        handler.speaks = False


def _importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported where the program stands."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def leave(code: int) -> NoReturn:
    """End the process with what it has printed, and without Python's own way out."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:  # it was closed from the start
            continue
        with suppress(OSError, ValueError):
            stream.flush()
    _leave(code)


def take_everything(number: int) -> None:
    """Let the null device take what is written to a descriptor from here on, by a write that is retried too."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)


def _installed() -> SignalHandler | None:
    found = (signal.getsignal(number) for number in SIGNALS)
    return next((handler for handler in found if isinstance(handler, SignalHandler)), None)


def _say(message: str) -> None:
    """Print a line past Python's buffers, which may be in use where the signal came. It begins on a new line, below
    whatever stands on the screen; a terminal that has gone (SIGHUP) does not matter."""
    _write(f"\n{message}\n".encode())


def _write(data: bytes) -> None:
    """Write to standard error, and wait no longer than `PATIENCE` for whoever reads it."""
    written = _thread.allocate_lock()
    written.acquire()
    _beside(_write_on_thread, data, written)
    written.acquire(timeout=PATIENCE)


def _write_on_thread(data: bytes, written: _thread.LockType) -> None:
    with suppress(OSError):
        os.write(2, data)
    written.release()


def _drop_what_nobody_reads() -> None:
    """Look after the standard streams on a thread. To be called from a handler, on the main thread."""
    if sys.platform == "win32":  # there `select` knows sockets alone
        return
    # Python takes a write up again that a signal has interrupted, by the number of its descriptor.
    signal.signal(signal.SIGURG, lambda number, frame: None)
    _beside(_keep_streams_taking)


def _keep_streams_taking() -> NoReturn:
    while True:
        for number in (1, 2):
            if not _takes(number):
                take_everything(number)
                _interrupt_writes()
        time.sleep(PATIENCE)


def _takes(number: int) -> bool:
    """Whether a descriptor can be written within `PATIENCE`. One that is closed holds nobody up."""
    try:
        return bool(select.select([], [number], [], PATIENCE)[1])
    except OSError:
        return True


def _interrupt_writes() -> None:
    """Interrupt what the threads of this process wait for: one that draws bars holds locks that others need."""
    if sys.platform != "win32":
        for thread in sys._current_frames():
            with suppress(OSError):  # it may have ended meanwhile
                signal.pthread_kill(thread, signal.SIGURG)


def _beside(work: Callable[..., object], *given: object) -> None:
    """Run a function on a thread. A system that gives no more threads goes without it: the way out has to be free."""
    # Not `threading`, whose locks the thread may hold that a signal has interrupted.
    with suppress(RuntimeError):
        _thread.start_new_thread(work, given)


def _leave_after(seconds: float, received: signal.Signals) -> None:
    time.sleep(seconds)
    _say(
        f"error: stopped by {received.name}. Something went on for {seconds:g} s more, and the process ends within "
        "it. The same command does it again; a run that has a checkpoint goes on with --resume."
    )
    _leave(128 + received)


def _leave(code: int) -> NoReturn:
    if os.isatty(2):
        _write(b"\x1b[?25h")  # a bar hides the cursor
    os._exit(code)
