"""What a model's weights take is what they take once they are loaded."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch

from tiny import write_model
from veneer.backends.describe import describe_model
from veneer.backends.load import load_language_model
from veneer.config import QuantSection
from veneer.enums import Backend, Method
from veneer.io.checkpoint import open_checkpoint, read_model_config
from veneer.load import WeightForm
from veneer.planning.weights import Held

FORMS = {Method.LORA: WeightForm.FROZEN, Method.QLORA: WeightForm.QUANTIZED}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("weights") / "model", hidden=64)


def held(model: Path, method: Method, dtype: torch.dtype, backend: Backend = Backend.AUTO) -> Held:
    description = describe_model(read_model_config(model), backend)
    return Held(description=description, method=method, dtype=dtype, device="cpu", quant=QuantSection())


@pytest.mark.parametrize(("method", "dtype"), product(FORMS, (torch.float32, torch.bfloat16)))
def test_weights_take_what_is_said(method: Method, dtype: torch.dtype, model: Path) -> None:
    loaded = load_language_model(open_checkpoint(model), form=FORMS[method], dtype=dtype)
    tensors = {id(one): one for one in (*loaded.parameters(), *loaded.buffers())}.values()
    assert held(model, method, dtype).bytes == pytest.approx(sum(one.nbytes for one in tensors), rel=0.02)


@pytest.mark.parametrize("backend", [Backend.AUTO, Backend.HF])
def test_only_what_takes_less_is_proposed(backend: Backend, model: Path) -> None:
    said = held(model, Method.LORA, torch.float32, backend).advice()
    assert "By the plan, the weights of" in said
    assert "--method qlora (" in said
    least = held(model, Method.QLORA, torch.bfloat16, backend)
    assert least.lighter() == []
    assert least.advice().endswith("A smaller model takes less.")
