from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from veneer.enums import Dtype, Products
from veneer.errors import ConfigError
from veneer.machine import hardware
from veneer.machine.hardware import (
    check_products,
    computing_on,
    cpu_flags,
    processor,
    resolve_device,
    resolve_dtype,
    timed,
)
from veneer.native.library import KernelChoice

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "name",
    ["gpu", "CPU", "", " cpu", "cpu:", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "cuda:٣", "cuda:0:1", "mps",
     "meta", "cpu\n"],
)  # fmt: skip
def test_a_device_of_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_device(name)
    assert repr(name) in str(caught.value)
    assert "use auto, cpu, cuda or cuda:N" in str(caught.value)


def test_the_cpu_is_always_there() -> None:
    assert resolve_device("cpu") == CPU


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert resolve_device("auto").type == kind


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert resolve_device("cuda") == torch.device("cuda")
    with pytest.raises(ConfigError, match="torch sees 2 CUDA devices on this machine; use cpu, or cuda:0 to cuda:1"):
        resolve_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="torch sees 1 CUDA device on this machine; use cpu, or cuda:0"):
        resolve_device("cuda:1")


X86 = "processor\t: 0\nvendor_id\t: x\nflags\t\t: fpu avx2 avx512f {}\nprocessor\t: 1\nflags\t\t: other\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd {}\n"


def test_flags_are_those_of_the_first_processor(tmp_path: Path) -> None:
    (tmp_path / "x86").write_text(X86.format("amx_bf16"))
    (tmp_path / "arm").write_text(ARM.format("bf16"))
    (tmp_path / "odd").write_bytes(b"\xff\xff\nno colon\n")
    assert cpu_flags(tmp_path / "x86") == {"fpu", "avx2", "avx512f", "amx_bf16"}
    assert cpu_flags(tmp_path / "arm") == {"fp", "asimd", "bf16"}
    assert cpu_flags(tmp_path / "odd") == frozenset()
    assert cpu_flags(tmp_path / "absent") == frozenset()


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [
        ({"avx2"}, torch.float32),
        ({"avx2", "avx512f"}, torch.float32),
        ({"avx512_bf16"}, torch.bfloat16),
        ({"amx_bf16"}, torch.bfloat16),
        ({"asimd", "bf16"}, torch.bfloat16),
        (set(), torch.float32),
    ],
)
def test_auto_is_bfloat16_only_where_it_is_native(
    flags: set[str], chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset(flags))
    assert resolve_dtype(Dtype.AUTO, CPU) is chosen
    assert resolve_dtype(Dtype.FLOAT32, CPU) is torch.float32
    assert resolve_dtype(Dtype.BFLOAT16, CPU) is torch.bfloat16
    assert resolve_dtype(Dtype.FLOAT16, CPU) is torch.float16


class WithInt8:
    has_int8 = True


class WithoutInt8:
    has_int8 = False


@pytest.mark.parametrize(
    ("device", "flags", "native", "missing"),
    [
        ("cuda:0", {"avx512_vnni"}, WithInt8(), "works only on the CPU, but the device is cuda:0"),
        ("cpu", {"avx2", "avx_vnni"}, WithInt8(), "needs a processor with AVX-512 VNNI"),
        ("cpu", set(), None, "needs a processor with AVX-512 VNNI"),
        ("cpu", {"avx512_vnni"}, None, "here they are not compiled"),
        ("cpu", {"avx512_vnni"}, WithoutInt8(), "here they are not compiled"),
        ("cpu", {"avx512_vnni"}, WithInt8(), None),
    ],
)
def test_8_bit_products_are_refused_where_they_would_not_be_faster(
    device: str, flags: set[str], native: object, missing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(hardware, "kernels", lambda: native)
    monkeypatch.setattr(hardware, "compiled_choice", lambda: KernelChoice(None, "not compiled"))
    check_products(Products.EXACT, torch.device(device))
    if missing is None:
        check_products(Products.INT8, torch.device(device))
        return
    with pytest.raises(ConfigError, match=missing) as caught:
        check_products(Products.INT8, torch.device(device))
    assert "Use compute.products=exact" in str(caught.value)


def test_8_bit_products_are_refused_where_the_kernels_are_compiled_but_do_not_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset({"avx512_vnni"}))
    monkeypatch.setattr(hardware, "kernels", lambda: None)
    monkeypatch.setattr(hardware, "compiled_choice", lambda: KernelChoice("avx512", "the best"))
    with pytest.raises(ConfigError, match="here they are avx512, which cannot be loaded"):
        check_products(Products.INT8, CPU)


def test_processors_that_compute_otherwise_have_other_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for flags in ({"avx2"}, {"avx2", "avx512f"}, {"avx2", "amx_bf16"}, set()):
        monkeypatch.setattr(hardware, "cpu_flags", lambda flags=flags: frozenset(flags | {"sse", "fpu"}))
        names.add(processor(CPU))
    assert len(names) == 4
    assert all("sse" not in name for name in names)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a card at {device}")
    assert processor(torch.device("cuda:1")) == "a card at cuda:1"


@pytest.mark.parametrize(("device", "expected"), [("cpu", ["work"]), ("cuda:1", ["wait", "work", "wait"])])
def test_a_card_is_waited_for_before_and_after_timed_work(
    device: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: done.append("wait"))
    assert timed(lambda: done.append("work"), torch.device(device)) >= 0
    assert done == expected


@pytest.mark.parametrize(
    ("capability", "expected"), [((6, 1), torch.float32), ((7, 5), torch.float16), ((8, 0), torch.bfloat16)]
)
def test_a_card_computes_in_what_it_multiplies_itself(
    capability: tuple[int, int], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked of the run's device, whichever is the current one."""
    other = {(6, 1): (9, 0), (7, 5): (9, 0), (8, 0): (7, 0)}[capability]
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability if device.index == 1 else other)
    assert resolve_dtype(Dtype.AUTO, torch.device("cuda:1")) is expected


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """The devices that were made the current one."""
    entered: list[torch.device] = []

    class Device:
        def __init__(self, device: torch.device):
            self.device = device

        def __enter__(self) -> None:
            entered.append(self.device)

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "device", Device)
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return entered


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_run_on_a_card_computes_there_and_rounds_sums_once(deterministic: bool, current: list[torch.device]) -> None:
    products = torch.backends.cuda.matmul
    device = torch.device("cuda:1")
    with computing_on(device, deterministic=deterministic):
        assert current == [device]
        assert not products.allow_bf16_reduced_precision_reduction
        assert not products.allow_fp16_reduced_precision_reduction
        assert torch.are_deterministic_algorithms_enabled() is deterministic
        assert torch.is_deterministic_algorithms_warn_only_enabled() is False
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if deterministic else None)
        if sys.platform == "linux":
            assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert products.allow_bf16_reduced_precision_reduction
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_the_users_choice_for_the_allocator_stands(
    name: str, current: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "max_split_size_mb:64")
    before = dict(os.environ)
    with computing_on(torch.device("cuda"), deterministic=False):
        assert dict(os.environ) == before


def test_on_the_cpu_nothing_is_changed(current: list[torch.device]) -> None:
    with computing_on(CPU, deterministic=True):
        assert current == []
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction


def test_gradients_are_formed_where_the_caller_has_switched_them_off() -> None:
    weight = torch.ones(2, requires_grad=True)
    for switched_off in (torch.no_grad(), torch.inference_mode()):
        with switched_off, computing_on(CPU, deterministic=False):
            (weight * torch.ones(2)).sum().backward()
        assert not torch.is_inference(weight)
    assert torch.equal(weight.grad, torch.full((2,), 2.0))


@pytest.fixture
def usual() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


def test_other_defaults_of_torch_are_refused_by_name(usual: None) -> None:
    """Factors were drawn in the default dtype, so that the same run had other bytes."""
    torch.set_default_dtype(torch.float64)
    with pytest.raises(ConfigError, match=r"torch.float64, .*set_default_dtype\(torch.float32\)"):
        computing_on(CPU, deterministic=False).__enter__()
    torch.set_default_dtype(torch.float32)
    torch.set_default_device("meta")
    with pytest.raises(ConfigError, match="default device is 'meta'"):
        resolve_device("cpu")
