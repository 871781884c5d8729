from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from veneer.gpu import launch as module
from veneer.gpu.launch import launch_kernel, next_power_of_two, warps


def test_a_power_of_two_is_the_smallest_that_is_large_enough() -> None:
    for size in (*range(1, 70), 4095, 4096, 4097, 2**31 - 1):
        found = next_power_of_two(size)
        assert found.bit_count() == 1
        assert found // 2 < size <= found
    assert next_power_of_two(0) == 1


@pytest.mark.parametrize(("elements", "expected"), [(1, 1), (512, 1), (513, 2), (1024, 2), (4096, 8), (2**20, 16)])
def test_warps_have_sixteen_elements_a_thread(elements: int, expected: int) -> None:
    assert warps(elements) == expected


def test_a_kernel_starts_on_the_device_of_its_tensor_and_fuses_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's way of starting a kernel, `kernel[grid](…)`, without a card."""
    started: list[tuple[object, ...]] = []
    entered: list[torch.Tensor] = []

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *arguments, **constants: started.append((grid, arguments, constants, len(entered)))

    class OnDevice:
        def __init__(self, on: torch.Tensor):
            self.on = on

        def __enter__(self) -> None:
            entered.append(self.on)

        def __exit__(self, *error: object) -> None:
            entered.pop()

    monkeypatch.setattr(module.torch.cuda, "device_of", OnDevice)
    x = torch.zeros(3)
    launch_kernel(Kernel(), (3, 2), x, (x, 1.5), {"num_warps": 4, "BLOCK": 64})
    constants = {"num_warps": 4, "BLOCK": 64, "enable_fp_fusion": False}
    assert started == [((3, 2), (x, 1.5), constants, 1)]
    assert entered == []
