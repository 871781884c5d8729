"""What `veneer plan` shows: memory, time and disk of a run as a table, or the memory of a server."""

from __future__ import annotations

import click
from rich.table import Table
from rich.text import Text

from veneer.adapters.spec import LoraSpec
from veneer.backends.describe import describe_model
from veneer.config import RunConfig
from veneer.enums import Method
from veneer.errors import ConfigError
from veneer.io.checkpoint import read_model_config
from veneer.model.hf_skeleton import HfSpec
from veneer.planning.choose import Limit, limit_of
from veneer.planning.machine import named_machine
from veneer.planning.plan import Plan, spoken
from veneer.planning.serving import ServingPlan, plan_serving
from veneer.planning.setup import Setup
from veneer.screens.console import new_table, output_console, say, show_table
from veneer.screens.subscribers import subscriber_of
from veneer.text.counting import count_of
from veneer.text.strict_json import to_text
from veneer.training.plan import plan_run
from veneer.training.supposed_steps import SupposedRows

COMPONENTS = {
    "runtime": "interpreter, torch and their libraries",
    "base": "the model's weights",
    "decoded": "quantised weights, kept decoded if there is room",
    "rounded": "the adapter in the compute dtype, if there is room",
    "hosted": "the embedding, moved to main memory for lack of room",
    "parked": "inputs of layers, in main memory until they are needed",
    "adapters": "",
    "gradients": "",
    "optimizer": "its state of the gradients",
    "activations": "kept for backward",
    "logits": "scores of a chunk of supervised tokens",
    "workspace": "transient tensors of the widest layer",
    "heap": "held by the allocator beyond the tensors",
}
"""The components of a plan's memory, with their descriptions."""


def plan_visibly(config: RunConfig, device: str | None, supposed: SupposedRows | None, *, as_json: bool) -> None:
    """Print a run's plan as a table. If transformers computes the model, the plan is an estimate.

    Raises:
        ConfigError: the run does not fit; the plan has been printed nevertheless.
    """
    with subscriber_of(as_json=as_json) as emit:
        forecast = plan_run(config, emit, device=device, rows=supposed)
    if not as_json:
        if isinstance(forecast, Plan):
            place = config.compute.device if device is None else device
            place = forecast.setup.device if place == "auto" else place
            show_table(
                output_console(), plan_table(f"{config.model}: {forecast.setup.method.value} on {place}", forecast)
            )
        else:
            for line in forecast.lines():
                say(output_console(), line)
    if forecast.refusal is not None:
        raise ConfigError(forecast.refusal)


def plan_server_visibly(
    config: RunConfig, *, context: int | None, sequences: int | None, adapters: int | None, as_json: bool
) -> None:
    """Print the memory that a server of a model needs, and what fits.

    Args:
        config: the model, how it is held, and the rank of the adapters.
        context: the tokens of a prompt and its answer together; None is the model's whole context.
        sequences: how many run at a time; None is as many as fit.
        adapters: how many are in memory; None is as many as fit.
        as_json: whether the plan is printed as JSON.

    Raises:
        ConfigError: the server does not fit, its adapters have no rank, or transformers computes the model.
    """
    if config.lora.rank == "auto":
        raise ConfigError("lora.rank auto is chosen for the rows of a run, and a server has none; give --rank a number")
    if config.method is Method.FULL:  # a server holds such a base as it does under lora, and the adapters in addition
        config = config.model_copy(update={"method": Method.LORA})
    description = describe_model(read_model_config(config.model, revision=config.revision), config.backend)
    spec = description.spec
    if isinstance(spec, HfSpec):
        raise ConfigError(
            f"{config.model}: transformers computes this model, and the memory of such a server cannot be planned"
        )
    machine = named_machine("cpu", config.compute)
    setup = Setup(
        spec=spec,
        method=config.method,
        dtype=machine.dtype,
        device=machine.device,
        threads=machine.threads,
        lora=LoraSpec.of(config.lora, tied=spec.tied_head),
        quant=description.stored or config.quant,
        stored=description.stored is not None,
        blocks=description.blocks,
        tables=description.tables,
        products=config.compute.products,
        objective=config.objective,
        file_bytes=description.file_bytes,
    )
    length = context or spec.max_positions
    plan = plan_serving(setup, limit_of(config.compute), context=length, sequences=sequences, adapters=adapters)
    if as_json:
        click.echo(to_text(plan.to_json()))
    else:
        show_table(output_console(), serving_table(config, plan))
    if plan.refusal is not None:
        raise ConfigError(plan.refusal)


def serving_table(config: RunConfig, plan: ServingPlan) -> Table:
    """Where a server's memory goes, and the command that starts such a server."""
    table = new_table(f"{config.model}: a server, {config.method.value}", "", "MB", "")
    rows = {
        "program": (plan.start, "interpreter, torch and the server"),
        "base": (plan.base, "the model's weights"),
        "workspace": (plan.workspace, "working memory of a step"),
        "decoded": (plan.decoded, "quantised weights, decoded for adapters of this kind"),
        "prompts": (plan.sequences * plan.prompt, "working memory of whole prompts under such adapters"),
        "heap": (plan.heap, "held by the allocator beyond the tensors"),
        "cache": (plan.cache_memory * 10**6, f"{plan.sequences:,} sequences of {plan.context:,} tokens"),
        "adapters": (plan.adapter_memory * 10**6, f"{plan.adapters:,} of rank {plan.rank} in memory"),
    }
    for name, (size, text) in rows.items():
        if size:
            table.add_row(name, f"{size / 1e6:,.0f}", text)
    table.add_section()
    table.add_row("peak", f"{plan.peak / 1e6:,.0f}", "")
    _add_limit(table, plan.limit)
    table.add_row("one more", f"{(plan.sequence + plan.prompt) / 1e6:,.1f}", "a sequence")
    table.add_row("", f"{plan.adapter / 1e6:,.1f}", "an adapter")
    table.add_section()
    options = f"--cache-memory {plan.cache_memory} --adapter-memory {plan.adapter_memory}"
    table.add_row("command", "", f"veneer serve --model … --method {config.method.value} {options}")
    return table


def plan_table(title: str, plan: Plan) -> Table:
    """Where the memory goes, the cut, the time and the disk."""
    memory, choice, cut = plan.choice.memory, plan.choice, plan.choice.batch
    table = new_table(title, "", "MB", "")
    for name, text in COMPONENTS.items():
        size = getattr(memory, name)
        if size:
            table.add_row(name.replace("_", " "), f"{size / 1e6:,.0f}", text)
    table.add_section()
    for phase, size in memory.phases.items():
        mark = "the peak" if size == memory.peak else ""
        table.add_row(phase, f"{size / 1e6:,.0f}", mark)
    _add_limit(table, plan.limit)
    table.add_section()
    kept = "layers computed again in backward" if choice.recompute else "activations kept"
    table.add_row("micro-batch", "", f"up to {choice.micro_batch_tokens:,} tokens ({cut.micro_batches:.3g} a step)")
    table.add_row("", "", f"{kept}; the largest has {count_of(cut.tokens, 'token')}, the longest row {cut.longest:,}")
    source = "measured on this machine" if plan.rate.measured else "an estimate from the card's data sheet"
    rate = f"{plan.rate.flops / 1e12:,.3g} TFLOP/s, {source}, of which a step reaches {100 * plan.share:.0f} %"
    table.add_row(
        "time",
        "",
        f"{spoken(plan.seconds)} a step, {spoken(plan.seconds * plan.steps)} for {count_of(plan.steps, 'step')}",
    )
    table.add_row("", "", rate)
    for name, size in (("result", plan.disk.result), ("a checkpoint", plan.disk.checkpoint)):
        table.add_row(f"disk: {name}", f"{size / 1e6:,.0f}", "")
    table.add_row("disk: merged model", f"{plan.disk.merged / 1e6:,.0f}", "")
    return table


def _add_limit(table: Table, limit: Limit) -> None:
    """Add the row of the memory that may be used."""
    table.add_row("limit", "unknown" if limit.known is None else f"{limit.bytes / 1e6:,.0f}", Text(limit.source))
