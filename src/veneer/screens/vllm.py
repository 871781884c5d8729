"""What `veneer doctor --serve` shows: each adapter's fate on vLLM, and the command line that serves the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from shlex import quote

import click

from veneer.adapters.files.store import CONFIG_FILE
from veneer.adapters.files.vllm import ServerFinding, ServerVerdict, check_folder, max_rank
from veneer.text.strict_json import to_text

HELD = (ServerVerdict.SERVED, ServerVerdict.DEPENDS)
NAMED = 20
"""The number of adapters that are named on the command line; a folder may have a thousand."""


def show_findings(folder: Path, *, as_json: bool) -> int:
    """Print which adapters in a folder can be served. Returns the exit code: 1 if one is not served as it is.

    Raises:
        AdapterError: there are none.
    """
    findings = check_folder(folder)
    if as_json:
        rank = max_rank(findings)
        click.echo(to_text({"adapters": [asdict(one) for one in findings], "max_lora_rank": rank}, indent=2))
    else:
        click.echo(report(folder, findings))
    return 0 if all(one.verdict in HELD for one in findings) else 1


def report(folder: Path, findings: Sequence[ServerFinding]) -> str:
    """The findings, and how to serve the adapters that can be, formatted for people."""
    lines = []
    for one in findings:
        if one.verdict is not ServerVerdict.SERVED:
            lines += [f"{one.name}: {one.verdict.value}", *(f"  - {reason}" for reason in one.reasons)]
    held = [one for one in findings if one.verdict in HELD]
    lines += [f"{len(held):,} of {len(findings):,} adapters are served by vLLM and Ray Serve LLM as they are."]
    if held:
        lines += ["", vllm_command(folder, held)]
    return "\n".join(lines)


def _module(name: str, path: Path) -> str:
    """An adapter in the form of `--lora-modules`: NAME=PATH, or JSON if either contains a separating character."""
    parted = any(mark in f"{name}{path}" for mark in "=,")
    return to_text({"name": name, "path": str(path)}) if parted else f"{name}={path}"


def vllm_command(folder: Path, findings: Sequence[ServerFinding]) -> str:
    """The command line of vLLM for the adapters that it serves: those in a folder, or the folder itself."""
    alone = (folder / CONFIG_FILE).is_file()
    modules = [quote(_module(one.name, folder if alone else folder / one.name)) for one in findings[:NAMED]]
    more = [] if len(findings) <= NAMED else [f"…  # and {len(findings) - NAMED:,} more"]
    head = f"vllm serve MODEL --enable-lora --max-lora-rank {max_rank(findings)} --max-loras {min(len(findings), 8)}"
    return " \\\n    ".join([f"{head} --max-cpu-loras {len(findings)}", "--lora-modules", *modules, *more])
