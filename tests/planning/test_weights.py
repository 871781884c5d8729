"""What a model's weights take is what they take once they are loaded."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType

from helpers.gguf.files import tiny_model as tiny_gguf_model
from helpers.gguf.files import write_model as write_gguf
from helpers.models.tiny import write_model
from veneer.backends.describe import describe_model
from veneer.backends.load import load_language_model
from veneer.config import QuantSection
from veneer.enums import Backend, Method
from veneer.io.checkpoint import open_checkpoint, read_model_config
from veneer.loading.forms import TableForm, WeightForm
from veneer.loading.how import Loading
from veneer.planning.weights import Held
from veneer.quant.packed import PackedLinear
from veneer.quant.tables import BlockEmbedding, BlockHead

FORMS = {Method.LORA: WeightForm.FROZEN, Method.QLORA: WeightForm.QUANTIZED}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("weights") / "model", hidden=64)


def held(model: Path, method: Method, dtype: torch.dtype, backend: Backend = Backend.AUTO) -> Held:
    description = describe_model(read_model_config(model), backend)
    return Held(description=description, method=method, dtype=dtype, device="cpu", quant=QuantSection())


@pytest.mark.parametrize(("method", "dtype"), product(FORMS, (torch.float32, torch.bfloat16)))
def test_weights_take_what_is_said(method: Method, dtype: torch.dtype, model: Path) -> None:
    loaded = load_language_model(open_checkpoint(model), how=Loading(form=FORMS[method], dtype=dtype))
    tensors = {id(one): one for one in (*loaded.parameters(), *loaded.buffers())}.values()
    assert held(model, method, dtype).bytes == pytest.approx(sum(one.nbytes for one in tensors), rel=0.02)


@pytest.mark.parametrize("backend", [Backend.AUTO, Backend.HF])
def test_only_what_takes_less_is_proposed(backend: Backend, model: Path) -> None:
    said = held(model, Method.LORA, torch.float32, backend).advice()
    assert "By the plan, the weights of" in said
    assert "--method qlora (" in said
    least = held(model, Method.QLORA, torch.bfloat16, backend)
    assert least.lighter() == []
    assert least.advice().endswith("A smaller model needs less.")


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
@pytest.mark.parametrize("settings", [{}, {"skip_modules": ("o_proj",)}])
@pytest.mark.parametrize(("method", "dtype"), product(FORMS, (torch.float32, torch.bfloat16)))
def test_blocks_of_a_gguf_file_are_counted_as_they_are_held(
    method: Method, dtype: torch.dtype, settings: dict[str, tuple[str, ...]], kind: str, tmp_path: Path
) -> None:
    file, quant = tmp_path / "m.gguf", QuantSection.model_validate(settings)
    write_gguf(file, tiny_gguf_model(), GGMLQuantizationType[kind])
    stored = TableForm.STORED
    loaded = load_language_model(
        open_checkpoint(file), how=Loading(form=FORMS[method], dtype=dtype, quant=quant, tables=stored)
    )
    packed = sum(module.nbytes for module in loaded.modules() if isinstance(module, PackedLinear))
    ends = (one for one in loaded.modules() if isinstance(one, BlockEmbedding | BlockHead))
    packed += sum(one.table.blocks.nbytes for one in ends)
    description = describe_model(read_model_config(file), Backend.AUTO)
    said = Held(description=description, method=method, dtype=dtype, device="cpu", quant=quant).bytes
    assert said == sum(one.nbytes for one in loaded.parameters()) + packed
