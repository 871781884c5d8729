"""Every kernel, as it is launched, compiles to machine code for two generations of cards; no card is needed for that.

The interpreter runs kernels as Python and accepts more than the compiler does, so that both are asked.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this process interprets"),
]

NAMES = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.uint8: "u8", torch.int64: "i64",
}  # fmt: skip
Launch = tuple[Any, Sequence[object], Mapping[str, int]]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """What the functions under test would start."""
    started: list[Launch] = []

    def note(
        kernel: Any, grid: tuple[int, ...], on: Tensor, arguments: Sequence[object], constants: Mapping[str, int]
    ) -> None:
        assert all(1 <= size < 2**31 for size in grid)
        started.append((kernel, arguments, constants))

    for name in ("norm", "elementwise", "quant", "cross_entropy"):
        monkeypatch.setattr(importlib.import_module(f"veneer.gpu.{name}"), "launch", note)
    return started


def compiled(launch: Launch, capability: int) -> str:
    """The assembly of a launch whose pointers and sizes are multiples of 16, which is what Triton specialises on."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compile_kernel

    kernel, arguments, constants = launch
    signature, fixed, aligned, left = {}, {}, {}, list(arguments)
    for index, parameter in enumerate(kernel.params):
        if parameter.is_constexpr:
            signature[parameter.name], fixed[parameter.name] = "constexpr", constants[parameter.name]
            continue
        value = left.pop(0)
        if isinstance(value, Tensor):
            signature[parameter.name] = f"*{NAMES[value.dtype]}"
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
        if not isinstance(value, float):
            aligned[(index,)] = [["tt.divisibility", 16]]
    assert left == []
    options = {name: value for name, value in constants.items() if name not in fixed} | {"enable_fp_fusion": False}
    made = compile_kernel(
        ASTSource(kernel, signature, fixed, aligned), target=GPUTarget("cuda", capability, 32), options=options
    )
    assert len(made.asm["cubin"]) > 0
    return str(made.asm["ptx"])


def start_all(x: Tensor) -> None:
    """One launch of every kernel and variant; `x` `[4, 4096]`."""
    from veneer.gpu import cross_entropy, elementwise, norm, quant

    statistics, angles, weight = torch.zeros(4), torch.zeros(4, 64), torch.ones(4096)
    norm.rms_norm_forward(x, weight, 1e-5)
    norm.add_rms_norm_forward(x, x, weight.to(x.dtype), 1e-5)
    norm.rms_norm_backward(x, weight, statistics, x)
    norm.add_rms_norm_backward(x, weight, statistics, x, x)
    elementwise.swiglu_forward(x, x)
    elementwise.swiglu_backward(x, x, x)
    elementwise.rotate(x.view(4, 32, 128), angles, angles, -1.0)
    packed, table = torch.zeros(2 * 4096, dtype=torch.uint8), torch.zeros(256)
    quant.dequantize_4bit(packed, table, table, 64, x)
    quant.dequantize_4bit_nested(packed, table, packed, table, table, table, 64, 256, x)
    cross_entropy.cross_entropy_in_place(x, torch.zeros(4, dtype=torch.int64))
    cross_entropy.cross_entropy_in_place(x, torch.zeros(4, dtype=torch.int64), gradient=False)


@pytest.mark.parametrize(
    ("dtype", "capability"),
    [(torch.bfloat16, 80), (torch.bfloat16, 90), (torch.float16, 90), (torch.float32, 90)],
    ids=["bfloat16-80", "bfloat16-90", "float16-90", "float32-90"],
)
def test_every_kernel_compiles(
    dtype: torch.dtype, capability: int, launches: list[Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    start_all(torch.zeros(4, 4096, dtype=dtype))
    assert len(launches) == 11
    for launch in launches:
        ptx = compiled(launch, capability)
        # A product and a sum in one rounding would decode other scales than the reference does.
        assert "fma.rn.f32" not in ptx
        assert "st.global.v" in ptx or launch[2].get("GRADIENT") is False, "stores of 16 bytes"
