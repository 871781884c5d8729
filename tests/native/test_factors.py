from __future__ import annotations

import torch

from veneer.native.factors import LayerFactors, StepFactors


def test_bytes_are_those_of_every_tensor() -> None:
    narrow = LayerFactors(down=torch.zeros(4, 64).bfloat16(), up=torch.zeros(4, 32).bfloat16(), scale=2.0)
    wide = LayerFactors(down=torch.zeros(8, 10), up=torch.zeros(8, 20), scale=1.0, bias=torch.zeros(20))
    assert StepFactors(layers={"a": narrow, "b": wide}).nbytes == 2 * 4 * 96 + 4 * (8 * 30 + 20)
    assert StepFactors(layers={}).nbytes == 0
