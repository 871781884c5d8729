"""The command `doctor`: what this machine has, and what would make it faster."""

from __future__ import annotations

import click

from veneer.commands.options import examples
from veneer.strict_json import to_text


@click.command(epilog=examples("doctor", "doctor --measure --json"))
@click.option("--measure", is_flag=True, help="Measure how fast a few operations are, which takes some seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts and the advice as JSON.")
def doctor(measure: bool, as_json: bool) -> None:
    """Say what this machine has, and what would make it faster.

    It says which path of the program is used here, and why.
    """
    from dataclasses import asdict

    from veneer import diagnosis

    facts = diagnosis.doctor(measure=measure)
    if as_json:
        click.echo(to_text({**asdict(facts), "advice": diagnosis.advice(facts)}, indent=2))
    else:
        click.echo(diagnosis.report(facts))
