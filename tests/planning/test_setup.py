"""A setup refuses what a run would refuse."""

from __future__ import annotations

import pytest

from plan_setups import setup
from veneer.adapters.spec import LoraSpec
from veneer.enums import Init
from veneer.errors import AdapterError


def test_what_cannot_be_adapted_is_refused_as_it_would_be_in_training() -> None:
    with pytest.raises(AdapterError, match="does not have"):
        setup(lora=LoraSpec(rank=16, alpha=32.0, target_modules=("queries",)))
    with pytest.raises(AdapterError, match="rank 600 exceeds"):
        setup(lora=LoraSpec(rank=600, alpha=32.0, init=Init.PISSA))
