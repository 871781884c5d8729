"""Which kernels take which tensors, and that no Triton is needed where there is no card."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from helpers.cards import as_on_a_card
from helpers.models.tiny_models import use_backend
from veneer.gpu import dispatch
from veneer.gpu.dispatch import kernels_for, triton_accepts, triton_choice, triton_kernels
from veneer.model.fused import add_rms_norm, rms_norm
from veneer.native import library


@pytest.fixture(autouse=True)
def fresh_choice() -> Iterator[None]:
    triton_choice.cache_clear()
    yield
    triton_choice.cache_clear()


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which everything is there, and a kernel starts."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(dispatch, "failure_of_a_kernel", lambda device: None)


def test_without_a_card_torch_computes_what_is_not_on_the_cpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a card")
    assert triton_choice() == dispatch.GpuChoice(False, "torch sees no CUDA device")


@pytest.mark.usefixtures("card")
def test_with_a_card_and_triton_the_kernels_are_used() -> None:
    triton = pytest.importorskip("triton")
    assert triton_choice() == dispatch.GpuChoice(True, f"Triton {triton.__version__}")


@pytest.mark.usefixtures("card")
def test_every_reason_against_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_capability", lambda device: (9 - 2 * device, 0))
        reason = "cuda:1 has compute capability 7.0; the kernels need 7.5"
        assert triton_choice(torch.device("cuda:1")) == dispatch.GpuChoice(False, reason)
        assert triton_choice(torch.device("cuda:0")).used, "an old card beside it does not switch its kernels off"
        assert triton_choice().used
    triton_choice.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(torch.version, "hip", "6.2")
        assert "AMD" in triton_choice().reason
    triton_choice.cache_clear()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "triton", None)
        assert "veneer[gpu]" in triton_choice().reason
        assert not triton_choice().used


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("fatal error: Python.h: No such file or directory\ncompilation terminated"),
            "RuntimeError: fatal",
        ),
        (
            RuntimeError("Failed to find C compiler. Please specify via CC environment variable"),
            "RuntimeError: Failed to find C compiler",
        ),
        (PermissionError(13, "Permission denied", "/root/.triton"), "PermissionError: [Errno 13]"),
        (FileNotFoundError(), "FileNotFoundError"),
    ],
)
def test_what_a_kernel_raises_is_the_reason_in_a_line(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def swiglu_forward(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
            raise error

    monkeypatch.setattr(dispatch, "_triton", Broken)
    found = dispatch.failure_of_a_kernel(torch.device("cpu"))
    assert found is not None
    assert found.startswith(reason)
    assert "\n" not in found


@pytest.mark.usefixtures("card")
def test_a_kernel_that_cannot_start_is_tried_once_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    tries: list[torch.device] = []

    def failure(device: torch.device) -> str:
        tries.append(device)
        return "no compiler"

    monkeypatch.setattr(dispatch, "failure_of_a_kernel", failure)
    as_on_a_card(monkeypatch)
    x = torch.ones(4, 4)
    assert not triton_accepts(x)
    assert not triton_accepts(x)
    assert tries == [torch.device("cuda", 0)]
    reason = f"Triton {triton.__version__} cannot start a kernel here (no compiler)"
    assert triton_choice() == dispatch.GpuChoice(False, reason)


def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        def swiglu_forward(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
            return gate * up

    class Right:
        def swiglu_forward(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.silu(gate) * up

    for kernels, failure in ((Wrong, "its result is wrong"), (Right, None)):
        monkeypatch.setattr(dispatch, "_triton", kernels)
        assert dispatch.failure_of_a_kernel(torch.device("cpu")) == failure


def test_a_card_without_memory_is_no_reason_against_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def swiglu_forward(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(dispatch, "_triton", Full)
    with pytest.raises(torch.OutOfMemoryError):
        dispatch.failure_of_a_kernel(torch.device("cpu"))


def test_tensors_of_the_cpu_get_the_compiled_kernels() -> None:
    x = torch.ones(4, 4)
    assert not triton_accepts(x)
    assert triton_kernels(x) is None
    compiled = library.kernels()
    assert kernels_for(x) is (None if compiled is None else compiled.rowwise)
    assert kernels_for(x.double()) is None
    assert kernels_for(x, x.T[:, :2]) is None


def test_a_tensor_on_neither_device_is_left_to_torch() -> None:
    assert kernels_for(torch.ones(4, 4, device="meta")) is None


@pytest.mark.usefixtures("card")
def test_triton_takes_contiguous_cuda_tensors_of_one_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    as_on_a_card(monkeypatch)
    x = torch.ones(4, 4)
    assert triton_accepts(x, x)
    assert triton_accepts(x.bfloat16())
    assert triton_accepts(x.half())
    assert not triton_accepts(x.double())
    assert not triton_accepts(x, x.half())
    assert not triton_accepts(x, x.T[:, :2])
    assert not triton_accepts(torch.ones(0, 4))


def test_nothing_imports_triton_by_itself_and_the_cpu_computes_without_it() -> None:
    code = """
import sys
import veneer, veneer.cli, veneer.screens.evaluate, veneer.model.decoder
assert not any(name.split('.')[0] == 'triton' for name in sys.modules)
sys.modules["triton"] = None
import torch
from veneer.model.fused import add_rms_norm, rms_norm, swiglu
from veneer.model.rope import apply_rotation
from veneer.quant.four_bit import QuantLinear
x = torch.randn(3, 64, requires_grad=True)
layer = QuantLinear.from_weight(torch.randn(64, 64))
y, z = add_rms_norm(x, layer(rms_norm(x, torch.ones(64), 1e-5)), torch.ones(64), 1e-5)
angles = torch.randn(3, 16)
swiglu(apply_rotation(y.view(3, 2, 32), angles.cos(), angles.sin()).reshape(3, 64), z).sum().backward()
assert x.grad.isfinite().all()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trains", [False, True])
def test_the_norm_of_a_sum_is_the_sum_and_its_norm(
    dtype: torch.dtype, trains: bool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_backend(backend, monkeypatch)
    x, delta = (torch.randn(5, 48, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(2))
    weight = (torch.rand(48) + 0.5).to(torch.float64 if dtype == torch.float64 else torch.float32)
    weight.requires_grad_(trains)
    leaves = [x, delta, weight] if trains else [x, delta]
    grads = [torch.randn(5, 48, dtype=torch.float64).to(dtype) for _ in range(2)]
    found = add_rms_norm(x, delta, weight, 1e-5)
    total = x + delta
    expected = (total, rms_norm(total, weight, 1e-5))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(
        torch.autograd.grad(found, leaves, grads), torch.autograd.grad(expected, leaves, grads), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_the_norm_of_a_sum_passes_the_gradient_check() -> None:
    x, delta = (torch.randn(4, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.rand(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b, w: add_rms_norm(a, b, w, 1e-3), (x, delta, weight))


def test_importing_the_package_is_enough_to_ask() -> None:
    assert importlib.import_module("veneer.gpu").__doc__
