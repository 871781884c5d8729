"""What a run will take: an exact plan where the shapes say all of it, an estimate elsewhere, with one face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from veneer.adapters.spec import LoraSpec
from veneer.backends.base import Description
from veneer.config import RunConfig
from veneer.enums import Method, Sharding
from veneer.model.hf_skeleton import HfSpec
from veneer.planning.choose import limit_of
from veneer.planning.estimate import Estimate, estimate, hf_linears
from veneer.planning.lanes import Spread
from veneer.planning.machine import Machine
from veneer.planning.memory import teacher_bytes
from veneer.planning.plan import Plan, make_plan
from veneer.planning.setup import BatchShape, Setup, Teaching, decoder_linears
from veneer.planning.trained import LinearShape

Forecast = Plan | Estimate
"""Both have `lines()`, `to_json()`, `refusal`, and the choice: `micro_batch_tokens` and `recompute`."""


class StepSizes(Protocol):
    """How many steps a run has, and how large they are."""

    @property
    def total(self) -> int:
        """The number of steps in the whole run."""
        ...

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        ...

    def batch_shape(self, micro_batch_tokens: int) -> BatchShape:
        """What the steps are made of when a micro-batch has at most so many tokens."""
        ...


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


def make_forecast(
    config: RunConfig,
    description: Description,
    machine: Machine,
    steps: StepSizes,
    lora: LoraSpec,
    targets: tuple[str, ...] | None,
    teaching: Teaching | None = None,
    reward_models: tuple[Setup, ...] = (),
) -> Forecast:
    """Choose a micro-batch and recomputation, and say what comes of it.

    Args:
        config: the run.
        description: of its model, with rows for new tokens.
        machine: where it computes.
        steps: of the run.
        lora: the adapter; without effect where everything is trained.
        targets: paths that carry an update; None where everything is trained.
        teaching: the teacher of a distillation.
        reward_models: those that judge what is sampled; none where transformers computes the model.

    Raises:
        AdapterError: the adapter names what the model has not, or trains something two ways.
        ConfigError: `quant` skips layers that there are not.
    """
    limit = limit_of(config.compute, machine.memory, machine.processes, machine.free)
    stored = description.stored is not None
    if isinstance(description.spec, HfSpec):
        return estimate(
            description.spec,
            lora,
            targets or (),
            config.quant if stored or config.method is Method.QLORA else None,
            config.compute,
            steps.longest,
            steps.batch_shape,
            limit,
            dtype=machine.dtype,
            device=machine.device,
            beside=0 if teaching is None else teacher_bytes(teaching),
            start=machine.start,
        )
    setup = Setup.of(
        config,
        description.spec,
        machine.dtype,
        machine.device,
        machine.threads,
        stored=stored,
        blocks=description.blocks,
        files=description.dtype,
        lora=lora,
        targets=targets,
        spread=Spread(
            lanes=1 if config.train.lanes == "auto" else config.train.lanes,
            processes=machine.world,
            sharded=config.compute.sharding is Sharding.FULL,
        ),
        teaching=teaching,
        reward_models=reward_models,
    )
    longest, batch_for = steps.longest, steps.batch_shape
    return make_plan(
        setup, config.compute, longest, batch_for, limit, steps=steps.total, rate=machine.rate, start=machine.start
    )
