"""The compiled kernels against torch's own operations, each on the same tensors, median of several rounds.

Usage: python benchmarks/kernels.py [--threads N] [--rounds N]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from veneer.native.library import Documents, choice, kernels
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


def attention(documents: int, length: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Forward and backward over packed documents, 9 query and 3 key heads of 64 (SmolLM2), bfloat16."""
    native = kernels()
    assert native is not None
    tokens = documents * length
    q, grad = (torch.randn(tokens, 9, 64, dtype=torch.bfloat16) for _ in range(2))
    k, v = (torch.randn(tokens, 3, 64, dtype=torch.bfloat16) for _ in range(2))
    packed = Documents((length,) * documents)

    def ours() -> None:
        output, lse = native.attention_forward(q, k, v, packed, 0.125)
        native.attention_backward(q, k, v, packed, 0.125, output, lse, grad)

    def torchs() -> None:
        batch = [x.view(documents, length, -1, 64).transpose(1, 2).detach().requires_grad_() for x in (q, k, v)]
        output = functional.scaled_dot_product_attention(*batch, is_causal=True, enable_gqa=True)
        output.backward(grad.view(documents, length, 9, 64).transpose(1, 2))

    return ours, torchs


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
    return lambda: native.swiglu_forward(gate, up), lambda: functional.silu(gate) * up


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, kernels: {choice().variant} ({choice().reason})")
    cases = {
        "attention 8 x 150, forward and backward": attention(8, 150),
        "attention 8 x 256, forward and backward": attention(8, 256),
        "attention 1 x 2048, forward and backward": attention(1, 2048),
        "NF4 decode 1536 x 576": decode(),
        "SwiGLU forward 1200 x 1536": swiglu(),
    }
    for name, (ours, torchs) in cases.items():
        left, right = milliseconds(ours, args.rounds), milliseconds(torchs, args.rounds)
        print(f"{name:42s} {left:8.2f} ms   torch {right:8.2f} ms   {right / left:5.2f} x")


if __name__ == "__main__":
    main()
