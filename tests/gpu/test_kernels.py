"""The model's own functions when they choose Triton: same results and gradients as torch's operations beside them. And
that no kernel reads or writes beside its tensors, whatever their size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime import interpreter

from veneer.gpu import cross_entropy, dispatch, elementwise, norm, packed, quant
from veneer.model.fused import add_rms_norm, geglu, rms_norm, swiglu, wide_norm
from veneer.model.rope import apply_rotation
from veneer.native.stored import Format, NestedScales, StoredMatrix
from veneer.quant import codes
from veneer.quant.codes import dequantize_4bit, quantize_4bit
from veneer.quant.nested import quantize_nested

pytestmark = pytest.mark.usefixtures("seed")


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let Triton take float32 tensors of the CPU, as its interpreter can; the names of the kernels that ran."""
    ran: list[str] = []
    real = dispatch._triton()

    class Noting:
        def __getattr__(self, name: str) -> object:
            ran.append(name)
            return getattr(real, name)

    monkeypatch.setattr(dispatch, "triton_accepts", lambda *tensors: all(t.dtype == torch.float32 for t in tensors))
    monkeypatch.setattr(dispatch, "_triton", Noting)
    return ran


def gradients(function: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    outputs = function(*leaves)
    return [*(y.detach() for y in outputs), *torch.autograd.grad(outputs, leaves, grads)]


def assert_same(function: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor], outputs: int = 1) -> None:
    """In float32 by Triton, and in float64 by torch, which Triton does not take."""
    grads = [torch.randn_like(inputs[0]) for _ in range(outputs)]
    found = gradients(function, inputs, grads)
    expected = gradients(function, [x.double() for x in inputs], [g.double() for g in grads])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=2e-6)


def test_the_norm_is_that_of_torch(chosen: list[str]) -> None:
    weight = torch.rand(96) + 0.5
    assert_same(lambda x: (rms_norm(x, weight, 1e-5),), [torch.randn(7, 96)])
    assert chosen == ["rms_norm_forward", "rms_norm_backward"]


def test_norm_of_a_sum(chosen: list[str]) -> None:
    weight = torch.rand(96) + 0.5
    assert_same(lambda x, d: add_rms_norm(x, d, weight, 1e-5), [torch.randn(7, 96), torch.randn(7, 96)], outputs=2)
    assert chosen == ["add_rms_norm_forward", "add_rms_norm_backward"]


def test_a_weight_that_trains_gets_its_gradient_from_torch(chosen: list[str]) -> None:
    inputs = [torch.randn(7, 96), torch.rand(96) + 0.5]
    assert_same(lambda x, w: (rms_norm(x, w, 1e-5),), inputs)
    assert_same(lambda x, w: add_rms_norm(x, x * 0.5, w, 1e-5), inputs, outputs=2)
    assert chosen == ["rms_norm_forward", "add_rms_norm_forward"]


def test_swiglu_is_that_of_torch(chosen: list[str]) -> None:
    assert_same(lambda g, u: (swiglu(g, u),), [torch.randn(7, 200) * 4, torch.randn(7, 200)])
    assert chosen == ["swiglu_forward", "swiglu_backward"]


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
def test_geglu_is_that_of_torch(chosen: list[str]) -> None:
    assert_same(lambda g, u: (geglu(g, u),), [torch.randn(7, 200) * 4, torch.randn(7, 200)])
    assert chosen == ["geglu_forward", "geglu_backward"]


@pytest.mark.parametrize("shape", [(7, 96), (7, 3, 32)])
def test_the_norm_with_weights_around_one_is_that_of_torch(shape: tuple[int, ...], chosen: list[str]) -> None:
    weight = torch.rand(shape[-1])
    assert_same(lambda x: (wide_norm(x, weight, None, 1e-5, offset=1.0),), [torch.randn(shape)])
    assert chosen == ["wide_norm_forward", "wide_norm_backward"]


def test_norms_that_are_centred_or_train_are_left_to_torch(chosen: list[str]) -> None:
    inputs = [torch.randn(7, 96), torch.rand(96) + 0.5]
    assert_same(lambda x: (wide_norm(x, torch.ones(96), None, 1e-5, centred=True),), inputs[:1])
    assert_same(lambda x: (wide_norm(x.view(7, 3, 32), torch.ones(3, 32), None, 1e-5).flatten(1),), inputs[:1])
    assert chosen == []
    assert_same(lambda x, w: (wide_norm(x, w, None, 1e-5),), inputs)
    assert chosen == ["wide_norm_forward"]


def test_the_rotation_is_that_of_torch(chosen: list[str]) -> None:
    angles = torch.randn(7, 16)
    cosine, sine = angles.cos(), angles.sin()
    assert_same(lambda x: (apply_rotation(x, cosine, sine),), [torch.randn(7, 3, 32)])
    assert chosen == ["rotate", "rotate"]


def test_angles_of_another_dtype_are_left_to_torch(chosen: list[str]) -> None:
    angles = torch.randn(7, 16).double()
    apply_rotation(torch.randn(7, 3, 32), angles.cos(), angles.sin())
    assert chosen == []


@pytest.mark.parametrize("nested", [False, True])
def test_decoded_weights_are_those_of_torch_to_the_bit(
    nested: bool, chosen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.randn(37, 83)
    packed, absmax = quantize_4bit(weight)
    scales = quantize_nested(absmax) if nested else absmax
    found = dequantize_4bit(packed, scales, weight.shape, torch.float32)
    assert chosen == ["dequantize_4bit"]
    monkeypatch.setattr(codes, "kernels_for", lambda *tensors: None)
    assert torch.equal(found, dequantize_4bit(packed, scales, weight.shape, torch.float32))


@dataclass
class Watch:
    """What programs ask of memory, which is checked and never touched, so that tensors may be larger than it."""

    spans: list[tuple[int, int]] = field(default_factory=list)
    """First address, and the one behind the last, of each tensor of the kernel that runs."""
    largest: int = 0
    """The largest place of an element in a tensor that was asked for."""
    reached: set[int] = field(default_factory=set)
    """Ends of tensors up to which was stored."""
    asked: int = 0
    program: int = 0

    def begin(self, arguments: Sequence[object]) -> None:
        """Take the tensors that a kernel is given."""
        tensors = [x for x in arguments if isinstance(x, Tensor)]
        ends = [1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True)) for x in tensors]
        self.spans = [(x.data_ptr(), x.data_ptr() + n * x.itemsize) for x, n in zip(tensors, ends, strict=True)]

    def check(self, places: np.ndarray[Any, Any], size: int, *, store: bool) -> None:
        """Every element lies within one of the tensors, all of one access in the same."""
        if not places.size:
            return
        low, high = int(places.min()), int(places.max()) + size
        inside = [(start, end) for start, end in self.spans if start <= low and high <= end]
        assert inside, f"{'stores' if store else 'loads'} {low}..{high} outside of {self.spans}"
        start, end = inside[0]
        self.asked += places.size
        self.largest = max(self.largest, (high - start) // size - 1)
        if store and high == end:
            self.reached.add(end)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """As compute-sanitizer looks at memory: kernels run for their first, middle and last program alone."""
    found = Watch()

    def load(self: Any, ptrs: Any, mask: Any, other: Any, *rest: Any) -> Any:
        kind = ptrs.get_element_ty()
        numbers = interpreter._get_np_dtype(kind)
        found.check(ptrs.data[mask.data.astype(bool)], np.dtype(numbers).itemsize, store=False)
        return interpreter.TensorHandle(np.zeros(ptrs.data.shape, dtype=numbers), kind)

    def store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> None:
        size = np.dtype(interpreter._get_np_dtype(ptrs.get_element_ty())).itemsize
        found.check(ptrs.data[mask.data.astype(bool)], size, store=True)

    def place(self: Any, x: int, y: int, z: int) -> None:
        self.grid_idx = (found.program, y, z)

    def launch(
        kernel: Any, grid: tuple[int, ...], on: Tensor, arguments: Sequence[object], constants: Mapping[str, int]
    ) -> None:
        found.begin(arguments)
        for program in sorted({0, grid[0] // 2, grid[0] - 1}):
            found.program = program
            kernel[(1, *grid[1:])](*arguments, **constants)

    builder = interpreter.InterpreterBuilder
    monkeypatch.setattr(builder, "create_masked_load", load)
    monkeypatch.setattr(builder, "create_masked_store", store)
    monkeypatch.setattr(builder, "set_grid_idx", place)
    monkeypatch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda *arguments: None)
    for module in (norm, elementwise, quant, packed, cross_entropy):
        monkeypatch.setattr(module, "launch_kernel", launch)
    yield found
    assert found.asked > 0


def all_norms(x: Tensor) -> None:
    weight, rstd = torch.empty(x.shape[1]), torch.empty(len(x))
    norm.rms_norm_forward(x, weight, 1e-5)
    norm.add_rms_norm_forward(x, x, weight, 1e-5)
    norm.wide_norm_forward(x, weight, 1e-5, 1.0)
    norm.rms_norm_backward(x, weight, rstd, x)
    norm.add_rms_norm_backward(x, weight, rstd, x, x)
    norm.wide_norm_backward(x, weight, rstd, x, 1.0)


def all_gated(x: Tensor) -> None:
    for gated in (elementwise.swiglu_forward, elementwise.geglu_forward):
        gated(x, x)
    for backward in (elementwise.swiglu_backward, elementwise.geglu_backward):
        backward(x, x, x)


def all_rotations(x: Tensor) -> None:
    angles = torch.empty(len(x), x.shape[2] // 2)
    elementwise.rotate(x, angles, angles, -1.0)


def all_losses(scores: Tensor) -> None:
    targets = torch.zeros(len(scores), dtype=torch.int64)
    cross_entropy.cross_entropy_in_place(scores, targets)
    cross_entropy.cross_entropy_in_place(scores, targets, gradient=False)


def four_bits(codes: Tensor, values: Tensor, scales: Tensor | NestedScales, block: int, count: int) -> StoredMatrix:
    """A weight of one row."""
    return StoredMatrix(
        format=Format.FOUR_BIT, columns=1, depth=count, codes=codes, values=values, scales=scales, block=block
    )


def all_decodings(out: Tensor) -> None:
    count = out.numel()
    codes = torch.empty(-(-count // 2), dtype=torch.uint8)
    table, offset = torch.empty(256), torch.empty(())
    for block in (32, 64, 4096):
        blocks = -(-count // block)
        factors = torch.empty(-(-blocks // 256))
        kept = torch.empty(blocks, dtype=torch.uint8)
        nested = NestedScales(codes=kept, values=table, factors=factors, offset=offset, block=256)
        for scales in (torch.empty(blocks), nested):
            quant.dequantize_4bit(four_bits(codes, table[:16], scales, block, count), out)


def all_products(weight: Tensor) -> None:
    """Products of one and of several rows with weights of this shape; an odd depth is none of 4 bits."""
    (columns, depth), kind = weight.shape, torch.float16
    table, offset = torch.empty(256), torch.empty(())
    codes = torch.empty(columns, depth, dtype=torch.int8)
    eight_bits = StoredMatrix(
        format=Format.INT8, columns=columns, depth=depth, codes=codes, scales=torch.empty(columns)
    )
    stored = [eight_bits]
    for block in (32, 64, 512):
        blocks, rest = divmod(columns * depth, block)
        if depth % block == 0 and not rest:
            pairs = torch.empty(columns * depth // 2, dtype=torch.uint8)
            nested = NestedScales(
                codes=torch.empty(blocks, dtype=torch.uint8), values=table, factors=torch.empty(-(-blocks // 256)),
                offset=offset, block=256,
            )  # fmt: skip
            stored += [
                StoredMatrix(
                    format=Format.FOUR_BIT, columns=columns, depth=depth, codes=pairs, values=table[:16], scales=scales,
                    block=block,
                )
                for scales in (nested, torch.empty(blocks))
            ]  # fmt: skip
    for rows, one in zip((3, 1, 16, 2, 5, 7, 9), stored, strict=False):
        left, right = torch.empty(rows, 20, dtype=kind)[:, 2:19], torch.empty(columns, 17, dtype=kind)
        packed.packed_product(torch.empty(rows, depth, dtype=kind), one, torch.empty(columns), (left, right, 0.5))


BEYOND = 2**31
"""More elements than a 32-bit offset reaches."""
LARGE = {
    "norms of 8B's rows": (all_norms, (BEYOND // 4096 + 3, 4096)),
    "gated products": (all_gated, (BEYOND // 14336 + 3, 14336)),
    "rotations": (all_rotations, (BEYOND // 4096 + 3, 32, 128)),
    "scores of 8,192 tokens": (all_losses, (8192, 262_147)),
    "decoded experts": (all_decodings, (BEYOND // 14336 + 3, 14336)),
    "products with packed weights": (all_products, (BEYOND // 512 + 3, 512)),
}
ODD = {
    "norms": (all_norms, [(1, 1), (3, 7), (5, 576), (2, 2305)]),
    "gated products": (all_gated, [(1, 1), (3, 683), (7, 2049)]),
    "rotations": (all_rotations, [(1, 1, 2), (5, 3, 6), (3, 9, 192), (2, 71, 64)]),
    "scores": (all_losses, [(1, 1), (3, 5), (3, 8193), (2, 49_155)]),
    "products": (all_products, [(1, 1), (3, 7), (37, 96), (33, 320), (31, 512)]),
    "decoding": (all_decodings, [(1, 1), (3, 5), (37, 83), (1, 4097), (1, 4096 * 3 + 1)]),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.float32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ODD)
def test_no_kernel_reaches_beside_tensors_of_odd_sizes(name: str, dtype: torch.dtype, watch: Watch) -> None:
    run, shapes = ODD[name]
    for shape in shapes:
        run(torch.empty(shape, dtype=dtype))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", LARGE)
def test_offsets_of_large_tensors_do_not_overflow(name: str, watch: Watch) -> None:
    """The last program reaches the last element, and nothing beside its tensors."""
    run, shape = LARGE[name]
    x = torch.empty(shape, dtype=torch.float16)
    run(x)
    assert watch.largest == x.numel() - 1 >= BEYOND
    assert watch.reached


def test_the_watch_notices_an_overflow_and_a_missing_mask(watch: Watch) -> None:
    import triton

    @triton.jit
    def narrow(x: tl.tensor, BLOCK: tl.constexpr) -> None:
        tl.store(x + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), 0.0)

    x = torch.empty(BEYOND + 2048, dtype=torch.float16)
    programs = x.numel() // 2048
    with pytest.raises(interpreter.InterpreterError, match="outside of"):
        elementwise.launch_kernel(narrow, (programs,), x, (x,), {"BLOCK": 2048})
    small = torch.empty(2047)
    with pytest.raises(interpreter.InterpreterError, match="outside of"):
        elementwise.launch_kernel(narrow, (1,), small, (small,), {"BLOCK": 2048})
    elementwise.launch_kernel(narrow, (1,), x, (x,), {"BLOCK": 2048})
