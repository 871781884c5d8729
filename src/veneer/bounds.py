"""Bounds of the numbers in a config.json, checked before anything is made from them.

A file may contain any number. A number of layers or a size that no model has would fill the memory, or run for hours,
before anything compares the tensors with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from veneer.errors import ModelError, listing
from veneer.text.json_numbers import is_whole

LAYERS = 2048
"""Most decoder layers. The largest known models have some hundreds."""
EXPERTS = 8192
"""Most experts of a layer."""
EXPERTS_IN_ALL = 1 << 18
"""Most experts of all layers together, each of which is several modules."""
WIDTH = 1 << 20
"""Largest width of hidden states and of a head, and largest number of heads."""
INNER = 1 << 22
"""Largest inner width of a feed-forward block."""
VOCABULARY = 1 << 24
"""Most tokens of a vocabulary."""
POSITIONS = 1 << 32
"""Longest context, in tokens."""

LIMITS = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok"), EXPERTS),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "head_dim", "kv_channels"), WIDTH),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head", "num_kv_heads"), WIDTH),
    **dict.fromkeys(("intermediate_size", "moe_intermediate_size", "n_inner", "ffn_dim", "d_ff"), INNER),
    **dict.fromkeys(("vocab_size", "padded_vocab_size"), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "sliding_window"), POSITIONS),
}
"""Largest value of each key, by the names of Hugging Face's configurations."""
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Keys whose value is the id of a token, several ids in a list, or null."""
NAMES = ("model_type", "hidden_act", "activation_function", "hidden_activation")
"""Keys whose value is a name."""


def check_numbers(config: Mapping[str, Any]) -> None:
    """Refuse a configuration with numbers that no model has, or names that are not strings.

    Groups of settings in it (`text_config`) are checked too.

    Raises:
        ModelError: there are such values; the message names every key with its value and the limit.
    """
    problems = list(_problems(config, ""))
    if problems:
        raise ModelError(
            f"config.json has values that no model has:\n{listing(problems)}\n"
            "Take the configuration from the model's original repository."
        )


def check_token_ids(config: Mapping[str, Any], file: str) -> None:
    """Refuse values that are not token ids under the keys of token ids.

    Raises:
        ModelError: there are such values; the message names every key with its value.
    """
    problems = list(_other_than_ids(config))
    if problems:
        remedy = "Take the file from the model's original repository."
        raise ModelError(f"{file} has values that no model has:\n{listing(problems)}\n{remedy}")


def ids_given(value: Any) -> list[Any]:
    """The token ids under a key of a configuration, which holds one id, a list of them, or null."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _other_than_ids(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in TOKEN_IDS:
        value = config.get(key)
        if not all(map(is_whole, ids_given(value))):
            yield f"{prefix}{key}: {value!r}, must be a whole number, or a list of them"


def _problems(config: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _problems(value, f"{prefix}{key}.")
        elif key in NAMES and value is not None and not isinstance(value, str):
            yield f"{prefix}{key}: {value!r}, must be a text"
        elif key in LIMITS and isinstance(value, int | float) and not abs(value) <= LIMITS[key]:
            yield f"{prefix}{key}: {_short(value)}, at most {LIMITS[key]:,}"
    yield from _other_than_ids(config, prefix)
    layers, experts = (_number(config, keys) for keys in (_LAYERS, _EXPERTS))
    if layers <= LAYERS and experts <= EXPERTS and layers * experts > EXPERTS_IN_ALL:
        yield f"{prefix}{layers} layers of {experts} experts are {layers * experts:,}, at most {EXPERTS_IN_ALL:,}"


_LAYERS = tuple(key for key, limit in LIMITS.items() if limit == LAYERS)
_EXPERTS = tuple(key for key, limit in LIMITS.items() if limit == EXPERTS and key != "num_experts_per_tok")


def _number(config: Mapping[str, Any], keys: tuple[str, ...]) -> int:
    return max((value for key in keys if isinstance(value := config.get(key), int)), default=0)


def _short(value: float) -> str:
    return (
        f"{value:,}" if abs(value) < 10**18 else f"about {float(value):.0e}" if abs(value) < 10**300 else "beyond all"
    )
