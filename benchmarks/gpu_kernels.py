"""Every kernel of the CUDA path in bfloat16 and float16, against torch in float64; a part of gpu.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from veneer.gpu.attention import flash_takes, packed_attention
from veneer.gpu.dispatch import triton_choice, triton_kernels
from veneer.gpu.few_rows import packed_choice
from veneer.losses.scores import losses_and_grads_reference
from veneer.model.fused import add_rms_norm, geglu, rms_norm, swiglu, wide_norm
from veneer.model.rope import apply_rotation
from veneer.model.shape import AttentionSpec
from veneer.model.windowed import attention_by_document
from veneer.native.stored import NestedScales
from veneer.products import LowRank, factor_grad, linear
from veneer.quant.codes import CodeBook, _decode_chunks, dequantize_4bit, quantize_4bit
from veneer.quant.four_bit import QuantLinear
from veneer.quant.nested import dequantize_nested, quantize_nested
from veneer.quant.rowwise import RowwiseLinear


def with_gradients(function: Callable[..., Any], inputs: list[Tensor], seed: int = 0) -> list[Tensor]:
    """Outputs of `function`, and gradients of `inputs` for output gradients drawn from `seed`."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    made = function(*leaves)
    outputs = made if isinstance(made, tuple) else (made,)
    draws = torch.Generator(inputs[0].device).manual_seed(seed)
    # Drawn in float32 and rounded to bfloat16, which every dtype here holds (float16 but for the smallest).
    grads = [torch.randn(y.shape, generator=draws, device=y.device).bfloat16().to(y.dtype) for y in outputs]
    return [y.detach() for y in outputs] + list(torch.autograd.grad(outputs, leaves, grads))


Case = Callable[[torch.dtype, torch.device], tuple[list[Tensor], list[Tensor]]]
"""From dtype and device to what was found and what was expected."""


def differentiable(function: Callable[..., Any], *shapes: tuple[int, ...], scale: float = 1.0) -> Case:
    """A function of the model; in float64 it runs in torch's own operations, so it is its own reference."""

    def case(dtype: torch.dtype, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
        inputs = [(scale * torch.randn(shape, device=device)).to(dtype) for shape in shapes]
        return with_gradients(function, inputs), with_gradients(function, [x.double() for x in inputs])

    return case


def turning(dtype: torch.dtype, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Rotary positions; the angles are float32 for the kernel, and those for the reference too."""
    angles = 100 * torch.randn(1001, 64, device=device)
    cosine, sine = angles.cos(), angles.sin()
    x = torch.randn(1001, 32, 128, device=device).to(dtype)
    exact = with_gradients(lambda y: apply_rotation(y, cosine.double(), sine.double()), [x.double()])
    return with_gradients(lambda y: apply_rotation(y, cosine, sine), [x]), exact


def decoding(nested: bool) -> Case:
    """4-bit decode; the reference is torch's decode, rounded once as well, so that nothing may differ."""

    def case(dtype: torch.dtype, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
        weight = torch.randn(1031, 4096, device=device)
        codes, absmax = quantize_4bit(weight)
        scales = quantize_nested(absmax) if nested else absmax
        plain = dequantize_nested(scales) if isinstance(scales, NestedScales) else scales
        exact = _decode_chunks(codes, plain, torch.empty_like(weight, dtype=dtype), 64, CodeBook.NF4)
        return [dequantize_4bit(codes, scales, weight.shape, dtype)], [exact]

    return case


def cross_entropy(vocab: int) -> Case:
    """Losses and gradient of 64 rows."""

    def case(dtype: torch.dtype, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
        scores = (4 * torch.randn(64, vocab, device=device)).to(dtype)
        targets = torch.randint(vocab, (64,), device=device)
        exact = losses_and_grads_reference(scores.double(), targets)
        triton = triton_kernels(scores)
        if triton is None:
            return [], []
        return [triton.cross_entropy_in_place(scores, targets), scores], list(exact)

    return case


def attention(lengths: tuple[int, ...], shared: int, dim: int, window: int | None = None) -> Case:
    """Documents of these lengths, 8 heads and 2 key heads; the reference is attention in blocks of query rows."""

    def case(dtype: torch.dtype, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
        inputs = [torch.randn(sum(lengths), heads, dim, device=device).to(dtype) for heads in (8, 2, 2)]
        if window is not None and not flash_takes(inputs[0]):
            return [], []  # the model computes such windows in blocks of query rows, by torch's own operations
        limits = AttentionSpec(dim**-0.5, window, None)
        exact = with_gradients(
            lambda q, k, v: attention_by_document(q, k, v, lengths, shared, limits), [x.double() for x in inputs]
        )
        return with_gradients(
            lambda q, k, v: packed_attention(q, k, v, lengths, dim**-0.5, shared=shared, window=window), inputs
        ), exact

    return case


def factor_gradient(dtype: torch.dtype, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """A sum over 8,192 tokens, in float32 to its end: the error is that of float32, not of the factors."""
    left, right = (torch.randn(8192, width, device=device).to(dtype) for width in (16, 4096))
    return [factor_grad(left, right, 0.7)], [0.7 * left.double().t() @ right.double()]


def shared_beginning(dtype: torch.dtype, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """The gradient of a beginning that 300 documents share."""
    case = attention((64, *[8] * 300), 64, 64)
    found, expected = case(dtype, device)
    return [found[2][:64], found[3][:64]], [expected[2][:64], expected[3][:64]]


def updated_product(dtype: torch.dtype, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """x Wᵀ with the update beside it."""
    x, weight = (torch.randn(rows, 1024, device=device).to(dtype) for rows in (501, 768))
    left, right = (torch.randn(rows, 16, device=device).to(dtype) for rows in (501, 768))
    exact = x.double() @ weight.double().t() + 2.0 * left.double() @ right.double().t()
    return [linear(x, weight, None, LowRank(left, right, 2.0))], [exact]


def packed_product(rows: int, kind: type[QuantLinear] | type[RowwiseLinear]) -> Case:
    """x Wᵀ from the codes, with an update beside it; the reference multiplies by the decoded weight in float64."""

    def case(dtype: torch.dtype, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
        layer = kind.from_weight(torch.randn(1031, 4096, device=device), torch.randn(1031, device=device))
        x, left = (torch.randn(rows, width, device=device).to(dtype) for width in (4096, 16))
        right = torch.randn(1031, 16, device=device).to(dtype)
        assert layer.bias is not None
        exact = x.double() @ layer.decode(dtype, None).double().t() + layer.bias.to(dtype).double()
        return [layer.product(x, LowRank(left, right, 2.0))], [exact + 2.0 * left.double() @ right.double().t()]

    return case


def kernel_cases(device: torch.device) -> dict[str, Case]:
    """Every kernel by name, in shapes that are no multiples of a tile."""
    weights = {dim: torch.rand(dim, device=device) + 0.5 for dim in (576, 4096)}
    return {
        "NF4 decode": decoding(False),
        "NF4 decode, nested scales": decoding(True),
        "RMS norm 576": differentiable(lambda x: rms_norm(x, weights[576].to(x.dtype), 1e-5), (1001, 576)),
        "RMS norm 4096": differentiable(lambda x: rms_norm(x, weights[4096].to(x.dtype), 1e-5), (1001, 4096)),
        "addition and RMS norm 4096": differentiable(
            lambda x, d: add_rms_norm(x, d, weights[4096].to(x.dtype), 1e-5), (1001, 4096), (1001, 4096)
        ),
        "SwiGLU": differentiable(swiglu, (1001, 1536), (1001, 1536), scale=3.0),
        "GeGLU": differentiable(geglu, (1001, 1536), (1001, 1536), scale=3.0),
        "RMS norm around one 4096": differentiable(
            lambda x: wide_norm(x, weights[4096] - 1.0, None, 1e-6, offset=1.0), (1001, 4096)
        ),
        "rotary positions": turning,
        "product with an update": updated_product,
        "product with packed NF4, 1 row": packed_product(1, QuantLinear),
        "product with packed NF4, 16 rows": packed_product(16, QuantLinear),
        "product with packed int8, 3 rows": packed_product(3, RowwiseLinear),
        "gradient of a factor": factor_gradient,
        "cross-entropy 49,152": cross_entropy(49152),
        "cross-entropy 262,144": cross_entropy(262144),
        "attention, 4 documents": attention((300, 1, 65, 511), 0, 128),
        "attention, heads of 64": attention((300, 1, 65, 511), 0, 64),
        "attention, shared beginning": attention((100, 300, 1, 65), 100, 128),
        "attention, beginning of 300 documents": shared_beginning,
        "attention, window of 64": attention((100, 300, 1, 65), 100, 128, 64),
    }


def largest_error(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest difference, as a share of the largest expected number of its tensor; NaN counts as infinite."""
    pairs = list(zip(found, expected, strict=True))
    shares = [float((a.double() - b.double()).abs().max() / b.double().abs().max()) for a, b in pairs]
    return max(share if share == share else float("inf") for share in shares)


def run_kernels(device: torch.device) -> bool:
    """Print a table of errors; whether all are within a few roundings of the dtype."""
    print(
        f"Triton: {triton_choice().reason}"
        + ("" if triton_choice().used else " (torch's own operations are checked instead)")
    )
    if device.type == "cuda":
        for dtype in (torch.bfloat16, torch.float16):
            packed = packed_choice(device, dtype)
            print(f"products with packed weights, {dtype}: {'used' if packed.used else 'not used'}, {packed.reason}")
    print(f"{'largest error, share of the largest value':42} {'bfloat16':>10} {'float16':>10}")
    right = True
    for name, case in kernel_cases(device).items():
        cells, said = [], []
        for dtype in (torch.bfloat16, torch.float16):
            torch.manual_seed(0)
            try:
                found, expected = case(dtype, device)
            except Exception as error:  # the other kernels are to be checked in this hour too
                said.append(f"  {dtype}: {type(error).__name__}: {str(error)[:300]}")
                cells.append("   failed!")
                right = False
                continue
            apart = largest_error(found, expected) if found else float("nan")
            wrong = apart > 4 * torch.finfo(dtype).eps
            right &= not wrong
            cells.append(f"{apart:9.1e}{'!' if wrong else ' '}")
        print("\n".join((f"{name:42} {' '.join(cells)}", *said)), flush=True)
    print("all within four roundings" if right else "! is WRONG: more than four roundings of the dtype")
    return right
