"""Every kernel, as it is launched, compiles to machine code for six generations of cards; no card is needed for that.

The interpreter runs kernels as Python and accepts more than the compiler does, so that both are asked.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
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
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.uint8: "u8", torch.int8: "i8",
    torch.int32: "i32", torch.int64: "i64",
}  # fmt: skip
MODULES = ("norm", "elementwise", "quant", "packed", "cross_entropy")
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

    for name in MODULES:
        monkeypatch.setattr(importlib.import_module(f"veneer.gpu.{name}"), "launch_kernel", note)
    return started


def compiled(launch: Launch, capability: int) -> str:
    """The assembly of a launch whose pointers are multiples of 16, and of those sizes that are, which Triton uses."""
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
        if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
            aligned[(index,)] = [["tt.divisibility", 16]]
    assert left == []
    options = {name: value for name, value in constants.items() if name not in fixed} | {"enable_fp_fusion": False}
    made = compile_kernel(
        ASTSource(kernel, signature, fixed, aligned), target=GPUTarget("cuda", capability, 32), options=options
    )
    assert len(made.asm["cubin"]) > 0
    return str(made.asm["ptx"])


def spilled(ptx: str, capability: int, folder: Path) -> int:
    """Bytes that the machine code of an assembly keeps in memory for want of registers, by NVIDIA's assembler."""
    from triton.backends.nvidia.compiler import get_ptxas

    source = folder / "kernel.ptx"
    source.write_text(ptx, encoding="utf-8")
    target = re.findall(r"^\.target (sm_\w+)", ptx, re.MULTILINE)[0]
    done = subprocess.run(
        [get_ptxas(capability).path, "--fmad=false", "--verbose", f"--gpu-name={target}",
         f"--output-file={folder / 'kernel.o'}", source],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", done.stderr)
    assert spills, done.stderr
    return sum(map(int, spills))


def start_all(x: Tensor) -> None:
    """One launch of every kernel and variant; `x` `[4, dim]`, where dim is a multiple of 64."""
    from veneer.gpu import cross_entropy, elementwise, norm, quant
    from veneer.native.stored import Format, NestedScales, StoredMatrix

    dim = x.shape[1]
    statistics, angles, weight = torch.zeros(4), torch.zeros(4, 32), torch.ones(dim)
    norm.wide_norm_forward(x, weight, 1e-6, 1.0)
    norm.wide_norm_backward(x, weight, statistics, x, 1.0)
    elementwise.geglu_forward(x, x)
    elementwise.geglu_backward(x, x, x)
    norm.rms_norm_forward(x, weight, 1e-5)
    norm.add_rms_norm_forward(x, x, weight.to(x.dtype), 1e-5)
    norm.rms_norm_backward(x, weight, statistics, x)
    norm.add_rms_norm_backward(x, weight, statistics, x, x)
    elementwise.swiglu_forward(x, x)
    elementwise.swiglu_backward(x, x, x)
    elementwise.rotate(x.view(4, dim // 64, 64), angles, angles, -1.0)
    packed, table = torch.zeros(2 * dim, dtype=torch.uint8), torch.zeros(256)
    nested = NestedScales(codes=packed, values=table, factors=table, offset=table, block=256)
    for scales in (table, nested):
        weight = StoredMatrix(format=Format.FOUR_BIT, columns=4, depth=dim, codes=packed, values=table, scales=scales)
        quant.dequantize_4bit(weight, x)
    cross_entropy.cross_entropy_in_place(x, torch.zeros(4, dtype=torch.int64))
    cross_entropy.cross_entropy_in_place(x, torch.zeros(4, dtype=torch.int64), gradient=False)


def start_products(x: Tensor, blocks: Sequence[int], rank: int = 16) -> None:
    """Products of `x` with weights of 4 bits, with nested and with plain scales, and of 8 bits."""
    from veneer.gpu.packed import packed_product
    from veneer.native.stored import Format, NestedScales, StoredMatrix

    depth, columns, table = x.shape[1], 4096, torch.zeros(256)
    codes = torch.zeros(64, dtype=torch.uint8)
    nested = NestedScales(codes=codes, values=table, factors=table, offset=table, block=256)
    update = (x[:, :rank], x.new_zeros(columns, rank), 2.0)
    for block in blocks:
        for scales, own in ((nested, update), (table, None)):
            packed_product(
                x,
                StoredMatrix(
                    format=Format.FOUR_BIT, columns=columns, depth=depth, codes=codes, values=table, scales=scales,
                    block=block,
                ),
                None if own is None else table,
                own,
            )  # fmt: skip
    eight_bits = StoredMatrix(
        format=Format.INT8, columns=columns, depth=depth, codes=codes.view(torch.int8), scales=table
    )  # fmt: skip
    packed_product(x, eight_bits, None, (x[:, :64], x.new_zeros(columns, 64), 2.0))


@pytest.mark.parametrize(
    ("dtype", "capability", "dim"),
    [
        # 75: T4 and RTX 20; 80: A100; 86: A10 and RTX 30; 89: L4 and RTX 40; 90: H100; 120: RTX 50.
        (torch.bfloat16, 90, 2304),
        *(
            pytest.param(*more, marks=pytest.mark.slow)
            for more in (
                (torch.float16, 75, 4096), (torch.bfloat16, 80, 4096), (torch.bfloat16, 86, 4096),
                (torch.bfloat16, 89, 4096), (torch.bfloat16, 90, 8192), (torch.bfloat16, 120, 4096),
                (torch.float16, 90, 2304), (torch.float32, 90, 576), (torch.float16, 75, 2304),
            )
        ),
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)  # fmt: skip
def test_every_kernel_compiles_without_spills(
    dtype: torch.dtype,
    capability: int,
    dim: int,
    launches: list[Launch],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    start_all(torch.zeros(4, dim, dtype=dtype))
    assert len(launches) == 15
    for launch in launches:
        ptx = compiled(launch, capability)
        # A product and a sum in one rounding would decode other scales than the reference does.
        assert "fma.rn.f32" not in ptx
        assert "st.global.v" in ptx or launch[2].get("GRADIENT") is False, "stores of 16 bytes"
        assert spilled(ptx, capability, tmp_path) == 0, launch[0]


@pytest.mark.parametrize("vocab", [49_152, 49_155, 128_256, 151_669, 262_144])
def test_the_loss_compiles_for_every_vocabulary_without_spills(
    vocab: int, launches: list[Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from veneer.gpu.cross_entropy import cross_entropy_in_place

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    cross_entropy_in_place(torch.zeros(1, vocab, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.int64))
    assert spilled(compiled(launches[0], 90), 90, tmp_path) == 0


@pytest.mark.parametrize(
    ("dtype", "capability", "depth", "blocks"),
    [
        (torch.bfloat16, 90, 4096, ()),
        *(
            pytest.param(*more, marks=pytest.mark.slow)
            for more in (
                (torch.bfloat16, 80, 4096, (64,)), (torch.float16, 80, 576, (32,)),
                (torch.bfloat16, 86, 4096, (64,)), (torch.bfloat16, 89, 14_336, (4096,)),
                (torch.bfloat16, 90, 4096, (32, 64)), (torch.bfloat16, 120, 2304, (64,)),
            )
        ),
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)  # fmt: skip
def test_products_with_packed_weights_compile_without_spills(
    dtype: torch.dtype,
    capability: int,
    depth: int,
    blocks: tuple[int, ...],
    launches: list[Launch],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    start_products(torch.zeros(3, depth, dtype=dtype), blocks)
    assert len(launches) == 1 + 2 * len(blocks)
    for launch in launches:
        ptx = compiled(launch, capability)
        assert "fma.rn.f32" not in ptx
        assert "mma.sync" in ptx, "tensor cores multiply"
        assert "ld.global.v4" in ptx, "codes are read in 16 bytes"
        assert spilled(ptx, capability, tmp_path) == 0, launch[2]


@pytest.mark.parametrize("block", [32, 64, 4096])
def test_decoding_compiles_for_every_block_without_spills(
    block: int, launches: list[Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from veneer.gpu.quant import dequantize_4bit
    from veneer.native.stored import Format, NestedScales, StoredMatrix

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    packed, table = torch.zeros(64, dtype=torch.uint8), torch.zeros(256)
    nested = NestedScales(codes=packed, values=table, factors=table, offset=table, block=256)
    weight = StoredMatrix(
        format=Format.FOUR_BIT, columns=3, depth=43, codes=packed, values=table, scales=nested, block=block
    )
    dequantize_4bit(weight, torch.zeros(3, 43).bfloat16())
    assert spilled(compiled(launches[0], 80), 80, tmp_path) == 0


def stub_driver() -> Any:
    """A driver of Triton's that names a card which is not there, and starts nothing."""
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import DriverBase

    class Stub(DriverBase):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        @classmethod
        def is_active(cls) -> bool:
            return True

        def map_python_to_cpp_type(self, ty: str) -> str:
            return ty

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", 90, 32)

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cuda", 0)

        def get_benchmarker(self) -> None:
            return None

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

    return Stub()


@pytest.mark.slow
@pytest.mark.parametrize("dim", [64, 192])
def test_tritons_own_launcher_takes_every_launch(dim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the driver, which is a stub: arguments are bound, specialised by their values and compiled for."""
    import triton

    bound: list[str] = []

    def launch(
        kernel: Any, grid: tuple[int, ...], on: Tensor, arguments: Sequence[object], constants: Mapping[str, int]
    ) -> None:
        made = kernel.warmup(*arguments, grid=grid, **constants, enable_fp_fusion=False)
        assert len(made.asm["cubin"]) > 0
        assert made.metadata.num_warps == constants["num_warps"]
        bound.append(kernel.__name__)

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for name in MODULES:
        monkeypatch.setattr(importlib.import_module(f"veneer.gpu.{name}"), "launch_kernel", launch)
    monkeypatch.setattr(triton.runtime.driver, "_active", stub_driver())
    start_all(torch.zeros(4, dim, dtype=torch.bfloat16))
    start_products(torch.zeros(3, dim, dtype=torch.bfloat16), (32,))
    # Triton takes a number that is 1 for a constant.
    start_products(torch.zeros(1, dim, dtype=torch.bfloat16), (64,), rank=1)
    assert len(bound) == 15 + 3 + 3
