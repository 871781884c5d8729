"""The command line: options in, one call of the API, results out.

Nothing heavy is imported until a command runs, so that `--help` answers at once. Results go to standard output;
progress and messages to standard error. `EXIT_CODES` says what the exit codes mean.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import nullcontext, redirect_stdout
from mmap import mmap
from typing import Any, TextIO

import click

from veneer import __version__
from veneer.commands.chat import chat
from veneer.commands.combine import combine
from veneer.commands.compare import compare
from veneer.commands.data import data
from veneer.commands.doctor import doctor
from veneer.commands.evaluate import evaluate
from veneer.commands.export import export
from veneer.commands.generate import generate
from veneer.commands.options import examples
from veneer.commands.plan import plan
from veneer.commands.quantize import quantize
from veneer.commands.quickstart import quickstart
from veneer.commands.reproduce import reproduce
from veneer.commands.runs import runs
from veneer.commands.serve import serve
from veneer.commands.studio import studio
from veneer.commands.sweep import sweep
from veneer.commands.train import train
from veneer.commands.verify import verify
from veneer.errors import ConfigError, Diverged, Ended, Interrupted, OutOfMemory, OutputError, RankLost, VeneerError
from veneer.machine.heap import spare_address_space
from veneer.machine.out_of_memory import KINDS, is_out_of_memory, message_of, refuse_little_address_space
from veneer.processes.ranks import launched
from veneer.runtime.signals import leave, leave_speaking_to_another, signal_exit_code

EXIT_CODES = """\b
Exit codes:
  0    done
  1    a check failed: an export is a different model, a run is not
       reproduced, a run of a comparison failed, data has errors, a gate
       is not passed, answers of a server differ (serve --selfcheck),
       vLLM cannot serve an adapter as it is (doctor --serve)
  2    an error that you can correct; the message says how
  3    the loss was not finite, or three bad steps came in a row
       (train.skip_bad_steps); or a gate has too few rows to decide
  130  stopped by Ctrl-C (SIGINT); 143 by SIGTERM, 129 by SIGHUP,
       138 by SIGUSR1
  141  the program that read the output has ended (| head)

"""
UNREAD = 141
"""The exit code if the reader of our output has ended: that of SIGPIPE, which ends other programs in this case."""


RESERVE = 16 << 20
"""Bytes of address space that are reserved for the message that memory is full; their pages are never touched."""
LESS_MEMORY = (
    "A smaller model, --method qlora, fewer rows at a time (--limit) or shorter answers (--max-new-tokens) need less; "
    "`veneer plan` says what training needs."
)


SPREADING = {"train", "evaluate", "generate", "compare", "sweep"}
"""The commands that several processes can carry out together."""


class _Commands(click.Group):
    """Turns veneer's errors into one message and an exit code."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See `click.Group`. Refuses several processes of a launcher if each would do the whole command."""
        name, command, rest = super().resolve_command(ctx, args)
        if not set(ctx.help_option_names) & set(rest):
            _refuse_deleted_folder()
        ranks = launched()
        if not ranks.first:
            leave_speaking_to_another()
        if ranks.many and name not in SPREADING:
            raise ConfigError(
                f"`veneer {name}` was started {ranks.world} times by a launcher (WORLD_SIZE), and each process would "
                f"do all of it; start it once. These can be shared by several processes: {', '.join(sorted(SPREADING))}"
            )
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Characters that the encoding of standard output lacks are escaped, as on standard error.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return self._invoke(ctx)
        except KeyboardInterrupt:
            # Also if it comes while an error is being printed: click would end with code 1.
            click.echo("interrupted", err=True)
            sys.exit(Interrupted.exit_code)

    def _invoke(self, ctx: click.Context) -> Any:
        reserve: mmap | None = None
        lost = ended = False
        try:
            refuse_little_address_space()
            reserve = mmap(-1, RESERVE)
            spare_address_space()
            return super().invoke(ctx)
        except VeneerError as error:
            by_signal = signal_exit_code() if isinstance(error, Interrupted) else None
            message, code = _of_rank(error), error.exit_code if by_signal is None else by_signal
            lost = isinstance(error, RankLost) and launched().many
            ended = isinstance(error, Ended)
        except BrokenPipeError:
            # The reader of our output has ended (`| head`): nobody would read a message.
            sys.stderr.close()
            sys.exit(UNREAD)
        except KINDS as error:
            if not is_out_of_memory(error):
                raise
            if reserve is not None:
                reserve.close()
            doing = f"doing `veneer {ctx.invoked_subcommand}`"
            message, code = f"{message_of(doing, str(error))} {LESS_MEMORY}", OutOfMemory.exit_code
        # The error is gone, and with it everything that its frames held in memory: now there is room for the message.
        if message:
            _say(message, is_error=not ended)
        if lost or signal_exit_code() is not None:
            # A thread may wait in C++ for a network that is gone: Python's own exit takes seconds, or aborts. And on a
            # busy machine it takes longer than the sender of a signal waits.
            leave(code)
        sys.exit(code)


def _refuse_deleted_folder() -> None:
    # torch ends the process as it is imported there, with words of its libraries (oneMKL) that hide the reason.
    from veneer.io.places import working_folder

    if "torch" not in sys.modules and working_folder() is None:
        raise ConfigError(
            "the folder that you are in was deleted; go to one that is there (cd), perhaps of the same name"
        )


def _of_rank(error: VeneerError) -> str:
    """The message of an error, with the rank of this process; empty if rank 0 prints it for all."""
    try:
        ranks = launched()
    except ConfigError:
        return str(error)
    if ranks.first:
        return str(error)
    if isinstance(error, Diverged | Interrupted):
        return ""
    said = str(error)
    return said if said.startswith(ranks.name) else f"{ranks.name}: {said}"


def _say(message: str, *, is_error: bool = True) -> None:
    try:
        from veneer.screens.console import console, say, say_error

        if is_error:
            say_error(message)
        else:
            say(console(), message)
    except KINDS as error:
        if not is_out_of_memory(error):
            raise
        os.write(2, f"{'error: ' if is_error else ''}{message}\n".encode())


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES
    + examples("quickstart", "train --model MODEL --data rows.jsonl --output my-adapter", "train --help"),
)
@click.version_option(__version__, prog_name="veneer")
def main() -> None:
    """Fine-tune language models with LoRA and QLoRA, and prove that it worked."""


for command in (
    quickstart, data, train, plan, evaluate, compare, sweep, reproduce, export, verify, combine, quantize, generate,
    chat, serve, runs, studio, doctor,
):  # fmt: skip
    main.add_command(command)


def run_main() -> None:
    """Run the command line on the arguments of the process, and exit."""
    _fill_standard_streams()
    with nullcontext() if sys.stdout is not None else redirect_stdout(_no_output()):
        _run_main()


def _fill_standard_streams() -> None:
    """Open the null device instead of standard streams that were closed from the start (`2>&-`).

    Otherwise the next file or socket gets their number, and a message of a signal or a library is written into it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def _no_output() -> TextIO:
    """The replacement for a standard output that was closed from the start (`>&-`): printing fails as on a full disk,
    and not in silence."""
    return open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")


def _run_main() -> None:
    try:
        main()
    except SystemExit as ended:
        # rich and click handle a reader that has ended, and exit with 1, which means a failed check here.
        if isinstance(ended.__context__, BrokenPipeError):
            sys.exit(UNREAD)
        raise
    except OSError as error:
        if error.filename is not None:
            raise
        # Standard output: every other file that cannot be written is an OutputError.
        message = f"the output cannot be written: {error.strerror or error}"
    from veneer.screens.streams import drop_rest

    _say(message)
    drop_rest(sys.stdout)
    sys.exit(OutputError.exit_code)
