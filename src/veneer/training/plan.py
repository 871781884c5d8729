"""`veneer.plan`: what a run would need, from its model's configuration alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from veneer.arguments import check_types
from veneer.backends.describe import describe_model
from veneer.config import RunConfig, check
from veneer.data.files.in_memory import RowSource
from veneer.data.rows import load_rows
from veneer.events import Result, Subscriber, broadcast
from veneer.given_rows import Settings, for_supposed_rows, with_rows
from veneer.io.checkpoint import read_model_config
from veneer.planning.estimate import Estimate
from veneer.planning.forecast import Forecast
from veneer.planning.machine import named_machine
from veneer.planning.plan import Plan
from veneer.training.prepare import prepare
from veneer.training.supposed_steps import SupposedRows


def plan(
    config: Settings,
    *,
    data: RowSource | None = None,
    device: str | None = None,
    rows: SupposedRows | None = None,
    subscribers: Sequence[Subscriber] = (),
) -> Plan | Estimate:
    """Say how much memory, time and disk a run would need, from its model's configuration alone.

    Args:
        config: the run, a `RunConfig` or a mapping of its sections.
        data: the training rows, instead of `config.data.file`, as in `train`. Rows in memory are not written.
        device: the device that would compute: as in `compute.device`, or the name of a GPU (`h100`, `a100`, `l4`).
        rows: assumptions about the rows; None reads those of `config.data`. With assumptions, a mapping may leave out
            the file of rows and `output`, which are not read.
        subscribers: receive every event: what was found and chosen, and the plan.

    Returns:
        A plan, or an estimate if transformers computes the model. Its `refusal` says why the run does not fit.

    Raises:
        VeneerError: something named in the settings does not exist, or cannot be used.

    >>> settings = {"model": model, "output": "run", "data": {"file": data}}
    >>> veneer.plan(settings).refusal is None
    True
    """
    check_types(plan, locals())
    if rows is not None:
        config = for_supposed_rows(config)
    emit = broadcast(subscribers)
    with TemporaryDirectory() as scratch:
        config = with_rows(config, data, None, emit, Path(scratch))
        return plan_run(config, emit, device=device, rows=rows)


def plan_run(
    config: RunConfig,
    emit: Subscriber,
    *,
    device: str | None = None,
    rows: SupposedRows | None = None,
) -> Forecast:
    """As `plan` with checked settings; `emit` receives the events."""
    check(config)
    description = describe_model(read_model_config(config.model, revision=config.revision), config.backend)
    name, option = (config.compute.device, "compute.device") if device is None else (device, "--device")
    machine = named_machine(name, config.compute, option)
    forecast = prepare(config, description, machine, load_rows if rows is None else rows, emit).forecast
    emit(Result(verb="plan", values=forecast.to_json()))
    return forecast
