from __future__ import annotations

import pytest
import torch

from veneer.gpu.transfer import sent


def test_on_the_cpu_it_is_the_tensor_itself() -> None:
    x = torch.arange(4)
    assert sent(x, torch.device("cpu")) is x


def test_a_copy_to_a_card_is_made_from_pinned_memory_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device stands in for a card."""
    asked: list[tuple[object, ...]] = []
    x = torch.arange(4)

    class Pinned:
        def to(self, device: torch.device, non_blocking: bool = False) -> torch.Tensor:
            asked.append((device, non_blocking))
            return x.to(device)

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: Pinned())
    meta = torch.device("meta")
    assert sent(x, meta).device == meta
    assert asked == [(meta, True)]
    assert sent(x.to(meta), meta).device == meta
    assert len(asked) == 1, "what is there already is not pinned"
