"""The command `doctor`: what this machine has, and what would make it faster."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--measure", is_flag=True, help="Time a few operations as well (some seconds).")
@click.option("--json", "as_json", is_flag=True, help="Print facts and advice as JSON.")
def doctor(measure: bool, as_json: bool) -> None:
    """Say what this machine has, which path is used and why, and what would make it faster."""
    from dataclasses import asdict

    from veneer.diagnosis import advice, gather, report

    facts = gather(measure=measure)
    click.echo(json.dumps({**asdict(facts), "advice": advice(facts)}, indent=2) if as_json else report(facts))
