"""The option `--devices`: a command runs itself in several processes, or refuses them."""

from __future__ import annotations

import sys

import click

from veneer.errors import ConfigError
from veneer.processes.ranks import Ranks, launched


def in_processes(devices: int | None, timeout: float = 600.0, *, on: str | None = None) -> Ranks:
    """The ranks of this process. If several processes are asked for and this is not one of them, it runs the command in
    them and exits with their code.

    Args:
        devices: the number of processes; None leaves it to the launcher.
        timeout: the seconds after which the others give up a process that does not answer.
        on: the address of a cluster that computes instead.

    Raises:
        ConfigError: the launcher has started another number of processes, or a cluster is named as well.
    """
    ranks = launched()
    if on is not None and (devices is not None or ranks.many):
        raise ConfigError(
            "--on computes on the nodes of a cluster, --devices or a launcher in processes on this machine; give "
            "only one of them"
        )
    if devices is not None and devices > 1 and not ranks.many:
        from veneer.processes.launch import launch, this_command

        sys.exit(launch(this_command(), devices, timeout, lambda said: click.echo(f"error: {said}", err=True)))
    if devices is not None and devices != ranks.world:
        raise ConfigError(
            f"--devices {devices} was given, but the launcher started {ranks.world} processes; leave --devices out "
            "under torchrun"
        )
    return ranks


def refuse_processes(devices: int | None, on: str | None = None) -> None:
    """Refuse several processes, or a cluster, for one question.

    Raises:
        ConfigError: several processes or a cluster are asked for, or several processes were started.
    """
    if (devices or 1) > 1 or on is not None or launched().many:
        raise ConfigError(
            "several processes or a cluster can share only the questions of --input, without --output; one process "
            "answers a single question and writes --output"
        )
