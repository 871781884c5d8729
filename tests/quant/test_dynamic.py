"""The dynamic maps are bitsandbytes', and every code is the nearest."""

from __future__ import annotations

import hashlib

import pytest
import torch
from bitsandbytes.functional import create_dynamic_map

from veneer.quant.dynamic import ELEMENTS_PER_SCALE, DynamicMap, decode, encode, map_values, scales_of

MAPS = list(DynamicMap)


def codes_of(values: torch.Tensor, which: DynamicMap) -> tuple[torch.Tensor, torch.Tensor]:
    codes = torch.empty(len(values), dtype=torch.uint8)
    absmax = torch.empty(scales_of(len(values)))
    encode(values.clone(), which, codes, absmax)
    return codes, absmax


@pytest.mark.parametrize("which", MAPS)
def test_the_values_are_bitsandbytes(which: DynamicMap) -> None:
    assert torch.equal(map_values(which), create_dynamic_map(signed=which is DynamicMap.SIGNED))


def test_the_signed_map_has_the_bytes_of_files() -> None:
    values = map_values(DynamicMap.SIGNED)
    assert hashlib.sha256(values.numpy().tobytes()).hexdigest().startswith("e732639a65f497b4")
    assert values[127] == 0


def hard_values(which: DynamicMap) -> torch.Tensor:
    """The map's values, the midpoints between them and the floats on either side, both zeros, subnormals, and others of
    every magnitude; each block has a 1, so that nothing is scaled."""
    values = map_values(which)
    middles = ((values.double()[1:] + values.double()[:-1]) / 2).float()
    sides = [torch.nextafter(middles, torch.full_like(middles, to)) for to in (-2.0, 2.0)]
    generator = torch.Generator().manual_seed(1)
    spread = 10 ** (9 * torch.rand(20_000, generator=generator) - 9) * torch.randn(20_000, generator=generator).sign()
    tiny = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 1e-39])
    found = torch.cat([values, middles, *sides, spread, tiny])
    found = (found.abs() if which is DynamicMap.UNSIGNED else found).clamp(-1, 1)
    free = ELEMENTS_PER_SCALE - 1
    blocks = torch.nn.functional.pad(found, (0, -len(found) % free)).view(-1, free)
    return torch.cat([blocks, torch.ones(len(blocks), 1)], dim=1).view(-1)


@pytest.mark.parametrize("which", MAPS)
def test_every_code_is_the_nearest_and_ties_go_down(which: DynamicMap) -> None:
    hard = hard_values(which)
    codes, absmax = codes_of(hard, which)
    exact = map_values(which).double()
    assert torch.equal(absmax, torch.ones_like(absmax))
    assert torch.equal(codes.long(), torch.bucketize(hard.double(), (exact[1:] + exact[:-1]) / 2))
    distances = (hard.double().unsqueeze(1) - exact).abs()
    assert torch.equal(distances.gather(1, codes.long().unsqueeze(1)).squeeze(1), distances.min(dim=1).values)


@pytest.mark.parametrize("which", MAPS)
@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000])
def test_values_that_the_map_has_come_back(which: DynamicMap, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    codes = torch.randint(0, 256, (count,), generator=generator).to(torch.uint8)
    codes[::ELEMENTS_PER_SCALE] = 255  # the 1 of each block
    scales = torch.rand(scales_of(count), generator=generator) + 0.5
    values = decode(codes, scales, which)
    again, absmax = codes_of(values, which)
    assert torch.equal(absmax, scales)
    assert torch.equal(decode(again, absmax, which), values)


@pytest.mark.parametrize("which", MAPS)
def test_a_block_of_zeros_stays_zero(which: DynamicMap) -> None:
    values = torch.zeros(300)
    values[256:] = 1e-20
    codes, absmax = codes_of(values, which)
    assert torch.equal(decode(codes, absmax, which), values)


@pytest.mark.parametrize("which", MAPS)
def test_the_same_numbers_are_nearer_than_with_bitsandbytes(which: DynamicMap) -> None:
    """Its table has 65,536 entries of equal width, wider than the gaps near zero."""
    from bitsandbytes.functional import dequantize_blockwise, quantize_blockwise

    generator = torch.Generator().manual_seed(3)
    values = torch.randn(4096, generator=generator) ** 3
    values = values.square() if which is DynamicMap.UNSIGNED else values
    codes, absmax = codes_of(values, which)
    theirs = dequantize_blockwise(*quantize_blockwise(values, code=map_values(which), blocksize=ELEMENTS_PER_SCALE))
    ours = decode(codes, absmax, which)
    slack = 1e-6 * absmax.repeat_interleave(ELEMENTS_PER_SCALE)
    assert bool(((ours - values).abs() <= (theirs - values).abs() + slack).all())
