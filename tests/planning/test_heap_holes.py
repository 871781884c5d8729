"""Holes in the heap grow with what a step moves, and are another share of it for every way to train."""

from __future__ import annotations

import pytest
import torch

from helpers.training.plan_setups import setup
from veneer.adapters.spec import LoraSpec
from veneer.enums import Method, ObjectiveName, Variant
from veneer.native.processor import AMX_FLAG
from veneer.planning.heap_holes import FACTORS_SHARE, GPU_HEAP_SHARE, HEAP_SHARE, heap_holes
from veneer.planning.memory import MB
from veneer.planning.setup import Setup

MOVING = 1000 * MB


def share(of: Setup, *, recompute: bool = False) -> float:
    """The share of what moves, without the holes of an adapter's gradients."""
    return (heap_holes(of, MOVING, recompute=recompute) - heap_holes(of, 0, recompute=recompute)) / MOVING


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_holes_are_a_share_of_what_moves_and_of_the_gradients_of_factors(dtype: torch.dtype) -> None:
    of = setup(dtype=dtype)
    assert share(of) == pytest.approx(HEAP_SHARE[dtype.itemsize])
    assert heap_holes(of, 0, recompute=False) == int(4 * of.adapter_weights * FACTORS_SHARE)
    assert share(of, recompute=True) > share(of) > share(setup(method=Method.FULL, dtype=dtype))
    assert share(setup(dtype=dtype, lora=LoraSpec(rank=16, alpha=32.0, variant=Variant.DORA))) < share(of)


def test_a_gpus_allocator_leaves_one_share_of_them_whatever_is_trained() -> None:
    for method in Method:
        assert heap_holes(setup(method=method, device="cuda"), MOVING, recompute=True) == GPU_HEAP_SHARE * MOVING


def test_a_processor_with_amx_leaves_more_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = setup(dtype=torch.float32, objective=ObjectiveName.DPO)
    full = setup(method=Method.FULL)
    found = []
    for flags in (frozenset[str](), frozenset({AMX_FLAG})):
        monkeypatch.setattr("veneer.planning.heap_holes.cpu_flags", lambda flags=flags: flags)
        found.append((share(pairs), share(full, recompute=True), share(setup())))
    without, with_amx = found
    assert without[0] < with_amx[0]
    assert without[1] < with_amx[1]
    assert without[2] == with_amx[2]
