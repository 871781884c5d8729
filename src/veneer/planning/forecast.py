"""A forecast of what a run needs: an exact plan if the shapes determine everything, otherwise an estimate, with one
interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from veneer.adapters.spec import LoraSpec
from veneer.backends.base import Description
from veneer.config import RunConfig
from veneer.enums import Method, ObjectiveName, Sharding
from veneer.formulas import ReferencePolicy
from veneer.model.hf_skeleton import HfSpec
from veneer.model.shape import DecoderSpec
from veneer.planning.batch_shape import StepSizes
from veneer.planning.choose import limit_of
from veneer.planning.estimate import Estimate, estimate, hf_linears
from veneer.planning.lanes import Spread
from veneer.planning.machine import Machine
from veneer.planning.memory import teacher_bytes
from veneer.planning.plan import Plan, make_plan
from veneer.planning.setup import Setup, Teaching, decoder_linears
from veneer.planning.trained import LinearShape

Forecast = Plan | Estimate
"""Both types have `lines()`, `to_json()`, `refusal`, and the choice: `micro_batch_tokens` and `recompute`."""


def linears_under(
    description: Description, lora: LoraSpec, targets: Sequence[str]
) -> Sequence[Mapping[str, LinearShape]]:
    """The linear layers of a model, each with the rank of the update on it.

    Raises:
        AdapterError: the start of `lora` cannot have a layer's rank.
    """
    if isinstance(description.spec, HfSpec):
        return hf_linears(description.spec, lora, targets)
    return decoder_linears(description.spec, lora, targets)


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeseenRun:
    """The inputs of a forecast, except the steps: everything that decides what a run needs."""

    config: RunConfig
    description: Description
    """The model, with rows for new tokens."""
    machine: Machine
    """The machine that computes the run."""
    lora: LoraSpec
    """The adapter. It has no meaning if all weights are trained."""
    targets: tuple[str, ...] | None
    """Paths that get an update; None if all weights are trained."""
    teaching: Teaching | None = None
    """The teacher of a distillation."""
    reward_models: tuple[Setup, ...] = ()
    """Reward models that judge sampled answers; none if transformers computes the model."""

    @property
    def stored(self) -> bool:
        """Whether the model's files are quantised already."""
        return self.description.stored is not None


def make_forecast(run: ForeseenRun, steps: StepSizes) -> Forecast:
    """Choose a micro-batch and recomputation, and forecast the result.

    Raises:
        AdapterError: the adapter names something that the model does not have, or trains something in two ways.
        ConfigError: `quant` skips layers that do not exist.
    """
    config, machine = run.config, run.machine
    limit = limit_of(config.compute, machine.memory, machine.processes, machine.free)
    spec = run.description.spec
    if isinstance(spec, HfSpec):
        return estimate(
            spec,
            run.lora,
            run.targets or (),
            config.quant if run.stored or config.method is Method.QLORA else None,
            config.compute,
            steps,
            limit,
            dtype=machine.dtype,
            device=machine.device,
            beside=0 if run.teaching is None else teacher_bytes(run.teaching),
            start=machine.start(),
        )
    return make_plan(
        _setup(run, spec),
        config.compute,
        steps,
        limit,
        rate=machine.rate,
        start=machine.start(),
    )


def _setup(run: ForeseenRun, spec: DecoderSpec) -> Setup:
    config, machine = run.config, run.machine
    return Setup(
        spec=spec,
        method=config.method,
        dtype=machine.dtype,
        device=machine.device,
        threads=machine.threads,
        lora=run.lora,
        targets=run.targets,
        quant=config.quant,
        stored=run.stored,
        blocks=run.description.blocks,
        products=config.compute.products,
        optimizer=config.train.optimizer,
        objective=config.objective,
        teaching=run.teaching,
        reward_models=run.reward_models,
        spread=Spread(
            lanes=1 if config.train.lanes == "auto" else config.train.lanes,
            processes=machine.world,
            sharded=config.compute.sharding is Sharding.FULL,
        ),
        reference_copied=config.objective is ObjectiveName.GRPO
        and config.grpo.beta > 0
        and config.grpo.reference is ReferencePolicy.START,
        file_bytes=run.description.file_bytes,
    )
