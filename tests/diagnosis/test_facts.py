"""What is told of a machine is what is there, and what is used of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from veneer.diagnosis import facts as looking
from veneer.diagnosis.facts import doctor
from veneer.gpu.dispatch import GpuChoice
from veneer.native.functions import KernelProducts


def test_the_facts_of_this_machine_are_gathered() -> None:
    facts = doctor()
    assert facts.measured is None
    assert facts.torch == torch.__version__
    assert facts.threads == torch.get_num_threads()
    assert facts.cores >= 1
    assert facts.disk > 0
    assert facts.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert facts.dtype in ("bfloat16", "float32")
    assert all((facts.kernels_reason, facts.device_reason, facts.dtype_reason, facts.int8_reason, facts.processor))
    assert json.loads(json.dumps(asdict(facts)))["torch"] == torch.__version__


@pytest.mark.parametrize(("flags", "said"), [({"amx_bf16"}, "but it is slower here"), (set(), "the processor has")])
def test_products_in_8_bits_are_told_to_be_slower_where_amx_is(
    flags: set[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "int8_reason", lambda device: None)
    monkeypatch.setattr(looking, "cpu_flags", lambda: frozenset(flags))
    facts = doctor()
    assert facts.int8
    assert facts.int8_reason.startswith(said)


def test_no_kernel_is_told_to_need_more_than_the_processor_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veneer.diagnosis.facts.compiled", lambda: False)  # as on AVX2
    narrow = SimpleNamespace(bfloat16_products=KernelProducts.FLOATS)
    monkeypatch.setattr("veneer.diagnosis.facts.kernels", lambda: narrow)
    facts = doctor()
    assert facts.products.startswith("veneer's kernels in float32")
    for multiplies, said in (
        (True, "in bfloat16"),
        (False, "in bfloat16 by the same kernels, which widen it to float32"),
    ):
        monkeypatch.setattr("veneer.diagnosis.facts.torch_multiplies", lambda dtype, found=multiplies: found)
        assert doctor().products.endswith(said)
    assert facts.attention.startswith("veneer's kernel in float32 products")
    assert facts.decoding.startswith("veneer's compiled step in float32")
    monkeypatch.setattr("veneer.diagnosis.facts.kernels", lambda: None)
    facts = doctor()
    assert all(path.startswith("torch's") for path in (facts.products, facts.attention, facts.decoding))


@pytest.mark.parametrize(
    ("packed", "dtype", "said"),
    [
        (GpuChoice(True, "Triton 3"), torch.bfloat16, "Triton 3; answers are computed from packed weights"),
        (
            GpuChoice(False, "a reason"),
            torch.float16,
            "Triton 3; answers decode packed weights for each token: a reason",
        ),
        (GpuChoice(True, "Triton 3"), torch.float32, "Triton 3"),
    ],
)
def test_it_is_told_what_a_card_computes_answers_from(
    packed: GpuChoice, dtype: torch.dtype, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "packed_choice", lambda device, dtype: packed)
    assert looking._gpu_reason(GpuChoice(True, "Triton 3"), torch.device("cuda"), dtype) == said
    none = GpuChoice(False, "torch sees no CUDA device")
    assert looking._gpu_reason(none, torch.device("cpu"), dtype) == none.reason
