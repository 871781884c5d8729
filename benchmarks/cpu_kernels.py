"""The compiled kernels against torch's own operations, each on the same tensors, median of several rounds.

Usage: python benchmarks/cpu_kernels.py [--threads N] [--rounds N]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from veneer import products
from veneer.model.attention import PackedAttention
from veneer.model.shape import AttentionSpec
from veneer.model.windowed import attention_by_document
from veneer.native.attention import Documents
from veneer.native.build import library_path
from veneer.native.functions import KernelProducts, Kernels
from veneer.native.library import compiled_choice, kernels
from veneer.quant.codes import CodeBook, _decode_chunks, dequantize_4bit, quantize_4bit


def milliseconds(action: Callable[[], object], rounds: int) -> float:
    """Median wall time of one call, after one that warms up."""
    action()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def both_ways(native: Kernels, packed: Documents, q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> None:
    """Forward and backward of the compiled attention."""
    output, lse = native.attention_forward(q, k, v, packed, 0.125)
    native.attention_backward(q, k, v, packed, 0.125, output, lse, grad)


def heads(tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values and the output's gradient, 9 query and 3 key heads of 64 (SmolLM2), bfloat16."""
    q, grad = (torch.randn(tokens, 9, 64, dtype=torch.bfloat16) for _ in range(2))
    k, v = (torch.randn(tokens, 3, 64, dtype=torch.bfloat16) for _ in range(2))
    return q, k, v, grad


def attention(documents: int, length: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Forward and backward over packed documents."""
    native = kernels()
    assert native is not None
    q, k, v, grad = heads(documents * length)
    packed = Documents((length,) * documents)

    def ours() -> None:
        both_ways(native, packed, q, k, v, grad)

    def torchs() -> None:
        queries, keys, values = (
            x.view(documents, length, -1, 64).transpose(1, 2).detach().requires_grad_() for x in (q, k, v)
        )
        output = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
        output.backward(grad.view(documents, length, 9, 64).transpose(1, 2))

    return ours, torchs


def in_floats(documents: int, length: int, path: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    """Forward and backward in float32 products, and in pairs or tiles of bfloat16, which is faster here."""
    floats, fastest = Kernels(path, products=KernelProducts.FLOATS), Kernels(path)
    tensors, packed = heads(documents * length), Documents((length,) * documents)
    return lambda: both_ways(floats, packed, *tensors), lambda: both_ways(fastest, packed, *tensors)


def windowed(
    length: int, heads: int, kv_heads: int, spec: AttentionSpec
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Forward and backward over a document with a window or capped scores, heads of 256 (Gemma), bfloat16: the kernel,
    and torch's operations block by block."""
    inputs = [torch.randn(length, count, 256, dtype=torch.bfloat16) for count in (heads, kv_heads, kv_heads)]
    q, k, v = (x.requires_grad_() for x in inputs)
    grad = torch.randn(length, heads, 256, dtype=torch.bfloat16)
    packed = PackedAttention([length])
    return (
        lambda: packed.attend(0, q, k, v, spec, None).backward(grad),
        lambda: attention_by_document(q, k, v, [length], 0, spec).backward(grad),
    )


def decode() -> tuple[Callable[[], object], Callable[[], object]]:
    """NF4 to bfloat16, a matrix of SmolLM2."""
    weight = torch.randn(1536, 576)
    codes, absmax = quantize_4bit(weight)
    out = torch.empty(1536, 576, dtype=torch.bfloat16)
    return (
        lambda: dequantize_4bit(codes, absmax, weight.shape, torch.bfloat16, out),
        lambda: _decode_chunks(codes, absmax, out, 64, CodeBook.NF4),
    )


def swiglu() -> tuple[Callable[[], object], Callable[[], object]]:
    """Forward of 1,200 tokens."""
    native = kernels()
    assert native is not None
    gate, up = (torch.randn(1200, 1536, dtype=torch.bfloat16) for _ in range(2))
    return lambda: native.rowwise.swiglu_forward(gate, up), lambda: functional.silu(gate) * up


BF16_VARIANT = "avx512bf16"
BUFFERS = 20
"""Results that products fill in turn, so that they go to memory that is not in the cache, as in training."""
RANK = 16


def product(tokens: int, inputs: int, outputs: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """A layer's forward with LoRA's update: one pass, or torch's product and addition."""
    x, left = (torch.randn(tokens, width).bfloat16() for width in (inputs, RANK))
    weight, right = (torch.randn(outputs, width).bfloat16() for width in (inputs, RANK))
    results = cycle([torch.ones(tokens, outputs).bfloat16() for _ in range(BUFFERS)])
    return (
        lambda: products.linear(x, weight, None, products.LowRank(left, right, 2.0), out=next(results)),
        lambda: torch.mm(x, weight.t(), out=next(results)).addmm_(left, right.t(), alpha=2.0),
    )


def narrow(tokens: int, width: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """What LoRA asks of a layer's input: x Aᵀ, and A's gradient in float32."""
    a, down = torch.randn(RANK, width).bfloat16(), torch.randn(tokens, RANK).bfloat16()
    inputs = cycle([torch.randn(tokens, width).bfloat16() for _ in range(BUFFERS)])

    def ours() -> None:
        x = next(inputs)
        products.linear(x, a)
        products.factor_grad(down, x, 2.0)

    def torchs() -> None:
        x = next(inputs)
        torch.mm(x, a.t())
        torch.mm(down.t(), x).float().mul_(2.0)

    return ours, torchs


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    chosen = compiled_choice()
    print(f"torch {torch.__version__}, {args.threads} threads, kernels: {chosen.variant} ({chosen.reason})")
    cases = {
        "attention 8 x 150, forward and backward": attention(8, 150),
        "attention 8 x 256, forward and backward": attention(8, 256),
        "attention 1 x 2048, forward and backward": attention(1, 2048),
        "window of 512 in 1 x 1024, Gemma 3 270M": windowed(1024, 4, 1, AttentionSpec(window=512)),
        "window of 512 in 1 x 2048, Gemma 3 270M": windowed(2048, 4, 1, AttentionSpec(window=512)),
        "soft cap of 50 in 1 x 1024, Gemma 2 2B": windowed(1024, 8, 4, AttentionSpec(softcap=50.0)),
        "product with update 1792 x 576 x 1536": product(1792, 576, 1536),
        "product with update 1792 x 1536 x 576": product(1792, 1536, 576),
        "product with update 600 x 576 x 1536": product(600, 576, 1536),
        "x A and A's gradient 1792 x 576": narrow(1792, 576),
        "x A and A's gradient 1792 x 1536": narrow(1792, 1536),
        "NF4 decode 1536 x 576": decode(),
        "SwiGLU forward 1200 x 1536": swiglu(),
    }
    for name, (ours, torchs) in cases.items():
        compare(name, ours, "torch", torchs, args.rounds)
    if compiled_choice().variant == BF16_VARIANT:
        for documents, length in ((8, 150), (4, 512), (1, 2048)):
            floats, fastest = in_floats(documents, length, library_path(BF16_VARIANT))
            compare(f"attention in floats {documents} x {length}", floats, "bfloat16", fastest, args.rounds)


def compare(name: str, ours: Callable[[], object], other: str, theirs: Callable[[], object], rounds: int) -> None:
    """Print one line."""
    left, right = milliseconds(ours, rounds), milliseconds(theirs, rounds)
    print(f"{name:42s} {left:8.2f} ms   {other} {right:8.2f} ms   {right / left:5.2f} x")


if __name__ == "__main__":
    main()
