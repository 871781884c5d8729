"""The reward models among a run's rewards before any weight is read: whether they fit its base, and what they need."""

from __future__ import annotations

from pathlib import Path

from veneer.adapters.files.origin import BaseCheck
from veneer.adapters.files.store import read_reward_spec
from veneer.backends.base import Description
from veneer.config import RunConfig
from veneer.enums import ObjectiveName
from veneer.errors import AdapterError, ConfigError
from veneer.io.checkpoint import Checkpoint
from veneer.model.shape import DecoderSpec
from veneer.planning.machine import Machine
from veneer.planning.setup import Setup


def reward_folders(config: RunConfig) -> list[Path]:
    """The folders of the reward models that judge a run's answers."""
    return [Path(reward.adapter) for reward in config.rewards if reward.adapter is not None]


def reward_setups(config: RunConfig, description: Description, machine: Machine) -> tuple[Setup, ...]:
    """The reward models of a run, for its plan.

    Args:
        config: the run, with the backend that was chosen.
        description: the run's model.
        machine: the machine that computes the run.

    Raises:
        ConfigError: transformers computes the model, so that its weights cannot be shared.
        AdapterError: an adapter does not belong to a reward model, or is not for this model.
    """
    folders, spec = reward_folders(config), description.spec
    if not folders:
        return ()
    if not isinstance(spec, DecoderSpec):
        raise ConfigError(
            f"rewards: adapter {folders[0]} shares the base's weights, but transformers computes the base (backend "
            f"{config.backend.value}); give a model that veneer's own decoder computes, or score with a command"
        )
    return tuple(
        Setup(
            spec=spec,
            method=config.method,
            dtype=machine.dtype,
            device=machine.device,
            threads=machine.threads,
            lora=read_reward_spec(folder),
            quant=config.quant,
            stored=description.stored is not None,
            blocks=description.blocks,
            products=config.compute.products,
            objective=ObjectiveName.REWARD,
            file_bytes=description.file_bytes,
        )
        for folder in folders
    )


def check_reward_models_base(config: RunConfig, origin: Checkpoint) -> None:
    """Refuse reward models that were trained on another base than the run's.

    Raises:
        AdapterError: one was trained on another base; the files that differ are named.
    """
    checks = [BaseCheck(folder, config.model, origin.files()) for folder in reward_folders(config)]
    problems = [problem for problem in (check.problem() for check in checks) if problem is not None]
    if problems:
        lines = "\n".join(problems)
        raise AdapterError(
            f"{lines}\nGive reward models that were trained on the run's own base, or give their base by --model."
        )
