"""When a card multiplies by packed weights, and why not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from veneer.gpu import few_rows
from veneer.gpu.dispatch import GpuChoice
from veneer.gpu.few_rows import packed_choice, packed_product
from veneer.quant.four_bit import QuantLinear

CARD = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def fresh_choice(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A card with Triton, on which nothing has been tried."""
    monkeypatch.setattr(few_rows, "triton_choice", lambda device: GpuChoice(True, "Triton 3"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    packed_choice.cache_clear()
    yield
    packed_choice.cache_clear()


def test_it_is_tried_once_for_each_card_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[tuple[torch.device, torch.dtype]] = []

    def right(device: torch.device, dtype: torch.dtype) -> bool:
        tries.append((device, dtype))
        return dtype == torch.bfloat16

    monkeypatch.setattr(few_rows, "is_right", right)
    asked = [(CARD, torch.bfloat16), (CARD, torch.float16), (torch.device("cuda", 1), torch.bfloat16)]
    for device, dtype in asked * 2:
        found = packed_choice(device, dtype)
        assert found.used is (dtype == torch.bfloat16)
    assert tries == asked
    reason = "Triton 3 cannot multiply packed weights here (its result is wrong)"
    assert packed_choice(CARD, torch.float16) == GpuChoice(False, reason)


def test_what_the_trial_meets_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(device: torch.device, dtype: torch.dtype) -> bool:
        raise RuntimeError("out of resource: shared memory\nmore")

    monkeypatch.setattr(few_rows, "is_right", broken)
    found = packed_choice(CARD, torch.bfloat16)
    assert not found.used
    assert found.reason.endswith("here (RuntimeError: out of resource: shared memory)")


def test_a_full_card_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(device: torch.device, dtype: torch.dtype) -> bool:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(few_rows, "is_right", full)
    with pytest.raises(torch.OutOfMemoryError):
        packed_choice(CARD, torch.bfloat16)
    monkeypatch.setattr(few_rows, "is_right", lambda device, dtype: True)
    assert packed_choice(CARD, torch.bfloat16).used


def test_cards_before_ampere_and_without_triton_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    reason = "cuda:0 has compute capability 7.5; products of packed weights need 8.0"
    assert packed_choice(CARD, torch.float16) == GpuChoice(False, reason)
    packed_choice.cache_clear()
    none = GpuChoice(False, "Triton cannot be imported; install veneer[gpu]")
    monkeypatch.setattr(few_rows, "triton_choice", lambda device: none)
    assert packed_choice(CARD, torch.float16) == none


def test_a_weight_whose_trial_failed_must_be_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[torch.dtype] = []

    def wrong(device: torch.device, dtype: torch.dtype) -> bool:
        tries.append(dtype)
        return False

    monkeypatch.setattr(few_rows, "triton_accepts", lambda x: True)
    monkeypatch.setattr(few_rows, "triton_kernels", lambda x: pytest.fail("the kernel must not be asked for"))
    monkeypatch.setattr(few_rows, "is_right", wrong)
    weight = QuantLinear.from_weight(torch.randn(8, 64)).weight_as_stored()
    assert packed_product(torch.randn(3, 64).bfloat16(), weight, None, None) is None
    assert tries == [torch.bfloat16]
