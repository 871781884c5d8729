"""Settings that a config.json may leave out, for the code that computes with them and the code that writes them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

GPT_OSS_SCALING: Mapping[str, Any] = MappingProxyType({
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
})  # fmt: skip
"""The scaling of a gpt-oss whose config.json has none; `{"rope_type": "default"}` means no scaling."""

_POSITIONS, _KEY_HEADS = "max_position_embeddings", "num_key_value_heads"
_SIZES: Mapping[str, Mapping[str, int]] = {
    "mistral": {_POSITIONS: 131_072, _KEY_HEADS: 8},
    "qwen2": {_POSITIONS: 32_768, _KEY_HEADS: 32},
    "qwen3": {_POSITIONS: 32_768, _KEY_HEADS: 32},
    "smollm3": {_POSITIONS: 32_768, _KEY_HEADS: 4},
    "gemma2": {_POSITIONS: 8192, _KEY_HEADS: 4},
    "gemma3_text": {_POSITIONS: 131_072, _KEY_HEADS: 4},
    "phi3": {_POSITIONS: 4096},
    "cohere": {_POSITIONS: 8192},
    "stablelm": {_POSITIONS: 4096, _KEY_HEADS: 32},
    "mixtral": {_POSITIONS: 131_072, _KEY_HEADS: 8},
    "qwen3_moe": {_POSITIONS: 32_768, _KEY_HEADS: 4},
    "gpt_oss": {_POSITIONS: 131_072, _KEY_HEADS: 8},
}
"""The sizes that transformers assumes if a config.json lacks them, by `model_type`, if they are not Llama's."""
_LLAMA_POSITIONS = 2048


def with_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the longest context and the number of key heads if a config.json lacks them, as transformers does.

    A context of null counts as missing. Key heads of null are as many as query heads. Callers that know the number of
    query heads fill them in, also for families that have no other default.
    """
    own = _SIZES.get(str(config.get("model_type")), {})
    full = {**own, **config}
    if full.get(_POSITIONS) is None:
        full[_POSITIONS] = own.get(_POSITIONS, _LLAMA_POSITIONS)
    return full
