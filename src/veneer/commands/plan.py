"""The command `plan`: the memory, time and disk that a run would need."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.commands.options import METHODS, config_option, examples, set_option
from veneer.commands.parameter_types import COUNT, MODEL, RANK, ROWS, Count
from veneer.commands.settings import run_config


@click.command(
    epilog=examples(
        "plan --model MODEL --data rows.jsonl --method lora",
        "plan --config run.yaml",
        "plan --model config.json --device h100\n--rows 10000 --tokens 300 --length 2048 --rank 16",
        "plan --serve --model config.json --length 2048 --adapters 100",
    )
)
@config_option
@click.option(
    "--model",
    type=MODEL,
    help="The model: a directory, a config.json, a GGUF file or a hub id. Weights are not read.",
)
@click.option(
    "--method",
    type=METHODS,
    help="What would be trained: an adapter (lora, qlora) or all weights (full). [default: qlora]",
)
@click.option(
    "--data", type=ROWS, help="The rows to train on. Without them, --rows, --tokens and --length describe assumed rows."
)
@click.option("--rows", type=COUNT, help="The number of rows, without --data. [default: 1000]")
@click.option("--tokens", type=Count(2), help="Tokens in an average row, without --data. [default: that of --length]")
@click.option("--length", type=Count(2), help="Tokens in the longest row. [default: that of --tokens, or else 512]")
@click.option("--rank", type=RANK, help="The rank of the adapter (lora.rank).")
@set_option
@click.option(
    "--device",
    help="Where it would run: auto, cpu, cuda, or the name of a card (h100, a100, l4, …). [default: auto]",
)
@click.option("--memory-limit-mb", type=COUNT, help="The memory that the run may use at its peak, in MB.")
@click.option(
    "--serve",
    is_flag=True,
    help="Show the plan of a server (veneer serve): how many adapters of --rank and sequences of --length fit.",
)
@click.option(
    "--sequences", type=COUNT, help="The sequences that run at a time, with --serve. [default: as many as fit]"
)
@click.option("--adapters", type=COUNT, help="The adapters in memory, with --serve. [default: as many as fit]")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(
    config_file: Path | None,
    model: str | None,
    method: str | None,
    data: str | None,
    rows: int | None,
    tokens: int | None,
    length: int | None,
    rank: int | None,
    assignments: tuple[str, ...],
    device: str | None,
    memory_limit_mb: int | None,
    serve: bool,
    sequences: int | None,
    adapters: int | None,
    as_json: bool,
) -> None:
    """Say what memory, time and disk a run would take.

    With --serve it says what a server holds. Weights are not read: a config.json is enough.
    """
    from veneer.config.values import flat, override, read_yaml
    from veneer.given_rows import NO_FILE
    from veneer.screens.plan import plan_server_visibly, plan_visibly
    from veneer.training.supposed_steps import SupposedRows

    if not serve and (sequences is not None or adapters is not None):
        raise click.UsageError("--sequences and --adapters need --serve")
    if serve and (data is not None or (rows, tokens) != (None, None) or device not in (None, "auto", "cpu")):
        raise click.UsageError("--serve plans a server on the CPU, without --data, --rows, --tokens or a --device")
    own = {} if config_file is None else read_yaml(config_file)
    if model is None and "model" not in own:
        raise click.MissingParameter(param_hint="'--model'", param_type="option")
    # Sources are rows too, but no option names them. A section `data` that is no mapping is left to the check of all.
    named = {"data", "data.file", "data.sources"} & flat(override(own, assignments)).keys()
    rows_given = data is not None or bool(named)
    if rows_given and (rows, tokens) != (None, None):
        raise click.UsageError("give --data, or --rows and --tokens, not both: the number of rows is read from a file")
    if tokens is not None and length is not None and tokens > length:
        raise click.UsageError(f"--tokens {tokens} of an average row cannot exceed --length {length} of the longest")
    flags = {
        "model": model,
        "method": method,
        "output": NO_FILE,
        "data.file": data if rows_given else NO_FILE,
        "data.max_length": length if rows_given else None,
        "lora.rank": rank,
        "compute.memory_limit_mb": memory_limit_mb,
    }
    config = run_config(flags, config_file, assignments, False)
    if serve:
        plan_server_visibly(config, context=length, sequences=sequences, adapters=adapters, as_json=as_json)
        return
    longest = length or tokens or 512
    supposed = SupposedRows(rows=rows or 1000, tokens=tokens or longest, longest=longest)
    plan_visibly(config, device, None if rows_given else supposed, as_json=as_json)
