"""The identity of a run, which must match when it is resumed: every setting that changes its numbers, and the content
of its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from veneer.config import DataSection, RunConfig
from veneer.io.digests import sha256
from veneer.machine.hardware import processor
from veneer.rewards.build import reward_files
from veneer.text.strict_json import to_text
from veneer.training.from_adapter import adapter_digests
from veneer.training.teaching.teacher import teacher_digests


def identity_of(config: RunConfig, model_digest: str, data_digest: str, device: torch.device) -> dict[str, Any]:
    """The values that must be the same in a resumed run as in the run that it continues."""
    values = config.model_dump(mode="json")
    # Where results go and how many are kept changes no number of the run; model and data count by what is in them.
    ignored = {
        "model", "revision", "output", "track", "train.from_adapter", "train.other_base", "train.keep",
        "distillation.teacher", "distillation.teacher_adapter",
        "train.save_every", "train.publish", "train.samples_every", "train.sample_prompts", "data.file", "data.sources",
        "data.eval_file", "data.cache", "data.cache_dir", "compute.memory_limit_mb", "compute.rank_timeout",
    }  # fmt: skip
    weights = [source.weight for source in config.data.sources]
    flat = {key: value for key, value in _flatten(values) if key not in ignored}
    return {
        **flat,
        **{f"adapter {name}": digest for name, digest in adapter_digests(config).items()},
        **teacher_digests(config),
        **{f"file of {name}": sha256(file) for name, file in reward_files(config.rewards).items()},
        **({"weights of data.sources": weights} if weights else {}),
        "model digest": model_digest,
        "data digest": data_digest,
        "torch": torch.__version__,
        "processor": processor(device),
    }


def identity_of_defaults() -> dict[str, Any]:
    """The values that runs have implicitly if they began before a setting existed, by its key."""
    defaults = dict(_flatten(RunConfig(model="-", output="-", data=DataSection(file="-")).model_dump(mode="json")))
    return {**defaults, "train.lanes": 1}


def shared_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity that all processes of a run share: everything except the number of each one's GPU."""
    return {key: value for key, value in identity.items() if key != "compute.device"}


def _flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in values.items():
        flat += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return json.loads(to_text(flat))  # type: ignore[no-any-return]
