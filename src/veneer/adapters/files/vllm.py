"""Which adapters another server accepts: the rules of vLLM, which Ray Serve LLM uses too.

They were read in vLLM's `lora/peft_helper.py` (`validate_legal`), `lora/utils.py` (`parse_fine_tuned_lora_name`) and
`config/lora.py` (`MaxLoRARanks`), as of 2026. vLLM silently ignores the parts of a configuration that it does not read:
`rank_pattern` and `alpha_pattern` are among these, so that such an adapter is served with wrong scales.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from veneer.adapters.files.names import FACTOR_B_BIAS
from veneer.adapters.files.store import CONFIG_FILE, WEIGHTS_FILE
from veneer.adapters.targets import EMBEDDING, HEAD, unusable, value_of_pattern
from veneer.errors import AdapterError

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The possible values of `--max-lora-rank`."""
CLASSIFIERS = frozenset({"classifier", "score"})
"""Modules that may be saved whole: the heads of classifiers."""
CONFIG_BYTES = 10_000_000


class ServerVerdict(StrEnum):
    """What the other server does with an adapter."""

    SERVED = "served"
    """It is served as it is."""
    DEPENDS = "depends"
    """Some models accept it, others refuse it."""
    WRONG = "wrong"
    """It is accepted, but computed differently than it was trained."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class ServerFinding:
    """What the other server does with one adapter, and why."""

    name: str
    verdict: ServerVerdict
    reasons: tuple[str, ...]
    rank: int
    """The largest rank; 0 if it is not known."""


def check_folder(folder: Path) -> list[ServerFinding]:
    """The findings on every adapter in the folders below one folder, in the order of their names.

    Raises:
        AdapterError: there is no such folder, or no adapter in it.
    """
    if not folder.is_dir():
        raise AdapterError(f"{folder}: no such folder; give one with a folder for each adapter")
    whole = [folder] if (folder / CONFIG_FILE).is_file() else []
    adapters = whole or sorted(entry for entry in folder.iterdir() if (entry / CONFIG_FILE).is_file())
    if not adapters:
        raise AdapterError(f"{folder}: no folder in it has an {CONFIG_FILE}")
    return [check_for_vllm(adapter) for adapter in adapters]


def check_for_vllm(folder: Path) -> ServerFinding:
    """The finding on the adapter in a folder."""
    name = folder.resolve().name
    try:
        config, tensors = _read(folder)
    except AdapterError as error:
        return ServerFinding(name, ServerVerdict.REFUSED, (str(error),), 0)
    verdicts = [*_by_config(config), *_by_tensors(tensors)]
    order = list(ServerVerdict)
    worst = max((verdict for verdict, _ in verdicts), key=order.index, default=ServerVerdict.SERVED)
    return ServerFinding(name, worst, tuple(reason for _, reason in verdicts), _rank(config))


def max_rank(findings: Sequence[ServerFinding]) -> int | None:
    """The `--max-lora-rank` that the servable adapters need; None if a rank is above all possible values."""
    most = max((finding.rank for finding in findings if finding.verdict is not ServerVerdict.REFUSED), default=0)
    return next((rank for rank in VLLM_RANKS if rank >= most), None)


def _by_config(config: Mapping[str, Any]) -> list[tuple[ServerVerdict, str]]:
    kind, saved = config.get("peft_type"), config.get("modules_to_save") or []
    found = []
    if kind != "LORA":
        found.append((ServerVerdict.REFUSED, f"peft_type is {kind!r}, but only LORA is served"))
    if config.get("use_dora"):
        found.append((ServerVerdict.REFUSED, "use_dora: DoRA is not served; merge it (veneer export)"))
    if not set(saved) <= CLASSIFIERS:
        found.append(
            (ServerVerdict.REFUSED, f"modules_to_save: {', '.join(map(str, saved))}; merge it (veneer export)")
        )
    if config.get("bias", "none") != "none":
        found.append((ServerVerdict.REFUSED, f"bias: {config['bias']!r}; trained biases are not served"))
    if config.get("trainable_token_indices"):
        found.append((ServerVerdict.REFUSED, "trainable_token_indices: trained tokens are not served by most versions"))
    if _rank(config) > max(VLLM_RANKS):
        found.append(
            (ServerVerdict.REFUSED, f"rank {_rank(config)} is above {max(VLLM_RANKS)}, the largest --max-lora-rank")
        )
    if config.get("target_parameters"):
        found.append((ServerVerdict.DEPENDS, "target_parameters: updates of experts are served only for some mixtures"))
    if other := _other_scales(config):
        found.append((ServerVerdict.WRONG, other))
    return found


def _by_tensors(tensors: Sequence[str]) -> list[tuple[ServerVerdict, str]]:
    found = []
    if any(name.endswith(f".{FACTOR_B_BIAS}") for name in tensors):
        found.append((ServerVerdict.REFUSED, "lora_bias: biases of B are not served"))
    ends = (EMBEDDING.rpartition(".")[2], HEAD)
    outer = [end for end in ends if any(f".{end}." in name for name in tensors)]
    if outer:
        found.append((ServerVerdict.DEPENDS, f"updates of {' and '.join(outer)} are served only for some models"))
    return found


def _other_scales(config: Mapping[str, Any]) -> str | None:
    """Why the scales would be wrong: every layer gets only `lora_alpha` and `r`."""
    ranks, alphas = (config.get(name) or {} for name in ("rank_pattern", "alpha_pattern"))
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not ranks and not alphas:
        return None
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1:
        return "rank_pattern and alpha_pattern are not read"
    power = 0.5 if config.get("use_rslora") else 1.0
    for key in (*ranks, *alphas):
        # A key means the paths that end in it, and is such a path itself.
        own = value_of_pattern(alphas, key, alpha) / value_of_pattern(ranks, key, rank) ** power
        if own != alpha / rank**power:
            names = " and ".join(name for name in ("rank_pattern", "alpha_pattern") if config.get(name))
            return (
                f"{names}: not read, so that {key} is scaled by {alpha / rank**power:g} instead of {own:g}; merge it "
                "(veneer export)"
            )
    return None


def _rank(config: Mapping[str, Any]) -> int:
    values = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    return max((value for value in values if isinstance(value, int)), default=0)


def _malformed(config: Mapping[str, Any]) -> str | None:
    """What is wrong with a configuration that PEFT cannot read; other kinds than LoRA may lack rank and alpha."""
    ranks, alphas, saved = (config.get(name) or {} for name in ("rank_pattern", "alpha_pattern", "modules_to_save"))
    if not isinstance(saved or [], list) or not all(isinstance(name, str) for name in saved):
        return "modules_to_save must be a list of names"
    if not isinstance(ranks, dict) or not isinstance(alphas, dict):
        return "rank_pattern and alpha_pattern must be objects"
    lora = config.get("peft_type") == "LORA"
    rank, alpha = ([config.get(name)] if lora else [] for name in ("r", "lora_alpha"))
    if not all(type(value) is int and value > 0 for value in (*rank, *ranks.values())):
        return "r and the values of rank_pattern must be whole numbers above 0"
    if not all(type(value) in (int, float) for value in (*alpha, *alphas.values())):
        return "lora_alpha and the values of alpha_pattern must be numbers"
    keys = tuple(dict.fromkeys((*ranks, *alphas)))
    problems = unusable((), keys, keys)
    return f"a pattern cannot be used: {problems[0]}" if problems else None


def _read(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The configuration of an adapter, and the names of its tensors."""
    try:
        if (folder / CONFIG_FILE).stat().st_size > CONFIG_BYTES:
            raise AdapterError(f"{CONFIG_FILE} has more than {CONFIG_BYTES:,} bytes")
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise AdapterError(f"{CONFIG_FILE} is no object")
        if wrong := _malformed(config):
            raise AdapterError(f"{CONFIG_FILE}: {wrong}")
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            return config, list(file.keys())
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise AdapterError(f"its files cannot be read: {error}") from error
