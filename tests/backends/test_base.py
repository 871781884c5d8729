from __future__ import annotations

from dataclasses import fields

import pytest

from veneer.backends.base import CAPABILITIES, Capabilities, capabilities_of
from veneer.enums import Backend


def test_a_record_older_than_the_choice_is_of_the_own_decoder() -> None:
    assert capabilities_of(Backend.AUTO) is CAPABILITIES[Backend.VENEER]


@pytest.mark.parametrize("name", [one.name for one in fields(Capabilities) if one.name != "packages"])
def test_the_own_decoder_does_all_that_transformers_does(name: str) -> None:
    """So that a caller who asks a capability never loses one by the choice of AUTO."""
    own, theirs = (getattr(CAPABILITIES[backend], name) for backend in (Backend.VENEER, Backend.HF))
    assert own >= theirs


def test_the_version_of_transformers_counts_where_it_computes() -> None:
    assert capabilities_of(Backend.HF).packages == ("transformers",)
    assert capabilities_of(Backend.VENEER).packages == ()
