from __future__ import annotations

from pathlib import Path

import pytest

from veneer.io.checkpoint import open_checkpoint
from veneer.loading.load import load_model
from veneer.model.mode import evaluation_mode


@pytest.mark.parametrize("before", [True, False])
def test_the_mode_is_that_of_before_also_behind_an_error(tiny_model: Path, before: bool) -> None:
    model = load_model(open_checkpoint(tiny_model))
    model.train(before)
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert {module.training for module in model.modules()} == {before}
    with pytest.raises(ZeroDivisionError), evaluation_mode(model):
        _ = 1 / 0
    assert {module.training for module in model.modules()} == {before}
