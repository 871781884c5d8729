from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.models.tiny import run_config
from veneer.backends.describe import describe_model
from veneer.config import ComputeSection, QuantSection
from veneer.enums import Backend, Dtype, Method, Scheme
from veneer.exports.inputs import name_of, trained_how
from veneer.exports.request import StoredDtype
from veneer.io.checkpoint import open_checkpoint

COMPUTE = ComputeSection(device="cpu", dtype=Dtype.BFLOAT16)


@pytest.mark.parametrize("recorded", [None, Method.LORA, Method.QLORA])
@pytest.mark.parametrize("asked", [None, Method.LORA, Method.QLORA])
def test_the_base_is_held_as_asked_else_as_recorded_else_as_lora(
    asked: Method | None, recorded: Method | None, tiny_model: Path
) -> None:
    description = describe_model(open_checkpoint(tiny_model), Backend.AUTO)
    run = None
    if recorded is not None:
        scheme = ("quant.scheme=fp4",) if recorded is Method.QLORA else ()
        run = run_config(tiny_model, Path("-"), Path("out"), f"method={recorded.value}", *scheme)
    found = trained_how(run, description, asked, COMPUTE)
    assert found.quantized is ((asked or recorded or Method.LORA) is Method.QLORA)
    assert found.quant == (run.quant if run else QuantSection())
    # The run was in float32; without a run, what is asked for now counts.
    assert found.dtype is (torch.float32 if run else torch.bfloat16)


def test_files_that_are_quantised_say_it_whatever_is_asked(tiny_model: Path) -> None:
    stored = QuantSection(scheme=Scheme.FP4)
    description = replace(describe_model(open_checkpoint(tiny_model), Backend.AUTO), stored=stored)
    found = trained_how(None, description, Method.LORA, COMPUTE)
    assert (found.quantized, found.quant) == (True, stored)


def test_a_dtype_is_named_without_its_library() -> None:
    assert {name_of(getattr(torch, one.value)) for one in StoredDtype if one is not StoredDtype.AUTO} == {
        one.value for one in StoredDtype if one is not StoredDtype.AUTO
    }
