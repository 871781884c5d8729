"""Adapters on disk, as PEFT writes them: `adapter_config.json` and `adapter_model.safetensors`.

Reading accepts what PEFT's plain LoRA can express and veneer trains; every other feature that the file switches on is
refused by name, since leaving it out would give another model than the one that was trained.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from veneer.adapters.inject import ALL_LINEAR, Adapter, LoraSpec, inject
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


def adapter_config(adapter: Adapter, base: str, revision: str | None = None) -> dict[str, Any]:
    """The content of `adapter_config.json` for `adapter` over the model `base`."""
    spec = adapter.spec
    targets = spec.target_modules
    if targets == ALL_LINEAR:
        # Spelled out, as PEFT does: other readers of the format do not know the shorthand.
        targets = tuple(sorted({path.rpartition(".")[2] for path in adapter.layers}))
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
        "target_modules": targets if isinstance(targets, str) else list(targets),
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
    used = [
        f"{key}: {config[key]!r}" for key, neutral in _NEUTRAL.items() if key in config and config[key] not in neutral
    ]
    if used:
        raise AdapterError(f"{path} uses features that veneer does not support:\n{listing(used)}")
    return _spec(config, path), config


def _spec(config: dict[str, Any], path: Path) -> LoraSpec:
    rank, alpha, dropout = config.get("r"), config.get("lora_alpha"), config.get("lora_dropout", 0.0)
    targets = config.get("target_modules")
    problems = []
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        problems.append(f"r: {rank!r}, must be a whole number of at least 1")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        problems.append(f"lora_alpha: {alpha!r}, must be a number")
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
        AdapterError: files are missing, damaged or unsupported, or do not fit `model`.
    """
    spec, _ = read_config(directory)
    tensors = read_tensors(directory)
    if not tensors:
        raise AdapterError(f"{directory / WEIGHTS_FILE}: holds no tensors")
    paths = tuple(dict.fromkeys(name.rpartition(".lora_")[0] for name in tensors))
    adapter = inject(model, replace(spec, target_modules=paths))
    adapter.load(tensors)
    return Adapter(spec, adapter.layers, adapter.generator)
