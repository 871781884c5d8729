"""A configuration's values for a test, and how they are refused."""

from __future__ import annotations

from typing import Any

import pytest

from veneer.config import parse
from veneer.errors import ConfigError


def values(**sections: Any) -> dict[str, Any]:
    return {"model": "m", "output": "o", "data": {"file": "f.jsonl"}, **sections}


def refusal(given_values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(given_values, where="run.yaml")
    return str(caught.value)
