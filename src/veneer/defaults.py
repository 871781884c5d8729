"""Settings that a config.json may leave out, for those who compute with them and those who write them into a file."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

GPT_OSS_SCALING: Mapping[str, Any] = MappingProxyType({
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
})  # fmt: skip
"""The scaling of a gpt-oss without one; `{"rope_type": "default"}` says that there is none."""
