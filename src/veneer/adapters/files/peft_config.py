"""Reading and writing PEFT's `adapter_config.json`.

A file with a feature that veneer does not support is refused, and the feature is named: without it the model would be
another one than was trained.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from veneer.adapters.adapter import Adapter
from veneer.adapters.layers.embedding import LoraEmbedding
from veneer.adapters.layers.experts import ExpertsUpdate, targets_for_peft
from veneer.adapters.layers.linear import LoraLinear
from veneer.adapters.layers.modules_to_save import SavedModule
from veneer.adapters.layers.score import SCORE
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import ALL_LINEAR, EMBEDDING, HEAD, matches, names_path
from veneer.bounds import VOCABULARY
from veneer.enums import Bias, Init, Scaling, Task, Variant
from veneer.errors import AdapterError, listing, nearest
from veneer.model.mixture import DOWN, GATE_UP
from veneer.text.json_numbers import is_finite, is_whole

ELSEWHERE = "merge it into its base with PEFT (merge_and_unload), if PEFT can, and give veneer the merged model"
"""The remedy for an adapter that veneer cannot read."""
SAVE_CONVERTED = "save it converted (path_initial_model_for_weight_conversion)"
"""How PEFT saves an adapter as a plain one if its start is subtracted from the base at every loading."""
HEADS = (SCORE, "classifier")
"""Names of the heads of transformers' models that score texts."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "layer_replication": (None,),
    "monteclora_config": (None,),
    "use_bdlora": (None, False),
    "use_qalora": (None, False),
    "velora_config": (None,),
}
"""Settings of PEFT that change the model and are not supported, with the values that mean "not used"."""

_READ = frozenset(
    (
        *("r", "lora_alpha", "lora_dropout", "target_modules", "peft_type", "task_type", "base_model_name_or_path"),
        *("alpha_pattern", "bias", "exclude_modules", "init_lora_weights", "layers_to_transform", "lora_bias"),
        *("modules_to_save", "rank_pattern", "trainable_token_indices", "use_dora", "use_rslora"),
        *("auto_mapping", "inference_mode", "layers_pattern", "peft_version", "revision", "runtime_config"),
        *("corda_config", "eva_config", "loftq_config", "lora_ga_config", "megatron_config", "megatron_core"),
        *("ensure_weight_tying", "fan_in_fan_out", "qalora_group_size", "target_parameters"),
    )
)
"""Settings that are read, or that do not change the meaning of the tensors."""

_INITS: dict[Any, Init] = {
    True: Init.KAIMING,
    False: Init.KAIMING,
    None: Init.KAIMING,
    "gaussian": Init.GAUSSIAN,
    "eva": Init.EVA,
    "orthogonal": Init.ORTHOGONAL,
    "mica": Init.KAIMING,
    "pissa": Init.PISSA,
    "olora": Init.OLORA,
}
"""Values of `init_lora_weights` that can be read. With PiSSA and OLoRA, PEFT changes the base at every loading, unless
the adapter was converted when it was saved. Both follow from the base alone, so that veneer can do so too. For the
others (pissa_niter, CorDA, LoftQ, LoRA-GA) the subtracted product cannot be known."""


def is_plain(spec: LoraSpec) -> bool:
    """Whether an adapter that was read with these settings is a plain update of the base."""
    return spec.init not in (Init.PISSA, Init.OLORA)


def adapter_config(adapter: Adapter, base: str | None, revision: str | None = None) -> dict[str, Any]:
    """The content of `adapter_config.json` for `adapter` over the model `base`."""
    spec = adapter.spec
    embeddings = {path: module for path, module in adapter.modules if isinstance(module, LoraEmbedding)}
    updates: dict[str, LoraLinear | LoraEmbedding] = {**embeddings, **adapter.updates()}
    saved = [
        path
        for path, module in adapter.modules
        if isinstance(module, SavedModule) and module.whole and module.trained()
    ]
    config = {
        "auto_mapping": None,
        "base_model_name_or_path": base,
        "bias": spec.bias.value,
        "ensure_weight_tying": bool(spec.tied_modules and EMBEDDING in saved and HEAD not in updates),
        "exclude_modules": _plain(spec.exclude_modules) or None,
        "fan_in_fan_out": spec.fan_in_fan_out,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None if spec.layers_to_transform is None else list(spec.layers_to_transform),
        "lora_bias": spec.factor_bias,
        "lora_dropout": spec.dropout,
        "modules_to_save": ([SCORE] if adapter.score is not None else []) + saved or None,
        "peft_type": "LORA",
        "revision": revision,
        "target_modules": _targets(spec, list(updates)),
        "target_parameters": None,
        "task_type": spec.task.value,
        "trainable_token_indices": _token_indices(spec.trainable_tokens),
        "use_dora": spec.variant is Variant.DORA,
        **_ranks(spec, updates),
    }
    if HEAD in updates and matches(spec.exclude_modules, HEAD):
        # `ensure_weight_tying` puts an update on a head that is excluded by its name. It is written as the head's own.
        config |= {"exclude_modules": None, "layers_to_transform": None, "target_modules": list(updates)}
    return config | (_on_mixture(adapter, updates, config) if spec.mixture else {})


def _on_mixture(
    adapter: Adapter, updates: Mapping[str, LoraLinear | LoraEmbedding], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings that differ if some targets are parameters in PEFT.

    PEFT has no exclusions and no layer indices for parameters, so that they are listed.
    """
    experts = [
        f"{path}.{name}"
        for path, module in adapter.modules
        if isinstance(module, ExpertsUpdate)
        for name in module.updates
    ]
    spec = adapter.spec
    leaves = {path.rpartition(".")[2] for path in updates if ".mlp." not in path}
    if not experts and {name.rpartition(".")[2] for name in config["target_modules"]} <= leaves:
        return {}  # PEFT knows all of these names for modules
    everywhere = spec.target_modules == ALL_LINEAR and not spec.exclude_modules and spec.layers_to_transform is None
    modules, parameters = targets_for_peft([*updates, *experts], everywhere=everywhere)
    # A router's key in PEFT ends in `weight`, so that patterns need it too.
    ranks, alphas = dict(config["rank_pattern"]), dict(config["alpha_pattern"])
    for path, update in updates.items():
        if ".mlp." in path and isinstance(update, LoraLinear):
            rank = update.rank * (2 if update.subtracted_a is not None else 1)
            alpha = update.scale * (math.sqrt(rank) if config["use_rslora"] else rank)
            ranks |= {f"{path}.weight": rank} if rank != config["r"] else {}
            alphas |= {f"{path}.weight": _whole(alpha)} if not math.isclose(alpha, config["lora_alpha"]) else {}
    return {
        "alpha_pattern": alphas,
        "exclude_modules": None,
        "layers_to_transform": None,
        "rank_pattern": ranks,
        "target_modules": modules,
        "target_parameters": parameters,
    }


def _ranks(spec: LoraSpec, updates: Mapping[str, LoraLinear | LoraEmbedding]) -> dict[str, Any]:
    """Ranks and alphas: those of the specification, or those of the plain adapter with the subtracted pair in it."""
    if not any(isinstance(update, LoraLinear) and update.subtracted_a is not None for update in updates.values()):
        return {
            "alpha_pattern": {key: _whole(alpha) for key, alpha in spec.alpha_pattern.items()},
            "lora_alpha": _whole(spec.alpha),
            "r": spec.rank,
            "rank_pattern": dict(spec.rank_pattern),
            "use_rslora": spec.scaling is Scaling.RSLORA,
        }
    sizes = {}
    for path, update in updates.items():
        doubled = isinstance(update, LoraLinear) and update.subtracted_a is not None
        rank = update.rank * (2 if doubled else 1)
        sizes[path] = (rank, _whole(update.scale * rank))
    (rank, alpha), _ = Counter(sizes.values()).most_common(1)[0]
    return {
        "alpha_pattern": {path: size[1] for path, size in sizes.items() if size[1] != alpha},
        "lora_alpha": alpha,
        "r": rank,
        "rank_pattern": {path: size[0] for path, size in sizes.items() if size[0] != rank},
        "use_rslora": False,
    }


def _targets(spec: LoraSpec, paths: list[str]) -> list[str]:
    # Spelled out: other readers of the format do not know the shorthand, and an expression may match more among the
    # modules of their model (".*" the model itself).
    if spec.target_modules == ALL_LINEAR:
        return sorted({path.rpartition(".")[2] for path in paths})
    if isinstance(spec.target_modules, str):
        return paths
    # A head that is updated because it is tied to the embedding (`ensure_weight_tying`) is not among the names.
    tied = HEAD in paths and not any(names_path(name, HEAD) for name in spec.target_modules)
    return [*spec.target_modules, *([HEAD] if tied else [])]


def _token_indices(tokens: Mapping[str, tuple[int, ...]]) -> dict[str, list[int]] | None:
    return {path.rpartition(".")[2]: list(ids) for path, ids in tokens.items()} or None


def _plain(names: str | tuple[str, ...]) -> str | list[str]:
    return names if isinstance(names, str) else list(names)


def _whole(number: float) -> int | float:
    return int(number) if float(number).is_integer() else number


def parse_config(config: Any, path: Path) -> LoraSpec:
    """The specification that a configuration means.

    Raises:
        AdapterError: it is not a LoRA configuration, is broken, or uses a feature that is not supported.
    """
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise AdapterError(f"{path}: peft_type is {kind!r}, but veneer reads only 'LORA'; {ELSEWHERE}")
    used = [f"{key}: {value!r}" for key, value in config.items() if _is_used(key, value)]
    if used:
        raise AdapterError(
            f"{path} uses features that veneer does not support:\n{listing(used)}\nTrain the adapter without them, or "
            f"{ELSEWHERE}"
        )
    problems = _faults(config)
    if problems:
        raise AdapterError(f"{path}: not a usable adapter configuration:\n{listing(problems)}")
    layers, scores = config.get("layers_to_transform"), config.get("task_type") == Task.SEQ_CLS.value
    return LoraSpec(
        rank=config["r"],
        alpha=float(config["lora_alpha"]),
        dropout=float(config.get("lora_dropout", 0.0)),
        target_modules=_all_targets(config),
        exclude_modules=_names(config.get("exclude_modules") or ()),
        layers_to_transform=tuple(layers) if isinstance(layers, list) else None if layers is None else (layers,),
        rank_pattern={_without_weight(key): rank for key, rank in (config.get("rank_pattern") or {}).items()},
        alpha_pattern={
            _without_weight(key): float(alpha) for key, alpha in (config.get("alpha_pattern") or {}).items()
        },
        scaling=Scaling.RSLORA if config.get("use_rslora") else Scaling.STANDARD,
        variant=Variant.DORA if config.get("use_dora") else Variant.LORA,
        init=_INITS[config.get("init_lora_weights")],
        bias=Bias(config.get("bias") or "none"),
        factor_bias=bool(config.get("lora_bias")),
        # PEFT names both of its own heads for this task; the score head is not a module of a language model.
        modules_to_save=tuple(name for name in config.get("modules_to_save") or () if not scores or name not in HEADS),
        task=Task.SEQ_CLS if scores else Task.CAUSAL_LM,
        tied_modules=bool(config.get("ensure_weight_tying")),
        trainable_tokens=_tokens(config.get("trainable_token_indices")),
        fan_in_fan_out=bool(config.get("fan_in_fan_out")),
        mixture=bool(config.get("target_parameters")),
    )


def unknown_settings(config: Mapping[str, Any]) -> list[str]:
    """The keys of a configuration that neither PEFT nor veneer knows, with their values.

    Their values mean "not used" (None, false, empty), since `parse_config` refuses all others. They may still be typing
    errors: `useOrslora: false` instead of `use_rslora`.
    """
    unknown = [key for key in config if key not in _READ and key not in _NEUTRAL]
    return [f"{key}: {config[key]!r}{nearest(key, sorted(_READ | _NEUTRAL.keys()))}" for key in unknown]


def _is_used(key: str, value: Any) -> bool:
    """Whether a setting asks for an unsupported feature. An unknown setting may only be switched off."""
    if key == "init_lora_weights":
        return not isinstance(value, bool | str | None) or value not in _INITS
    if key in _READ:
        return False
    return value not in _NEUTRAL.get(key, (None, False, [], {}, ""))


def _faults(config: Mapping[str, Any]) -> list[str]:
    rank, alpha, dropout = config.get("r"), config.get("lora_alpha"), config.get("lora_dropout", 0.0)
    targets, tokens = config.get("target_modules"), config.get("trainable_token_indices")
    excluded, saved, layers = (config.get(key) for key in ("exclude_modules", "modules_to_save", "layers_to_transform"))
    problems = []
    if not is_whole(rank, 1):
        problems.append(f"r: {rank!r}, must be a whole number of at least 1")
    if not is_finite(alpha):
        problems.append(f"lora_alpha: {alpha!r}, must be a finite number")
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        problems.append(f"lora_dropout: {dropout!r}, must be at least 0 and below 1")
    parameters = config.get("target_parameters")
    if parameters is not None and not _is_list(parameters, str):
        problems.append(f"target_parameters: {parameters!r}, must be a list of texts")
    if not (isinstance(targets, str) or _is_list(targets, str) or (targets is None and parameters)):
        problems.append(f"target_modules: {targets!r}, must be a text or a list of texts")
    if not (excluded is None or isinstance(excluded, str) or _is_list(excluded, str)):
        problems.append(f"exclude_modules: {excluded!r}, must be a text or a list of texts")
    if not (saved is None or _is_list(saved, str)):
        problems.append(f"modules_to_save: {saved!r}, must be a list of texts")
    if not (layers is None or isinstance(layers, int) or _is_list(layers, int)):
        problems.append(f"layers_to_transform: {layers!r}, must be a number or a list of numbers")
    if not all(is_whole(value, 1) for value in _values(config.get("rank_pattern"))):
        problems.append(f"rank_pattern: {config['rank_pattern']!r}, must give whole numbers of at least 1")
    if not all(map(is_finite, _values(config.get("alpha_pattern")))):
        problems.append(f"alpha_pattern: {config['alpha_pattern']!r}, must give finite numbers")
    if config.get("bias") not in (None, *(bias.value for bias in Bias)):
        problems.append(f"bias: {config['bias']!r}, must be none, all or lora_only")
    problems += _token_faults(tokens)
    return problems


def _token_faults(tokens: Any) -> list[str]:
    lists = list(tokens.values()) if isinstance(tokens, dict) else [tokens or []]
    if not all(_is_list(ids, int) for ids in lists):
        return [f"trainable_token_indices: {tokens!r}, must be token ids"]
    strange = [token for ids in lists for token in ids if not 0 <= token < VOCABULARY]
    return [f"trainable_token_indices: {token}, must be at least 0 and below {VOCABULARY:,}" for token in strange]


def _values(pattern: Any) -> list[Any]:
    if pattern is None:
        return []
    # Neither a rank nor a number stands for a pattern of another kind.
    return list(pattern.values()) if isinstance(pattern, dict) else [None]


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _all_targets(config: Mapping[str, Any]) -> str | tuple[str, ...]:
    """Target modules and parameters together. A parameter `weight` means its module.

    In PEFT an expression in target_modules selects only modules, and a name in target_parameters only parameters:
    neither `.*_proj` nor a dense layer's `down_proj` means the experts' parameter `down_proj`.
    """
    modules = _names(config.get("target_modules") or ())
    parameters = [_parameter(name) for name in config.get("target_parameters") or ()]
    if not isinstance(modules, str):
        # Where PEFT turns an expression into names, it lists these two, and goes by the parameters.
        listed = [name for name in modules if name not in (GATE_UP, DOWN)] if parameters else modules
        return (*listed, *parameters)
    if modules == ALL_LINEAR:
        return modules
    return "|".join((_outside_of_experts(modules), *(rf"(.*\.)?{re.escape(name)}" for name in parameters)))


def _parameter(name: str) -> str:
    return f"experts.{name}" if name in (GATE_UP, DOWN) else _without_weight(name)


def _outside_of_experts(expression: str) -> str:
    """An expression that matches the same paths as the given one, without those of experts."""
    flags = re.match(r"(\(\?[aiLmsux]+\))*", expression)
    start = flags.group() if flags else ""
    return rf"{start}(?!.*\.experts\.)(?:{expression.removeprefix(start)})"


def _without_weight(name: str) -> str:
    return re.sub(r"\\?\.weight$", "", name)


def _names(names: str | list[str] | tuple[str, ...]) -> str | tuple[str, ...]:
    return names if isinstance(names, str) else tuple(names)


def _tokens(value: Any) -> dict[str, tuple[int, ...]]:
    if not value:
        return {}
    given = value if isinstance(value, dict) else {EMBEDDING: value}
    homes = {name: path for name in given for path in (EMBEDDING, HEAD) if names_path(name, path)}
    return {homes.get(name, name): tuple(ids) for name, ids in given.items()}
