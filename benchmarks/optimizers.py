"""What a step of every optimiser costs, and what it keeps: an adapter's tensors, random gradients, no model.

The tensors are those of rank 16 on all linear layers of SmolLM2-135M (4.9 million numbers in 420 tensors). The best of
several steps, since other programs can only make one slower; where bitsandbytes is installed, its 8-bit AdamW beside.

Usage: python benchmarks/optimizers.py [--steps N] [--threads N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec

import torch
from torch import nn

from veneer.config import TrainSection
from veneer.enums import OptimizerName
from veneer.training.optimizers.base import RuleOptimizer
from veneer.training.optimizers.choose import PAGED, make_rule

RANK, LAYERS = 16, 30
SIDES = ((576, 576), (576, 192), (576, 192), (576, 576), (576, 1536), (576, 1536), (1536, 576))
"""Inputs and outputs of a layer's seven linear layers."""


def parameters() -> dict[str, nn.Parameter]:
    """A and B of every layer, random."""
    found = {}
    for layer in range(LAYERS):
        for number, (inputs, outputs) in enumerate(SIDES):
            found[f"{layer}.{number}.A"] = nn.Parameter(torch.randn(RANK, inputs))
            found[f"{layer}.{number}.B"] = nn.Parameter(torch.randn(outputs, RANK))
    return found


def best_step(step: Callable[[], object], named: Mapping[str, nn.Parameter], steps: int) -> float:
    """Seconds of the fastest of so many steps."""
    best = float("inf")
    for _ in range(steps + 1):
        for parameter in named.values():
            parameter.grad = torch.randn_like(parameter)
        begun = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - begun)
    return best


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    count = sum(parameter.numel() for parameter in parameters().values())
    print(
        f"{count:,} numbers, {args.threads} threads\n| optimiser | ms a step | million numbers a second | state, MB |"
    )
    print("|---|---|---|---|")

    def line(name: str, seconds: float, state: int) -> None:
        print(f"| {name} | {1e3 * seconds:.1f} | {count / seconds / 1e6:,.0f} | {state / 1e6:.1f} |", flush=True)

    for name in OptimizerName:
        if name in PAGED:
            continue  # on a CPU they are the others
        optimizer = RuleOptimizer(
            parameters(), make_rule(TrainSection(optimizer=name), torch.device("cpu")), weight_decay=0.0
        )
        state = sum(tensor.nbytes for tensor in optimizer.tensors().values())
        line(name.value, best_step(lambda: optimizer.step(1e-3), optimizer.parameters, args.steps), state)  # noqa: B023
    if find_spec("bitsandbytes") is not None:
        import bitsandbytes

        named = parameters()
        peer = bitsandbytes.optim.AdamW8bit(named.values(), lr=1e-3)
        seconds = best_step(peer.step, named, args.steps)
        kept = [value for state in peer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
        line("bitsandbytes' adamw8bit", seconds, sum({tensor.data_ptr(): tensor.nbytes for tensor in kept}.values()))


if __name__ == "__main__":
    main()
