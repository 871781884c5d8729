"""The command `runs`: the runs in a folder, one run, or two side by side."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.commands.options import examples
from veneer.commands.parameter_types import PATH

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


class _FolderOrCommand(click.Group):
    """A group whose first word may be a folder, whose runs are then listed. A folder named `show` is given as
    `./show`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See `click.Group.resolve_command`."""
        if args[0] not in self.commands:
            return "list", self.commands["list"], args
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `click.Group.parse_args`: options may come before the folder."""
        named = next((word for word in args if not word.startswith("-")), None)
        if named is not None and named not in self.commands and not set(args) & set(ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_FolderOrCommand, epilog=examples("runs FOLDER", "runs show RUN", "runs compare RUN OTHER"))
def runs() -> None:
    """List the runs in a folder, show one, or compare two.

    Everything is read from the folders of the runs, even while they are running. A run is running, finished, stopped
    (it was asked to), failed, or killed.
    """


class _OneFolder(click.Command):
    """The command that lists runs, which is meant if only a folder is given. Several folders are refused, with
    advice."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `click.Command.parse_args`."""
        words = [word for word in args if not word.startswith("-")]
        if len(words) > 1:
            raise click.UsageError(
                f"{len(words)} folders are given, but only the runs of one can be listed; compare two runs with "
                "`veneer runs compare RUN OTHER`, or show one with its curves with `veneer runs show RUN`",
                ctx,
            )
        return super().parse_args(ctx, args)


@runs.command("list", cls=_OneFolder)
@click.argument("folder", type=PATH)
@json_option
def list_runs(folder: Path, as_json: bool) -> None:
    """List the runs in FOLDER and below it, the newest first.

    Use `veneer runs show` for one run with its curves, and `veneer runs compare` for two.
    """
    from veneer.screens.runs import show_runs

    show_runs(folder, as_json=as_json)


@runs.command("show")
@click.argument("run", type=PATH)
@json_option
def show(run: Path, as_json: bool) -> None:
    """Show one run: its state, curves, settings and log."""
    from veneer.screens.runs import show_run

    show_run(run, as_json=as_json)


@runs.command("compare")
@click.argument("run", type=PATH)
@click.argument("other", type=PATH)
@json_option
def compare(run: Path, other: Path, as_json: bool) -> None:
    """Show two runs side by side, and settings that differ."""
    from veneer.screens.runs import show_comparison

    show_comparison(run, other, as_json=as_json)
