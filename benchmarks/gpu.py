"""One CUDA card: is every kernel right, and how fast are LoRA and QLoRA steps of a Llama shape with random weights?

Nothing is downloaded. Each part is a process of its own and ends within ten minutes:

    kernels     every kernel in bfloat16 and float16 against torch in float64
    veneer      training steps of 2,048 and 8,192 tokens (documents of 2,048), rank 16 on all linear layers, from random
                weights made on the card: tokens/s, model FLOP utilisation and peak memory
    profile     a step's kernels, launches and waits, by torch's profiler
    checkpoint  a random checkpoint on disk, for the parts below (16 GB for 8b)
    engine      runs of `veneer train`: loading, steps with and without recomputation, memory against the plan
    resume      the bytes of a run that is made again and of one that is resumed, in deterministic mode and by default
    answers     tokens/s of answers
    peft, unsloth   the same steps by TRL + PEFT and by Unsloth, where they are installed; they keep all activations
                where the memory allows it, as veneer does

Usage: python benchmarks/gpu.py [--size 135m|1b|8b] [--peak TFLOPS] [--minutes N] [--part PART --folder FOLDER]
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from gpu_engine import run_answers, run_resume, run_steps
from gpu_kernels import run_kernels
from gpu_peers import NEEDS, missing, run_peer, write_checkpoint
from gpu_profile import run_profile
from gpu_shapes import (
    ALPHA,
    DOCUMENT,
    HEADER,
    RANK,
    SIZES,
    STEPS,
    TOKENS,
    WARMUP,
    documents,
    flops_per_token,
    peak_tflops,
    random_tensor,
    row,
)
from torch import nn

from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.data.batches import pack
from veneer.data.chat import Example
from veneer.hardware import computing_on
from veneer.model.decoder import CausalLM, DenseLinear
from veneer.model.spec import DecoderSpec, spec_from_hf
from veneer.quant.linear import QuantLinear
from veneer.training.objective import OverModel
from veneer.training.objectives.base import Means
from veneer.training.optim import clip, squared_norm
from veneer.training.optimizers.adamw import AdamW
from veneer.training.optimizers.base import RuleOptimizer

OWN = ("engine", "resume", "answers")
"""The parts that run the whole program, from a checkpoint on disk."""


class RandomWeights:
    """Makes every leaf of a decoder on the device (`veneer.model.decoder.Weights`), so that one matrix at a time is
    there in full precision."""

    def __init__(self, device: torch.device, *, quantized: bool):
        self._device, self._quantized = device, quantized

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        """A frozen linear layer."""
        weight = self.parameter(f"{path}.weight", (out_features, in_features))
        return QuantLinear.from_weight(weight) if self._quantized else DenseLinear(weight)

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        """A frozen bfloat16 tensor; norms are 1."""
        return nn.Parameter(random_tensor(shape, self._device), requires_grad=False)


def timed(step: Callable[[], object], device: torch.device) -> tuple[float, int]:
    """Median seconds of a step after warming up, and peak bytes of those that were timed."""
    for _ in range(WARMUP):
        step()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        step()
        torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), torch.cuda.max_memory_allocated(device)


def veneer_step(spec: DecoderSpec, quantized: bool, device: torch.device) -> Callable[[int], Callable[[], float]]:
    """A model with an adapter; for a number of tokens, one optimiser step as the engine makes it."""
    model = CausalLM(spec, RandomWeights(device, quantized=quantized), torch.bfloat16).train()
    adapter = inject(model, LoraSpec(rank=RANK, alpha=ALPHA))
    adapter.round_ahead(model.dtype)
    parameters = adapter.parameters()
    optimizer = RuleOptimizer(adapter.named_parameters(), AdamW((0.9, 0.999)), weight_decay=0.0)
    objective = OverModel(model)

    def prepare(tokens: int) -> Callable[[], float]:
        rows = [Example(x, np.arange(len(x)) > 0, "random") for x in documents(tokens, spec.vocab_size)]
        (batch,) = pack(rows, sum(len(row.tokens) for row in rows))

        def step() -> float:
            means = Means(objective.weights([batch]))
            sums = objective.sums(batch)
            sums.loss(means.weights).backward()
            means.add(sums)
            clip(parameters, math.sqrt(means.read(squared_norm(parameters))), 1.0)
            optimizer.step(1e-4)
            adapter.round_again()
            return means.loss

        return step

    return prepare


def run_veneer(spec: DecoderSpec, device: torch.device, peak: float | None) -> None:
    """Print a line for LoRA and QLoRA at each number of tokens."""
    flops = flops_per_token(spec, RANK, DOCUMENT)
    for quantized in (False, True):
        method, prepare = "QLoRA" if quantized else "LoRA", None
        for tokens in TOKENS:
            try:
                prepare = prepare or veneer_step(spec, quantized, device)
                seconds, memory = timed(prepare(tokens), device)
                print(row("veneer", method, tokens, seconds, memory, flops, peak), flush=True)
            except torch.OutOfMemoryError:
                print(f"{'veneer':22} {method:6} {tokens:6,} out of memory", flush=True)
            torch.cuda.empty_cache()


def run_part(part: str, size: str, folder: Path | None, peak: float | None) -> bool:
    """One part, in this process; whether all was right."""
    device = torch.device("cuda", 0)
    if part == "kernels":
        return run_kernels(device)
    if part == "checkpoint":
        assert folder is not None
        write_checkpoint(SIZES[size], folder, device)
    elif part in ("veneer", "profile"):
        spec = spec_from_hf(SIZES[size])
        with computing_on(device, deterministic=False):
            if part == "veneer":
                run_veneer(spec, device, peak)
            else:
                run_profile(lambda quantized: veneer_step(spec, quantized, device)(DOCUMENT), device)
    elif part in OWN:
        assert folder is not None
        return run_own(part, size, folder, peak)
    else:
        assert folder is not None
        run_peer(part, size, folder, device, peak)
    return True


def run_own(part: str, size: str, folder: Path, peak: float | None) -> bool:
    """A part that runs the whole program from the checkpoint in `folder`; whether all was right."""
    spec = spec_from_hf(SIZES[size])
    with tempfile.TemporaryDirectory() as work:
        if part == "engine":
            run_steps(spec, folder, Path(work), "cuda:0", peak)
        elif part == "resume":
            return run_resume(spec, folder, Path(work), "cuda:0")
        else:
            run_answers(folder, "cuda:0")
    return True


def run_all(size: str, peak: float | None, minutes: float) -> bool:
    """Every part in a process of its own, since Unsloth changes the others' code and each has its own peak memory."""
    right = True
    peers = [part for part in NEEDS if not missing(part)]
    for part in NEEDS:
        if missing(part):
            print(f"{part}: not installed ({', '.join(missing(part))})", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for part in ("kernels", "veneer", "profile", "checkpoint", *OWN, *peers):
            title = f"{size}, rank {RANK}, documents of {DOCUMENT:,} tokens, median of {STEPS} steps\n{HEADER}"
            print(f"\n{part}: {title}" if part == "veneer" else f"\n{part}", flush=True)
            command = [sys.executable, __file__, "--size", size, "--part", part, "--folder", folder]
            command += [] if peak is None else ["--peak", str(peak)]
            # The peers' progress bars and advice go to stderr: they are shown only where something went wrong.
            stderr = subprocess.PIPE if part in NEEDS else None
            try:
                done = subprocess.run(command, check=False, timeout=60 * minutes, stderr=stderr, text=True)
            except subprocess.TimeoutExpired:
                print(f"{part}: stopped, {minutes:g} minutes are over")
                right = False
                continue
            if done.returncode:
                right = False
                print((done.stderr or "")[-3000:] + f"{part}: failed (exit status {done.returncode})")
    return right


def main(argv: list[str] | None = None) -> None:
    """Run the parts and print their tables; exit status 1 where a kernel is wrong or a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="8b", help="shape of the model (default: 8b)")
    parser.add_argument("--peak", type=float, help="dense bfloat16 TFLOP/s of the card, where its name is not known")
    parser.add_argument("--minutes", type=float, default=10.0, help="stop each part after so long (default: 10)")
    parts = ("kernels", "veneer", "profile", "checkpoint", *OWN, *NEEDS)
    parser.add_argument("--part", choices=parts, help="run one part alone")
    parser.add_argument("--folder", type=Path, help="where the checkpoint is, for the parts that read one")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        sys.exit(f"benchmarks/gpu.py needs a CUDA device; torch {torch.__version__} sees none")
    if args.part in ("checkpoint", *OWN, *NEEDS) and args.folder is None:
        parser.error(f"--part {args.part} needs --folder")
    card = torch.cuda.get_device_name(0)
    peak = peak_tflops(card) if args.peak is None else args.peak
    if args.part is not None:
        sys.exit(0 if run_part(args.part, args.size, args.folder, peak) else 1)
    known = "unknown; give --peak" if peak is None else f"{peak:g} TFLOP/s"
    print(f"{card}, peak {known}, torch {torch.__version__}", flush=True)
    sys.exit(0 if run_all(args.size, peak, args.minutes) else 1)


if __name__ == "__main__":
    main()
