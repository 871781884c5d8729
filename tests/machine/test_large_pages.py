"""Memory for large weights: the numbers, no byte more, and pages of 2 MB where the system has them."""

from __future__ import annotations

import gc
import itertools
import re
import sys
from pathlib import Path

import pytest
import torch

from veneer.machine.large_pages import LARGE_PAGE, LEAST, LINE, PIECE, SMALLEST, Slab, copied, room_for

MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
linux = pytest.mark.skipif(sys.platform != "linux", reason="large pages are asked for on Linux alone")


def bytes_of_this_process(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [0, 1, 7, 40_003])
def test_a_copy_has_the_numbers_that_torch_rounds_to(rows: int, dtype: torch.dtype) -> None:
    weight = torch.randn(65, rows).T  # not contiguous, as a slice of a file may be
    found = copied(weight, dtype)
    assert found.is_contiguous()
    assert found.untyped_storage().nbytes() == weight.numel() * dtype.itemsize
    assert torch.equal(found, weight.to(dtype))


@linux
def test_a_large_tensor_begins_with_a_page_and_a_small_one_shares_the_heap() -> None:
    large = room_for((SMALLEST,), torch.uint8)
    assert large.data_ptr() % LARGE_PAGE == 0
    assert room_for((SMALLEST - 1,), torch.uint8).numel() == SMALLEST - 1


@linux
@pytest.mark.skipif(
    not MODE.is_file() or "[never]" in MODE.read_text(), reason="this system gives no large pages to anybody"
)
def test_whole_pages_are_large_the_rest_is_not_and_all_goes_back() -> None:
    before = bytes_of_this_process("AnonHugePages"), bytes_of_this_process("Rss")
    size = 16 * LARGE_PAGE + LARGE_PAGE // 2
    weight = room_for((size,), torch.uint8).fill_(1)
    gained = bytes_of_this_process("AnonHugePages") - before[0]
    if gained == 0:
        pytest.skip("the system has no two megabytes in one piece at the moment")
    assert gained <= 16 * LARGE_PAGE
    assert bytes_of_this_process("Rss") - before[1] < size + LARGE_PAGE // 4
    del weight
    gc.collect()
    assert bytes_of_this_process("AnonHugePages") < before[0] + LARGE_PAGE


@linux
def test_a_view_outlives_the_tensor_it_was_taken_of() -> None:
    row = copied(torch.arange(3_000_000), torch.float32)[-1:]
    gc.collect()
    assert row.item() == 2_999_999


@linux
def test_small_tensors_stand_in_one_piece_each_with_a_storage_of_its_own() -> None:
    slab = Slab()
    sizes = [LEAST, LEAST + 7, 500_001, SMALLEST - 1]
    tensors = [torch.randint(256, (size,), dtype=torch.uint8) for size in sizes]
    found = [slab.copied(tensor) for tensor in tensors]
    assert found[0].data_ptr() % LARGE_PAGE == 0
    for own, tensor in zip(found, tensors, strict=True):
        assert torch.equal(own, tensor)
        assert own.untyped_storage().nbytes() == tensor.nbytes
        assert own.data_ptr() % LINE == 0
        assert 0 <= own.data_ptr() - found[0].data_ptr() < PIECE
    assert all(one.data_ptr() + one.nbytes <= two.data_ptr() for one, two in itertools.pairwise(found))


@linux
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_a_copy_in_a_slab_has_shape_dtype_and_numbers(dtype: torch.dtype) -> None:
    weight = (100 * torch.randn(65, 83)).abs().to(dtype).T  # not contiguous
    found = Slab().copied(weight)
    assert (found.shape, found.dtype, found.is_contiguous()) == (weight.shape, dtype, True)
    assert torch.equal(found, weight)


@linux
def test_a_slab_goes_on_in_a_new_piece_and_leaves_what_needs_no_place_in_it() -> None:
    slab = Slab()
    size = SMALLEST - LINE
    found = [slab.copied(torch.full((size,), number, dtype=torch.uint8)) for number in range(PIECE // SMALLEST + 2)]
    assert [int(one.max()) for one in found] == [int(one.min()) for one in found] == list(range(len(found)))
    tiny, large = torch.ones(LEAST - 1, dtype=torch.uint8), room_for([SMALLEST], torch.uint8)
    assert slab.copied(tiny) is tiny
    assert slab.copied(large) is large
    apart = slab.copied(torch.ones(SMALLEST + 1, dtype=torch.uint8)[1:])
    assert apart.data_ptr() % LARGE_PAGE == 0


@linux
def test_a_piece_goes_back_with_its_last_tensor() -> None:
    slab = Slab()
    kept = slab.copied(torch.arange(40_000))
    before = bytes_of_this_process("Rss")
    others = [slab.copied(torch.ones(SMALLEST // 2, dtype=torch.uint8)) for _ in range(40)]
    assert bytes_of_this_process("Rss") - before > 60 * LARGE_PAGE // 2
    del others, slab
    gc.collect()
    assert bytes_of_this_process("Rss") - before < PIECE + LARGE_PAGE
    assert torch.equal(kept, torch.arange(40_000))
