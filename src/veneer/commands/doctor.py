"""The command `doctor`: what this machine has and what would make it faster, or which adapters vLLM can serve."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from veneer.commands.options import examples
from veneer.commands.parameter_types import PATH
from veneer.text.strict_json import to_text


@click.command(epilog=examples("doctor", "doctor --measure --json", "doctor --serve adapters/"))
@click.option("--measure", is_flag=True, help="Measure the speed of a few operations. This takes some seconds.")
@click.option(
    "--serve",
    type=PATH,
    help="Check only whether vLLM and Ray Serve LLM can serve a folder of adapters (or one adapter). The exit code "
    "is 1 if they would refuse an adapter or compute it differently.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the facts and the advice, or the findings, as JSON.")
def doctor(measure: bool, serve: Path | None, as_json: bool) -> None:
    """Show what this machine has, and what would make it faster.

    The report says which code paths are used here, and why. With --serve it says which adapters vLLM can serve.
    """
    from dataclasses import asdict

    if serve is not None:
        if measure:
            raise click.UsageError("--measure is for this machine and --serve for adapters; give only one of them")
        from veneer.screens import vllm as screen

        sys.exit(screen.show_findings(serve, as_json=as_json))

    from veneer.diagnosis.facts import doctor as look
    from veneer.diagnosis.report import advice, report

    facts = look(measure=measure)
    if as_json:
        click.echo(to_text({**asdict(facts), "advice": advice(facts)}, indent=2))
    else:
        click.echo(report(facts))
