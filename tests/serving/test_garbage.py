"""What is loaded stands still for the collector while the server runs, and for no longer."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from veneer.config import ComputeSection
from veneer.serving.garbage import loaded_objects_left_out
from veneer.serving.run import serve


@pytest.fixture
def thawed() -> Iterator[None]:
    """Nothing is frozen before a test; afterwards there is what the tests had frozen (`conftest.py`)."""
    before = gc.get_freeze_count()
    gc.unfreeze()
    yield
    gc.unfreeze()
    if before:
        gc.freeze()


class Knot:
    """An object that refers to itself, so that the collector alone can take it away."""

    def __init__(self) -> None:
        self.itself = self


def knots() -> int:
    return sum(isinstance(one, Knot) for one in gc.get_objects())


def test_what_was_there_before_is_left_out_and_what_comes_is_collected(thawed: None) -> None:
    kept = Knot()
    with loaded_objects_left_out():
        assert knots() == 0
        Knot()
        assert knots() == 1
        gc.collect()
        assert knots() == 0
    assert not gc.get_freeze_count()
    assert knots() == 1
    assert kept.itself is kept


def test_what_the_program_has_frozen_stays_frozen(thawed: None) -> None:
    kept = Knot()
    gc.freeze()
    with loaded_objects_left_out():
        pass
    assert knots() == 0
    assert kept.itself is kept


def test_a_server_leaves_out_its_model(tiny_model: Path, thawed: None) -> None:
    found: list[int] = []
    compute = ComputeSection(device="cpu", dtype="float32")
    serve(
        str(tiny_model),
        port=0,
        compute=compute,
        on_start=lambda serving: found.append(gc.get_freeze_count()),
        stop=lambda: True,
    )
    assert found[0] > 10_000
    assert not gc.get_freeze_count()
