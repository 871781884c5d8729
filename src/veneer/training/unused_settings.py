"""Settings that have no effect in a run, because of others. They are no contradiction: a run may be repeated with
another method or optimiser, and has the rest of its settings from before."""

from __future__ import annotations

from veneer.config import RunConfig
from veneer.config.section import Section
from veneer.enums import Method, OptimizerName, Schedule, TrackerName
from veneer.training.optimizers.choose import auto_beta2


def unused_settings(config: RunConfig) -> list[str]:
    """A sentence about each group of settings that differ from their defaults and have no effect."""
    method, train = config.method, config.train
    optimizer = train.optimizer
    found: list[tuple[str, list[str]]] = []
    if method is not Method.QLORA:
        found.append((f"only method qlora quantises the base, and method is {method.value}", _given(config.quant)))
    if method is Method.FULL:
        found.append(("method full trains no adapter", _given(config.lora)))
    if not set(config.track) - {TrackerName.TENSORBOARD}:
        found.append(("track names none of wandb, mlflow and trackio", _given(config.tracking)))
    if train.schedule is Schedule.CONSTANT:
        found.append(("train.schedule constant falls towards no other rate", _given(train, "min_rate")))
    betas = _given(train, "beta1") if optimizer is OptimizerName.ADAFACTOR else []
    if optimizer in (OptimizerName.ADAFACTOR, OptimizerName.SGD) and train.beta2 != auto_beta2(optimizer):
        betas += _given(train, "beta2")
    found.append((f"train.optimizer {optimizer.value} has no such decay rate", betas))
    return [f"{' and '.join(keys)} {'have' if keys[1:] else 'has'} no effect: {why}" for why, keys in found if keys]


def _given(section: Section, *names: str) -> list[str]:
    """The keys of a section whose values are not the defaults; all of its keys are looked at if none is named."""
    default = type(section)()
    return [
        f"{section.place}.{name}"
        for name in names or type(section).model_fields
        if getattr(section, name) != getattr(default, name)
    ]
