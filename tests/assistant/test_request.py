"""What is asked for comes before what the adapter's run recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from veneer.assistant.request import AssistantRequest, assistant_request, backend_of, method_of
from veneer.config import ComputeSection, parse
from veneer.enums import Backend, Method
from veneer.errors import ConfigError


def test_a_request_goes_before_the_record_of_a_run_and_that_before_the_defaults() -> None:
    run = parse({"model": "m", "output": "o", "data": {"file": "f"}, "method": "qlora", "backend": "hf"}, where="run")
    open_request = AssistantRequest(model="m")
    assert (method_of(open_request, None), backend_of(open_request, None)) == (Method.LORA, Backend.AUTO)
    assert (method_of(open_request, run), backend_of(open_request, run)) == (Method.QLORA, Backend.HF)
    asked = AssistantRequest(model="m", method=Method.FULL, backend=Backend.VENEER)
    assert (method_of(asked, run), backend_of(asked, run)) == (Method.FULL, Backend.VENEER)


def test_names_become_what_they_name_and_unknown_ones_are_refused() -> None:
    made = assistant_request(Path("m"), "a", "qlora", None, backend="hf")
    assert made == AssistantRequest(
        model="m", adapter=Path("a"), method=Method.QLORA, compute=ComputeSection(), backend=Backend.HF
    )
    with pytest.raises(ConfigError, match=r"method.*qlorra.*qlora"):
        assistant_request("m", None, "qlorra", None)
    with pytest.raises(ConfigError, match=r"backend.*hfs"):
        assistant_request("m", None, None, None, backend="hfs")
