"""The settings of a run from the body of a request, as OpenAI has it, with veneer's own settings under one key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from veneer.config import RunConfig, parse
from veneer.config.values import flat, laid_over
from veneer.enums import E, Method, ObjectiveName, choice
from veneer.errors import ConfigError
from veneer.serving.errors import ApiError

EXTENSION = "veneer"
"""The key of a request's body, and of a job, with what OpenAI's API has no words for."""
EXTENSION_FIELDS = ("method", "objective", "settings", "priority")
OBJECTIVES = {"supervised": ObjectiveName.SFT, "dpo": ObjectiveName.DPO}
"""OpenAI's kinds of training (`method.type`) that a job can be of. Other objectives stand under `EXTENSION`."""
HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier")
"""Those that every kind has."""
PATHS = frozenset(
    {
        "model", "revision", "output", "data.file", "data.eval_file", "data.sources", "data.cache_dir",
        "train.from_adapter", "distillation.teacher", "distillation.teacher_adapter",
    }
)  # fmt: skip
"""Settings that name files: a client names what it has uploaded, and models by their names."""
KNOWN = frozenset(
    {
        "model", "training_file", "validation_file", "suffix", "seed", "metadata", "method", "hyperparameters",
        "integrations", EXTENSION,
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRequest:
    """What a client asks for, checked as far as that goes without its files."""

    model: str
    """The name of the base."""
    training_file: str
    validation_file: str | None
    objective: ObjectiveName
    values: Mapping[str, Any]
    """Nested settings of the run, without files."""
    rate_multiplier: float | None
    """The factor of the rate that veneer would choose; None leaves it."""
    details: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 0


def job_request(body: Mapping[str, Any]) -> JobRequest:
    """Read the body of a request for a job.

    Raises:
        ApiError: 400, naming the field that is to blame.
    """
    unknown = sorted(name for name in body if name not in KNOWN)
    if unknown:
        named = ", ".join(name[:40] for name in unknown[:8])
        raise ApiError(400, f"fields that are not known here: {named}", param=unknown[0][:40])
    extension = _mapping(body, EXTENSION)
    strange = sorted(set(extension) - set(EXTENSION_FIELDS))
    if strange:
        raise ApiError(400, f"{EXTENSION} has the fields {', '.join(EXTENSION_FIELDS)}; got {strange[0][:40]!r}",
                       param=EXTENSION)  # fmt: skip
    settings = _own_settings(extension)
    objective = _objective(body, extension, settings)
    hyper = _hyperparameters(body, objective)
    seed = _whole(body, "seed", 0, 2**31 - 1)
    pairs = [*_hyper_settings(hyper), *_integrations(body)]
    if objective is not ObjectiveName.SFT:
        pairs.append(("objective", objective.value))
    if extension.get("method") is not None:
        pairs.append(("method", _named(Method, extension["method"], "method").value))
    if seed is not None:
        pairs.append(("train.seed", seed))
    twice = sorted(key for key, value in pairs if settings.get(key, value) != value)
    if twice:
        message = f"{', '.join(twice)}: {EXTENSION}.settings and another field say different things; give one"
        raise ApiError(400, message, param=EXTENSION)
    priority = extension.get("priority", 0)
    if not isinstance(priority, int) or isinstance(priority, bool):
        raise ApiError(400, f"{EXTENSION}.priority must be a whole number", param=EXTENSION)
    return JobRequest(
        model=_text(body, "model", 500, required=True) or "",
        training_file=_text(body, "training_file", 100, required=True) or "",
        validation_file=_text(body, "validation_file", 100),
        objective=objective,
        values=laid_over({}, [*settings.items(), *pairs]),
        rate_multiplier=_number(hyper, "learning_rate_multiplier"),
        details={
            "suffix": _suffix(body),
            "seed": seed,
            "metadata": _metadata(body),
            "hyperparameters": dict(hyper),
            "integrations": body.get("integrations") or [],
        },
        priority=priority,
    )


def config_of(request: JobRequest, model: str, rows: str, evaluation: str | None, output: str = "-") -> RunConfig:
    """The run that a request asks for.

    Raises:
        ApiError: 400, settings contradict each other or are not known.
    """
    pairs: list[tuple[str, Any]] = [("model", model), ("output", output), ("data.file", rows)]
    pairs += [] if evaluation is None else [("data.eval_file", evaluation)]
    try:
        return parse(laid_over(dict(request.values), pairs), where=f"{EXTENSION}.settings")
    except ConfigError as error:
        raise ApiError(400, str(error), param=EXTENSION) from error


def _objective(body: Mapping[str, Any], extension: Mapping[str, Any], settings: Mapping[str, Any]) -> ObjectiveName:
    """The objective, whichever of its three places names it.

    Raises:
        ApiError: none is known by that name, or two places name different ones.
    """
    method = _mapping(body, "method")
    strange = sorted(set(method) - {"type", *OBJECTIVES})
    if strange:
        raise ApiError(400, f"method has type and the settings of that type; got {strange[0][:40]!r}", param="method")
    named = {}
    if method:
        kind = method.get("type")
        if kind not in OBJECTIVES:
            message = (
                f"method.type {str(kind)[:40]!r} is not trained here; known: {', '.join(OBJECTIVES)}. Other objectives "
                f"are named by {EXTENSION}.objective"
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
    """The hyperparameters, of the method or at the top.

    Raises:
        ApiError: they stand in two places, or one is none of the objective's.
    """
    method = _mapping(body, "method")
    given = [
        (name, _mapping(found, "hyperparameters"))
        for name, found in (("hyperparameters", body), *((kind, _mapping(method, kind)) for kind in OBJECTIVES))
        if found.get("hyperparameters")
    ]
    if len(given) > 1 or any(name not in ("hyperparameters", method.get("type")) for name, _ in given):
        raise ApiError(400, "hyperparameters stand under method, below the name of its type", param="hyperparameters")
    hyper = given[0][1] if given else {}
    known = (*HYPERPARAMETERS, "beta") if objective is ObjectiveName.DPO else HYPERPARAMETERS
    strange = sorted(str(name)[:40] for name in hyper if name not in known)
    if strange:
        message = (
            f"hyperparameters of objective {objective.value} are {', '.join(known)}; got {', '.join(strange[:8])}. "
            f"Further settings are given by {EXTENSION}.settings"
        )
        raise ApiError(400, message, param="hyperparameters")
    return hyper


def _hyper_settings(hyper: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Hyperparameters as settings of a run; the rate's multiplier waits until the rate is chosen."""
    epochs, rows, beta = (_number(hyper, name) for name in ("n_epochs", "batch_size", "beta"))
    if rows is not None and rows != int(rows):
        raise ApiError(400, "batch_size must be 'auto' or a whole number: rows in a step", param="batch_size")
    found: list[tuple[str, Any]] = [("train.epochs", epochs)] if epochs is not None else []
    found += [("train.examples_per_step", int(rows))] if rows is not None else []
    return [*found, *([("dpo.beta", beta)] if beta is not None else [])]


def _integrations(body: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """OpenAI's integrations as settings: it knows one, wandb with a project.

    Raises:
        ApiError: another one is asked for, or another field of it.
    """
    given = body.get("integrations")
    if not given:
        return []
    one = given[0] if isinstance(given, list) and len(given) == 1 else None
    own = one.get("wandb") if isinstance(one, Mapping) and set(one) == {"type", "wandb"} else None
    if one is None or one.get("type") != "wandb" or not isinstance(own, Mapping) or set(own) != {"project"}:
        message = (
            "integrations are one of the form {type: wandb, wandb: {project: NAME}}; other trackers are named by "
            f"{EXTENSION}.settings, as track and tracking.project"
        )
        raise ApiError(400, message, param="integrations")
    return [("track", ["wandb"]), ("tracking.project", _text(own, "project", 128, required=True))]


def _own_settings(extension: Mapping[str, Any]) -> dict[str, Any]:
    found = flat(_mapping(extension, "settings"))
    paths = sorted(key for key in found if any(key == path or key.startswith(f"{path}.") for path in PATHS))
    if paths:
        message = f"{paths[0]} names a file of this machine; a job names models, and uploaded files by their ids"
        raise ApiError(400, message, param=EXTENSION)
    rewards = found.get("rewards") or []
    if not isinstance(rewards, list) or not all(isinstance(one, Mapping) and _is_metric(one) for one in rewards):
        message = (
            "rewards of a job are metrics, {metric: NAME}: Python functions and commands would run on this machine, "
            "and adapters are folders of it"
        )
        raise ApiError(400, message, param=EXTENSION)
    return found


def _is_metric(reward: Mapping[str, Any]) -> bool:
    """Whether a reward runs nothing that the client has written, and names no file of this machine."""
    others = ("python", "command", "adapter")
    return reward.get("metric") is not None and all(reward.get(name) is None for name in others)


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
        raise ApiError(400, f"{name}: give a text of up to {most} characters", param=name)
    return found


def _suffix(body: Mapping[str, Any]) -> str | None:
    suffix = _text(body, "suffix", 64)
    if suffix is not None and not all(letter.isascii() and (letter.isalnum() or letter in "._-") for letter in suffix):
        raise ApiError(400, "suffix has letters, digits, dots, dashes and underscores alone", param="suffix")
    return suffix


def _metadata(body: Mapping[str, Any]) -> dict[str, str]:
    found = _mapping(body, "metadata")
    if len(found) > 16 or not all(
        isinstance(key, str) and isinstance(value, str) and len(key) <= 64 and len(value) <= 512
        for key, value in found.items()
    ):
        raise ApiError(400, "metadata has up to 16 pairs of texts (64 and 512 characters)", param="metadata")
    return dict(found)


def _whole(body: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    found = body.get(name)
    if found is None:
        return None
    if not isinstance(found, int) or isinstance(found, bool) or not least <= found <= most:
        raise ApiError(400, f"{name} must be a whole number from {least} to {most:,}", param=name)
    return found


def _number(hyper: Mapping[str, Any], name: str) -> float | None:
    """A hyperparameter; None for `auto`."""
    found = hyper.get(name, "auto")
    if found is None or found == "auto":
        return None
    if not isinstance(found, int | float) or isinstance(found, bool) or not 0 < found <= 10**6:
        raise ApiError(400, f"{name} must be 'auto' or a number above 0", param=name)
    return float(found)
