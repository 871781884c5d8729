"""How a base's linear layers are held, told apart by whatever changes what they compute."""

from __future__ import annotations

import torch

from veneer.config import QuantSection, RunConfig
from veneer.enums import Method, Scheme
from veneer.loading.base_form import BaseForm, form_of, recorded_form

NARROW = torch.bfloat16


def test_whatever_changes_the_codes_is_another_form_with_another_text() -> None:
    settings = (
        QuantSection(), QuantSection(block=128), QuantSection(double_quant=False), QuantSection(scheme=Scheme.FP4),
        QuantSection(scheme=Scheme.INT8), QuantSection(skip_modules=("down_proj",)),
    )  # fmt: skip
    forms = [form_of(Method.QLORA, quant, NARROW) for quant in settings]
    forms += [form_of(Method.QLORA, None, torch.float32), form_of(Method.LORA, None, NARROW)]
    assert len({form.text for form in forms}) == len(forms)
    assert forms[0].text == "nf4, blocks of 64, double quantisation, from bfloat16"
    assert forms[4].text == "int8, from bfloat16"


def test_a_base_that_is_not_quantised_as_it_is_loaded_has_no_text() -> None:
    for method, stored in ((Method.LORA, False), (Method.FULL, False), (Method.QLORA, True)):
        form = form_of(method, QuantSection(), NARROW, stored=stored)
        assert (form, form.text, form.method) == (BaseForm(), "", Method.LORA)


def test_the_form_of_a_run_is_the_one_that_it_recorded() -> None:
    run = RunConfig.model_validate(
        {"model": "m", "output": "o", "data": {"file": "f"}, "method": "qlora", "quant": {"block": 128},
         "compute": {"dtype": "float32"}}
    )  # fmt: skip
    form = recorded_form(run, torch.device("cpu"))
    assert (form.quant, form.rounded, form.method) == (QuantSection(block=128), torch.float32, Method.QLORA)
