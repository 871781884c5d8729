"""Reads the settings of a run from the body of a request in OpenAI's form, with veneer's own settings under one key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from veneer.config import GrpoSection
from veneer.config.values import flat, laid_over
from veneer.enums import E, Method, ObjectiveName, choice
from veneer.errors import ConfigError
from veneer.http_server.errors import ApiError
from veneer.run_records.record import default_settings
from veneer.studio.fields import optional_whole, refuse_unknown
from veneer.studio.graders import PARAM, Reward, rewards_of
from veneer.text.json_numbers import is_finite, is_whole

EXTENSION = "veneer"
"""The key, in the body of a request and in a job, of everything that OpenAI's API has no field for."""
EXTENSION_FIELDS = ("method", "objective", "settings", "priority")
OBJECTIVES = {"supervised": ObjectiveName.SFT, "dpo": ObjectiveName.DPO, "reinforcement": ObjectiveName.GRPO}
"""OpenAI's kinds of training (`method.type`) that a job can have. Other objectives are given under `EXTENSION`."""
HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier")
"""Hyperparameters of every kind of training."""
OWN_HYPERPARAMETERS = {
    ObjectiveName.DPO: ("beta",),
    ObjectiveName.GRPO: ("compute_multiplier", "eval_interval", "eval_samples", "reasoning_effort"),
}
"""Further hyperparameters of some objectives."""
PATHS = frozenset({"model", "revision", "output", "data.file", "data.eval_file", "data.sources", "data.cache_dir"})
"""Settings that a client may not give, since they name files or a model's place. A client names its uploads by their
ids, and models by their names."""
MODELS = frozenset({"distillation.teacher"})
"""Settings in which a client gives the name of a base."""
ADAPTERS = frozenset({"distillation.teacher_adapter", "train.from_adapter"})
"""Settings in which a client gives the name of an adapter that a run in the folder has made."""
MOST_REWARDS = 32
SUFFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Valid suffixes of jobs. The name of a job's model begins with its suffix."""
JOB_FIELDS = (
    "model", "training_file", "validation_file", "suffix", "seed", "metadata", "method", "hyperparameters",
    "integrations", EXTENSION,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRequest:
    """A job as a client asks for it, checked as far as possible without its files."""

    model: str
    """The name of the base."""
    training_file: str
    validation_file: str | None
    objective: ObjectiveName
    values: Mapping[str, Any]
    """The nested settings of the run, without files."""
    rate_multiplier: float | None
    """The factor for the learning rate that veneer chooses; None leaves the rate unchanged."""
    named: Mapping[str, str] = field(default_factory=dict)
    """The names of models and adapters, by the settings that they are given for."""
    rewards: Sequence[Reward] = ()
    """Rewards as a job names them (`veneer.studio.graders.Reward`)."""
    details: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 0


def job_request(body: Mapping[str, Any]) -> JobRequest:
    """Read the body of a request for a job.

    Raises:
        ApiError: 400, naming the field that is wrong.
    """
    extension = _extension(body)
    settings = _own_settings(extension)
    objective = _objective(body, extension, settings)
    hyper = _hyperparameters(body, objective)
    grader = _mapping(_mapping(body, "method"), "reinforcement").get("grader")
    names, rewards = _named_in(settings), _rewards(settings, body, grader)
    seed = optional_whole(body, "seed", 0, 2**31 - 1)
    pairs = [*_hyper_settings(hyper), *_integrations(body)]
    if objective is not ObjectiveName.SFT:
        pairs.append(("objective", objective.value))
    if extension.get("method") is not None:
        pairs.append(("method", _named(Method, extension["method"], "method").value))
    if seed is not None:
        pairs.append(("train.seed", seed))
    twice = sorted(key for key, value in pairs if settings.get(key, value) != value)
    if twice:
        message = f"{', '.join(twice)}: {EXTENSION}.settings and another field have different values; give only one"
        raise ApiError(400, message, param=EXTENSION)
    return JobRequest(
        model=_text(body, "model", 500, required=True) or "",
        training_file=_text(body, "training_file", 100, required=True) or "",
        validation_file=_text(body, "validation_file", 100),
        objective=objective,
        values=laid_over({}, [*settings.items(), *pairs]),
        rate_multiplier=_number(hyper, "learning_rate_multiplier"),
        named=names,
        rewards=rewards,
        details={
            "suffix": _suffix(body),
            "seed": seed,
            "metadata": _metadata(body),
            "hyperparameters": dict(hyper),
            **({} if grader is None else {"grader": grader}),
            "integrations": body.get("integrations") or [],
        },
        priority=_priority(extension),
    )


def _extension(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """veneer's own part of a body.

    Raises:
        ApiError: the body or this part has an unknown field.
    """
    refuse_unknown(body, JOB_FIELDS, "a job")
    extension = _mapping(body, EXTENSION)
    refuse_unknown(extension, EXTENSION_FIELDS, EXTENSION, EXTENSION)
    return extension


def _priority(extension: Mapping[str, Any]) -> int:
    priority = extension.get("priority", 0)
    if not is_whole(priority):
        raise ApiError(400, f"{EXTENSION}.priority must be a whole number", param=EXTENSION)
    return priority


def _objective(body: Mapping[str, Any], extension: Mapping[str, Any], settings: Mapping[str, Any]) -> ObjectiveName:
    """The objective, from whichever of the three possible places names it.

    Raises:
        ApiError: the objective is unknown, or two places name different ones.
    """
    method = _mapping(body, "method")
    kind = method.get("type")
    if kind in OBJECTIVES:
        known = ("grader", "hyperparameters") if kind == "reinforcement" else ("hyperparameters",)
        refuse_unknown(_mapping(method, str(kind)), known, f"method.{kind}", "method")
    refuse_unknown(method, ("type", *OBJECTIVES), "method", "method")
    named = {}
    if method:
        if kind not in OBJECTIVES:
            message = (
                f"method.type {str(kind)[:40]!r} is not supported; possible are {', '.join(OBJECTIVES)}. Other "
                f"objectives are named by {EXTENSION}.objective"
            )
            raise ApiError(400, message, param="method")
        named["method.type"] = OBJECTIVES[str(kind)]
    for place, values in ((f"{EXTENSION}.objective", extension), (f"{EXTENSION}.settings.objective", settings)):
        if values.get("objective") is not None:
            named[place] = _named(ObjectiveName, values["objective"], "objective")
    if len(set(named.values())) > 1:
        said = ", ".join(f"{place} {one.value}" for place, one in named.items())
        raise ApiError(400, f"a job has one objective; got {said}", param="method")
    return next(iter(named.values()), ObjectiveName.SFT)


def _named(kind: type[E], value: Any, name: str) -> E:
    try:
        found: E = choice(kind, value, f"{EXTENSION}.{name}")
    except ConfigError as error:
        raise ApiError(400, str(error), param=EXTENSION) from error
    return found


def _hyperparameters(body: Mapping[str, Any], objective: ObjectiveName) -> Mapping[str, Any]:
    """The hyperparameters, which are under the method or at the top level.

    Raises:
        ApiError: they are in two places, or the objective does not have one of them.
    """
    method = _mapping(body, "method")
    given = [
        (name, _mapping(found, "hyperparameters"))
        for name, found in (("hyperparameters", body), *((kind, _mapping(method, kind)) for kind in OBJECTIVES))
        if found.get("hyperparameters")
    ]
    if len(given) > 1 or any(name not in ("hyperparameters", method.get("type")) for name, _ in given):
        raise ApiError(400, "give hyperparameters once, in method under the name of its type", param="hyperparameters")
    hyper = given[0][1] if given else {}
    known = (*HYPERPARAMETERS, *OWN_HYPERPARAMETERS.get(objective, ()))
    strange = sorted(str(name)[:40] for name in hyper if name not in known)
    if strange:
        message = (
            f"the hyperparameters of objective {objective.value} are {', '.join(known)}; got {', '.join(strange[:8])}. "
            f"Give further settings in {EXTENSION}.settings"
        )
        raise ApiError(400, message, param="hyperparameters")
    return hyper


def _hyper_settings(hyper: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Hyperparameters as settings of a run, except the multiplier of the rate: the rate is chosen later."""
    epochs, beta = _number(hyper, "n_epochs"), _number(hyper, "beta")
    rows = _count(hyper, "batch_size", "rows in a step")
    found: list[tuple[str, Any]] = [("train.epochs", epochs)] if epochs is not None else []
    found += [("train.examples_per_step", rows)] if rows is not None else []
    found += [("dpo.beta", beta)] if beta is not None else []
    return [*found, *_exploration(hyper)]


def _exploration(hyper: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The hyperparameters of reinforcement as settings.

    Raises:
        ApiError: a hyperparameter asks for something that a run cannot do.
    """
    compute, every = _number(hyper, "compute_multiplier"), _count(hyper, "eval_interval", "steps")
    if hyper.get("eval_samples", "auto") not in (None, "auto"):
        message = "eval_samples is not supported: an evaluation answers every evaluation row once; leave it out"
        raise ApiError(400, message, param="eval_samples")
    if hyper.get("reasoning_effort", "default") not in (None, "default"):
        message = "reasoning_effort is not supported: grpo.max_completion_length limits the answers; leave it out"
        raise ApiError(400, message, param="reasoning_effort")
    answers = GrpoSection().num_generations
    found: list[tuple[str, Any]] = [] if every is None else [("train.eval_every", every)]
    return [*found, *([] if compute is None else [("grpo.num_generations", max(2, round(answers * compute)))])]


def _integrations(body: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """OpenAI's integrations as settings. There is one, wandb, with a project.

    Raises:
        ApiError: another integration or another field is given.
    """
    given = body.get("integrations")
    if not given:
        return []
    one = given[0] if isinstance(given, list) and len(given) == 1 else None
    own = one.get("wandb") if isinstance(one, Mapping) and set(one) == {"type", "wandb"} else None
    if one is None or one.get("type") != "wandb" or not isinstance(own, Mapping) or set(own) != {"project"}:
        message = (
            "integrations has one entry of the form {type: wandb, wandb: {project: NAME}}; for other trackers, set "
            f"track and tracking.project in {EXTENSION}.settings"
        )
        raise ApiError(400, message, param="integrations")
    return [("track", ["wandb"]), ("tracking.project", _text(own, "project", 128, required=True))]


def _own_settings(extension: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    mappings = [key for key, default in default_settings().items() if isinstance(default, Mapping)]
    for name, value in _mapping(extension, "settings").items():
        own = flat({name: value}, whole=mappings)  # the keys of a mapping may contain dots
        twice = sorted(key for key in own if found.get(key, own[key]) != own[key])
        if twice:
            message = f"{', '.join(twice)[:200]}: {EXTENSION}.settings has two values; give only one"
            raise ApiError(400, message, param=EXTENSION)
        found |= own
    paths = sorted(key for key in found if any(key == path or key.startswith(f"{path}.") for path in PATHS))
    given = [key for key in paths if found[key] not in (None, [])]
    if given:
        message = f"{given[0]} names a file of this machine; a job names uploaded files by their ids, and models"
        if given[0] == "revision":
            message = "revision is not a setting of a job, which uses the studio's copy of its model; leave it out"
        raise ApiError(400, message, param=EXTENSION)
    return {key: value for key, value in found.items() if key not in paths}  # paths that are left have no value


def _named_in(settings: dict[str, Any]) -> dict[str, str]:
    """Remove the names of models and adapters from settings, and return them."""
    found = {key: settings.pop(key) for key in sorted(MODELS | ADAPTERS) if settings.get(key) is not None}
    for key, name in found.items():
        if not isinstance(name, str) or not 0 < len(name) <= 500:
            raise ApiError(400, f"{key} must be a name of up to 500 characters", param=EXTENSION)
    return found


def _rewards(settings: dict[str, Any], body: Mapping[str, Any], grader: object) -> Sequence[Reward]:
    """The rewards, either from the settings, where they are removed, or from a grader.

    Raises:
        ApiError: both are given, or one of them cannot be used.
    """
    found = settings.pop("rewards", None) or []
    if not isinstance(found, list) or len(found) > MOST_REWARDS or not all(isinstance(one, Mapping) for one in found):
        raise ApiError(400, f"rewards must be a list of up to {MOST_REWARDS} objects", param=EXTENSION)
    if grader is None and _mapping(body, "method").get("type") != "reinforcement":
        return [dict(one) for one in found]
    if found:
        message = f"give either method.reinforcement.grader or {EXTENSION}.settings.rewards, not both"
        raise ApiError(400, message, param=PARAM)
    return rewards_of(grader)


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise ApiError(400, f"{name} must be an object", param=name)
    return found


def _text(body: Mapping[str, Any], name: str, most: int, *, required: bool = False) -> str | None:
    found = body.get(name)
    if found is None and not required:
        return None
    if not isinstance(found, str) or not 0 < len(found) <= most:
        raise ApiError(400, f"{name} must be a string of 1 to {most} characters", param=name)
    return found


def _suffix(body: Mapping[str, Any]) -> str | None:
    suffix = _text(body, "suffix", 64)
    # A folder whose name begins with a dot is hidden, and one whose name begins with a dash looks like an option.
    if suffix is not None and not SUFFIX.fullmatch(suffix):
        message = (
            f"suffix {suffix!r} must begin with a letter or a digit, and contain only letters, digits, dots, dashes "
            "and underscores"
        )
        raise ApiError(400, message, param="suffix")
    return suffix


def _metadata(body: Mapping[str, Any]) -> dict[str, str]:
    found = _mapping(body, "metadata")
    if len(found) > 16 or not all(
        isinstance(key, str) and isinstance(value, str) and len(key) <= 64 and len(value) <= 512
        for key, value in found.items()
    ):
        raise ApiError(400, "metadata has up to 16 pairs of strings (64 and 512 characters)", param="metadata")
    return dict(found)


def _number(hyper: Mapping[str, Any], name: str) -> float | None:
    """The value of a hyperparameter; None for `auto`."""
    found = hyper.get(name, "auto")
    if found is None or found == "auto":
        return None
    if not is_finite(found) or not 0 < found <= 10**6:
        raise ApiError(400, f"{name} must be 'auto' or a number above 0, at most 1,000,000", param=name)
    return float(found)


def _count(hyper: Mapping[str, Any], name: str, unit: str) -> int | None:
    """The value of a hyperparameter that counts something; None for `auto`."""
    found = _number(hyper, name)
    if found is not None and not found.is_integer():
        raise ApiError(400, f"{name} must be 'auto' or a whole number: {unit}", param=name)
    return None if found is None else int(found)
