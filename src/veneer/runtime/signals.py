"""SIGINT, SIGTERM, SIGHUP and SIGUSR1 end the command line cleanly, each with its own exit code: 128 + its number.

The first signal raises `Stopped` at the current point of the program, so that unfinished files are deleted on the way
out. While a module is imported, it is raised after the import. If Python drops the exception (in `__del__`, or in the
callback of a weak reference), it is raised again a moment later. During training steps (`deferred`) the signal is only
noted: the current micro-batch ends, and a checkpoint is written. A SIGINT after that ends the process at once. A
further SIGTERM, SIGHUP or SIGUSR1 changes nothing, because supervisors and terminals send them twice. SLURM can send
SIGUSR1 some time before it ends a job.

After the first signal, output does not delay the end: a pipe or a terminal that accepts nothing (a pager, a stopped
reader, Ctrl-S) would block the writer, so that the rest of its output goes to the null device.

Only the command line has these handlers. A program that imports veneer keeps its own. If that is Python's, a run
notes a Ctrl-C of the program in the same way (`interrupts_noted`), so that a script or a notebook loses no steps.
"""

from __future__ import annotations

import _thread
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from veneer.errors import Interrupted
from veneer.runtime.descriptors import take_everything

SIGNALS = (
    signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP, signal.SIGUSR1) if sys.platform != "win32" else ()),
)  # fmt: skip
GRACE = 8.0
"""Seconds that the exit may take after a signal; then the process ends at once."""
PATIENCE = 0.5
"""Seconds that a standard stream may block after a signal."""
RETRY = 0.02
"""Seconds until a signal is tried again that came during an import, or whose `Stopped` Python dropped."""
NOTICE = "stopping after this micro-batch; press Ctrl-C again to stop at once (the last checkpoint is kept)"


class Stopped(BaseException):
    """A signal asked the process to end. No `except Exception` on the way out catches it."""


class SignalHandler:
    """The handler of the command line."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        """The first signal that came."""
        self.then: Callable[[], None] | None = None
        """What the first signal calls if it is only noted; None raises `Stopped`."""
        self.notice = NOTICE
        """The message if the signal is only noted."""
        self.speaks = True
        """Whether this process prints that it was signalled."""
        self.raised = False
        """Whether `Stopped` was raised."""
        self.again = False
        """Whether the next signal is a repetition of the first one, which could not stop anything when it came."""
        self.outer_hook = sys.unraisablehook
        """The earlier hook for dropped exceptions."""

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
        """See `sys.unraisablehook`: Python dropped an exception. A `Stopped` is raised again, others are passed on."""
        if self.received is None or found.exc_type is not Stopped:
            self.outer_hook(found)
            return
        self.raised = False
        self._try_again(self.received)

    def _stop_outside_imports(self, number: int, frame: FrameType | None) -> None:
        """Stop, or try again later if an import is under way.

        A library may swallow an exception during its import, and fail later because something is missing. Libraries
        whose C++ calls Python during the import (nanobind) end the process by SIGABRT.
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


class InterruptHandler:
    """The handler of Ctrl-C in `interrupts_noted`: the first one in a block of `deferred` is noted, any other raises
    KeyboardInterrupt. The attributes are those of `SignalHandler`."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.then: Callable[[], None] | None = None
        self.notice = NOTICE

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """See `signal.signal`."""
        if self.received is not None or self.then is None:
            self.stop()
        self.received = signal.Signals(number)
        _say(f"{self.received.name}: {self.notice}")
        self.then()

    def stop(self) -> NoReturn:
        """Raise KeyboardInterrupt."""
        raise KeyboardInterrupt


@contextmanager
def interrupts_noted() -> Iterator[None]:
    """Within the block, `deferred` also notes the Ctrl-C of a program that is not the command line, such as a notebook.

    This changes nothing on another thread than the main one, or if the program has a handler of its own.

    Raises:
        KeyboardInterrupt: Ctrl-C has ended the block; its message is that of the error by which the block ended.
    """
    handler = InterruptHandler()
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    except Interrupted as error:
        if handler.received is None:
            raise
        raise KeyboardInterrupt(str(error)) from error
    finally:
        if signal.getsignal(signal.SIGINT) is handler:
            signal.signal(signal.SIGINT, signal.default_int_handler)


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
            # The program has ended: on the way out there is nothing left to stop.
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            sys.unraisablehook = handler.outer_hook
    except BaseException as error:
        # A library that calls Python from C may swallow `Stopped`, and fail later because something is missing.
        stopped = isinstance(error, Stopped) or (
            handler.raised and not (isinstance(error, SystemExit) and not error.code)
        )
        if handler.received is None or not stopped:
            raise
        if handler.speaks:
            _say(
                f"error: stopped by {handler.received.name}. Complete results are kept, and nothing unfinished is. "
                "The same command starts again; a run that has a checkpoint continues with --resume."
            )
        # Libraries may be in the middle of their work: Python's own exit could fail on them.
        leave(128 + handler.received)


@contextmanager
def deferred(then: Callable[[], None] = lambda: None, notice: str = NOTICE) -> Iterator[Callable[[], None]]:
    """Within the block the first signal is only noted; `stop_signalled` is then true. If the block ends normally, the
    signal takes effect afterwards, unless the block called the yielded function: the block has then stopped because of
    the signal, and its caller reports that.

    Args:
        then: a function that the signal handler calls when the signal comes.
        notice: the message that is printed then.
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
    """Whether a signal has asked the command line to end, or Ctrl-C a run of another program (`interrupts_noted`)."""
    handler = _installed()
    return handler is not None and handler.received is not None


def signal_exit_code() -> int | None:
    """The exit code of the signal that came; None where none did."""
    handler = _installed()
    return None if handler is None or handler.received is None else 128 + handler.received


def leave_speaking_to_another() -> None:
    """Print nothing about signals from now on: another process, which gets them too, does so."""
    handler = _installed()
    if isinstance(handler, SignalHandler):
        handler.speaks = False


def _importing(frame: FrameType | None) -> bool:
    """Whether the program is importing a module at this point."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def leave(code: int) -> NoReturn:
    """End the process after flushing its output, without Python's own exit."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:  # it was closed from the start
            continue
        with suppress(OSError, ValueError):
            stream.flush()
    _leave(code)


def _installed() -> SignalHandler | InterruptHandler | None:
    found = (signal.getsignal(number) for number in SIGNALS)
    return next((handler for handler in found if isinstance(handler, SignalHandler | InterruptHandler)), None)


def _say(message: str) -> None:
    """Print a line past Python's buffers, which may have been in use when the signal came. It begins on a new line,
    below the current content of the screen. A closed terminal (SIGHUP) is ignored."""
    _write(f"\n{message}\n".encode())


def _write(data: bytes) -> None:
    """Write to standard error, and wait no longer than `PATIENCE` for its reader."""
    written = _thread.allocate_lock()
    written.acquire()
    _beside(_write_on_thread, data, written)
    written.acquire(timeout=PATIENCE)


def _write_on_thread(data: bytes, written: _thread.LockType) -> None:
    with suppress(OSError):
        os.write(2, data)
    written.release()


def _drop_what_nobody_reads() -> None:
    """Watch the standard streams on a thread. Must be called from a handler, on the main thread."""
    if sys.platform == "win32":  # there `select` supports only sockets
        return
    # Python retries a write that a signal has interrupted, by the number of its descriptor.
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
    """Whether a descriptor can be written within `PATIENCE`. A closed one counts as writable, since it does not
    block."""
    try:
        return bool(select.select([], [number], [], PATIENCE)[1])
    except OSError:
        return True


def _interrupt_writes() -> None:
    """Interrupt the waits of this process's threads: a thread that draws progress bars holds locks that others need."""
    if sys.platform != "win32":
        for thread in sys._current_frames():
            with suppress(OSError):  # it may have ended meanwhile
                signal.pthread_kill(thread, signal.SIGURG)


def _beside(work: Callable[..., object], *given: object) -> None:
    """Run a function on a thread, or not at all if the system gives no more threads: this must not block the exit."""
    # Not `threading`: the thread that the signal has interrupted may hold its locks.
    with suppress(RuntimeError):
        _thread.start_new_thread(work, given)


def _leave_after(seconds: float, received: signal.Signals) -> None:
    time.sleep(seconds)
    _say(
        f"error: stopped by {received.name}. Something did not stop within {seconds:g} s, and the process ends in the "
        "middle of it. The same command starts again; a run that has a checkpoint continues with --resume."
    )
    _leave(128 + received)


def _leave(code: int) -> NoReturn:
    if os.isatty(2):
        _write(b"\x1b[?25h")  # a bar hides the cursor
    os._exit(code)
