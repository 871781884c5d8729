"""Adapters on disk, as PEFT writes them: `adapter_config.json` and `adapter_model.safetensors`.

Reading accepts what PEFT's plain LoRA can express and veneer trains; every other feature that the file switches on is
refused by name, since leaving it out would give another model than the one that was trained.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from veneer.adapters.inject import ALL_LINEAR, Adapter, LoraSpec, inject, remove
from veneer.errors import AdapterError, listing
from veneer.io.files import write_tensors, write_text
from veneer.model.decoder import CausalLM

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts before every module path."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "alora_invocation_tokens": (None,),
    "alpha_pattern": (None, {}),
    "arrow_config": (None,),
    "bias": (None, "none"),
    "exclude_modules": (None, [], ""),
    "fan_in_fan_out": (None, False),
    "kasa_config": (None,),
    "layer_replication": (None,),
    "layers_to_transform": (None, []),
    "lora_bias": (None, False),
    "modules_to_save": (None, []),
    "monteclora_config": (None,),
    "rank_pattern": (None, {}),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "use_bdlora": (None, False),
    "use_dora": (None, False),
    "use_qalora": (None, False),
    "use_rslora": (None, False),
    "velora_config": (None,),
}
"""Settings of PEFT that change the model, with the values that mean "not used"."""

_HARMLESS = frozenset(
    (
        *("r", "lora_alpha", "lora_dropout", "target_modules", "peft_type", "task_type", "base_model_name_or_path"),
        *("auto_mapping", "inference_mode", "layers_pattern", "peft_version", "revision", "runtime_config"),
        *("corda_config", "eva_config", "loftq_config", "lora_ga_config", "megatron_config", "megatron_core"),
        *("ensure_weight_tying", "qalora_group_size"),
    )
)
"""Settings that are read here, or that leave what the tensors mean as it is."""

_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""Values of `init_lora_weights` that leave the base as it is. Of the others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) PEFT
changes the base weights whenever it loads the adapter, unless it was converted when it was saved."""


def adapter_config(adapter: Adapter, base: str, revision: str | None = None) -> dict[str, Any]:
    """The content of `adapter_config.json` for `adapter` over the model `base`."""
    spec = adapter.spec
    targets = spec.target_modules
    # Spelled out: other readers of the format do not know the shorthand, and an expression may match more among the
    # modules of their model (".*" the model itself).
    if targets == ALL_LINEAR:
        targets = tuple(sorted({path.rpartition(".")[2] for path in adapter.layers}))
    elif isinstance(targets, str):
        targets = tuple(adapter.layers)
    return {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": int(spec.alpha) if float(spec.alpha).is_integer() else spec.alpha,
        "lora_dropout": spec.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": spec.rank,
        "rank_pattern": {},
        "revision": revision,
        "target_modules": list(targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def save_adapter(directory: Path, adapter: Adapter, *, base: str, revision: str | None = None) -> None:
    """Write both files of `adapter` into an existing folder.

    Raises:
        AdapterError: a weight is NaN or infinite; nothing is written.
        OutputError: a file cannot be written.
    """
    tensors = {PREFIX + name: tensor for name, tensor in adapter.tensors().items()}
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise AdapterError(f"the adapter holds NaN or infinite values and was not saved:\n{listing(broken)}")
    write_tensors(directory / WEIGHTS_FILE, tensors, {"format": "pt"})
    config = adapter_config(adapter, base, revision)
    write_text(directory / CONFIG_FILE, json.dumps(config, indent=2, sort_keys=True) + "\n")


def read_config(directory: Path) -> tuple[LoraSpec, dict[str, Any]]:
    """The adapter's specification and the whole of its `adapter_config.json`.

    Raises:
        AdapterError: no adapter is there, its configuration is broken, or it uses a feature that is not supported.
    """
    path = directory / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AdapterError(
            f"{directory}: no {CONFIG_FILE} there; give the folder that `veneer train` or PEFT's save_pretrained wrote"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AdapterError(f"{path}: cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise AdapterError(f"{path}: peft_type is {kind!r}; supported: 'LORA'")
    used = [f"{key}: {value!r}" for key, value in config.items() if _is_used(key, value)]
    if used:
        raise AdapterError(f"{path} uses features that veneer does not support:\n{listing(used)}")
    return _spec(config, path), config


def _is_used(key: str, value: Any) -> bool:
    """Whether a setting asks for something that is not done here; one that is not known may only be switched off."""
    if key in _HARMLESS:
        return False
    if key == "init_lora_weights":
        return value not in _INITS
    return value not in _NEUTRAL.get(key, (None, False, [], {}, ""))


def _spec(config: dict[str, Any], path: Path) -> LoraSpec:
    rank, alpha, dropout = config.get("r"), config.get("lora_alpha"), config.get("lora_dropout", 0.0)
    targets = config.get("target_modules")
    problems = []
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        problems.append(f"r: {rank!r}, must be a whole number of at least 1")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        problems.append(f"lora_alpha: {alpha!r}, must be a finite number")
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        problems.append(f"lora_dropout: {dropout!r}, must be at least 0 and below 1")
    if not (isinstance(targets, str) or (isinstance(targets, list) and all(isinstance(t, str) for t in targets))):
        problems.append(f"target_modules: {targets!r}, must be a text or a list of texts")
    if problems:
        raise AdapterError(f"{path}: not a usable adapter configuration:\n{listing(problems)}")
    return LoraSpec(
        rank=rank,  # type: ignore[arg-type]
        alpha=float(alpha),  # type: ignore[arg-type]
        dropout=float(dropout),
        target_modules=targets if isinstance(targets, str) else tuple(targets),  # type: ignore[arg-type]
    )


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """The weights of a saved adapter in float32, under the names of `Adapter.tensors()`.

    Raises:
        AdapterError: the file is missing or damaged, or is a pickle.
    """
    path = directory / WEIGHTS_FILE
    if not path.exists():
        pickle = directory / "adapter_model.bin"
        hint = (
            f"; {pickle.name} is a pickle, which can run code when opened: convert it with PEFT first"
            if pickle.exists()
            else ""
        )
        raise AdapterError(f"{directory}: no {WEIGHTS_FILE} there{hint}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name.removeprefix(PREFIX): file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path}: not a readable safetensors file: {error}") from error


def load_adapter(model: CausalLM, directory: Path) -> Adapter:
    """Put the saved adapter in `directory` on `model`.

    PEFT's shorthand for targets (an expression, or names that match more layers in one model than in another) says
    what was asked for; the tensors say what was trained. The adapter goes on the layers that it has tensors for.

    Raises:
        AdapterError: files are missing, damaged or unsupported, or do not fit `model`, which stays as it was.
    """
    spec, _ = read_config(directory)
    tensors = read_tensors(directory)
    if not tensors:
        raise AdapterError(f"{directory / WEIGHTS_FILE}: holds no tensors")
    strange = [name for name in tensors if not name.endswith((".lora_A.weight", ".lora_B.weight"))]
    if strange:
        raise AdapterError(f"{directory / WEIGHTS_FILE} holds more than LoRA's A and B:\n{listing(strange)}")
    paths = tuple(dict.fromkeys(name.rpartition(".lora_")[0] for name in tensors))
    adapter = inject(model, replace(spec, target_modules=paths))
    try:
        adapter.load(tensors)
    except AdapterError:
        remove(model, adapter)
        raise
    return Adapter(spec, adapter.layers, adapter.generator)
