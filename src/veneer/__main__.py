"""The entry point of `veneer` and `python -m veneer`: signals end the command line cleanly from its first import on."""

from veneer.runtime.signals import end_by_signals


def run() -> None:
    """Run the command line on the arguments of the process, and exit."""
    end_by_signals(_command_line)


def _command_line() -> None:
    from veneer.cli import run_main

    run_main()


if __name__ == "__main__":
    run()
