"""One CUDA card: is every kernel right, and how fast are LoRA and QLoRA steps of a Llama shape with random weights?

Nothing is downloaded. Each part is a process of its own and ends within ten minutes:

    kernels     every kernel in bfloat16 and float16 against torch in float64
    packed      products of a few rows with packed weights, with decoded ones and with those in 16 bits
    veneer      training steps of 2,048 and 8,192 tokens (documents of 2,048), rank 16 on all linear layers, from random
                weights made on the card: tokens/s, model FLOP utilisation and peak memory
    graphs      a step of answers as a CUDA graph: captured, replayed, its bits compared with those of a plain one
    profile     a step's kernels, launches and waits, by torch's profiler
    checkpoint  a random checkpoint on disk, for the parts below (16 GB for 8b)
    lora, qlora runs of `veneer train`: loading, steps with and without recomputation, memory against the plan
    resume      the bytes of a run that is made again and of one that is resumed, in deterministic mode
    default     the same by default, where bytes may differ
    answers     tokens/s of answers
    peft, unsloth   the same steps by TRL + PEFT and by Unsloth, where they are installed; they keep all activations
                where the memory allows it, as veneer does

What each part prints is also written into a JSON file after each part, with its seconds and exit status, so that a part
that hangs or fails loses nothing of those before it. `--dry-run` goes through every part with a model of two layers, on
a CPU too: it shows that the parts run, and measures nothing.

Usage: python benchmarks/gpu.py [--size 135m|1b|8b] [--peak TFLOPS] [--minutes N] [--json FILE] [--dry-run]
       python benchmarks/gpu.py --part PART [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from gpu_engine import run_answers, run_resume, run_steps
from gpu_graphs import run_graphs
from gpu_kernels import run_kernels
from gpu_packed import run_packed
from gpu_peers import NEEDS, missing, run_peer, write_checkpoint
from gpu_profile import run_profile
from gpu_shapes import (
    ALPHA,
    DRY,
    FULL,
    HEADER,
    RANK,
    SIZES,
    TINY,
    Load,
    documents,
    flops_per_token,
    peak_tflops,
    random_tensor,
    row,
)
from torch import nn

from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.packing import pack
from veneer.io.files import write_text
from veneer.machine.hardware import computing_on, processor
from veneer.model.decoder import CausalLM
from veneer.model.families.choose import spec_from_hf
from veneer.model.leaves import DenseLinear
from veneer.model.shape import DecoderSpec
from veneer.quant.four_bit import QuantLinear
from veneer.training.gradients import clip, squared_norm
from veneer.training.objectives.base import Means
from veneer.training.optimizers.adamw import AdamW
from veneer.training.optimizers.base import RuleOptimizer
from veneer.training.over_model import OverModel

KERNELS = ("kernels", "packed", "veneer", "graphs", "profile")
"""The parts that need nothing from a disk."""
OWN = ("lora", "qlora", "resume", "default", "answers")
"""The parts that run the whole program, from a checkpoint on disk."""


class RandomWeights:
    """Makes every leaf of a decoder on the device (`veneer.model.leaves.Weights`), so that one matrix at a time is
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


def timed(step: Callable[[], object], device: torch.device, load: Load) -> tuple[float, int]:
    """Median seconds of a step after warming up, and peak bytes of those that were timed."""
    for _ in range(load.warmup):
        step()
    on_card = device.type == "cuda"
    if on_card:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(load.steps):
        start = time.perf_counter()
        step()
        if on_card:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), torch.cuda.max_memory_allocated(device) if on_card else 0


def veneer_step(
    spec: DecoderSpec, quantized: bool, device: torch.device, document: int
) -> Callable[[int], Callable[[], float]]:
    """A model with an adapter; for a number of tokens, one optimiser step as the engine makes it."""
    model = CausalLM(spec, RandomWeights(device, quantized=quantized), torch.bfloat16).train()
    adapter = inject(model, LoraSpec(rank=RANK, alpha=ALPHA))
    adapter.round_ahead(model.dtype)
    parameters = adapter.parameters()
    optimizer = RuleOptimizer(adapter.named_parameters(), AdamW((0.9, 0.999)), weight_decay=0.0)
    objective = OverModel(model)

    def prepare(tokens: int) -> Callable[[], float]:
        rows = [Example(x, np.arange(len(x)) > 0, "random") for x in documents(tokens, spec.vocab_size, document)]
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


def answering(spec: DecoderSpec, quantized: bool, device: torch.device) -> CausalLM:
    """A model with an adapter, in evaluation mode."""
    model = CausalLM(spec, RandomWeights(device, quantized=quantized), torch.bfloat16)
    inject(model, LoraSpec(rank=RANK, alpha=ALPHA)).round_ahead(model.dtype)
    return model.eval()


def run_veneer(spec: DecoderSpec, device: torch.device, peak: float | None, load: Load) -> None:
    """Print a line for LoRA and QLoRA at each number of tokens."""
    flops = flops_per_token(spec, RANK, load.document)
    for quantized in (False, True):
        method, prepare = "QLoRA" if quantized else "LoRA", None
        for tokens in load.tokens:
            try:
                prepare = prepare or veneer_step(spec, quantized, device, load.document)
                seconds, memory = timed(prepare(tokens), device, load)
                print(row("veneer", method, tokens, seconds, memory, flops, peak), flush=True)
            except torch.OutOfMemoryError:
                print(f"{'veneer':22} {method:6} {tokens:6,} out of memory", flush=True)
            torch.cuda.empty_cache()


@dataclass(frozen=True, slots=True)
class Bench:
    """What is measured, and on what."""

    size: str
    device: torch.device
    peak: float | None
    """Dense TFLOP/s of the card, where they are known."""
    dry: bool

    @property
    def config(self) -> dict[str, object]:
        """The config.json of the model."""
        return TINY if self.dry else SIZES[self.size]

    @property
    def load(self) -> Load:
        """How much is computed."""
        return DRY if self.dry else FULL


def run_part(part: str, bench: Bench, folder: Path | None) -> bool:
    """One part, in this process; whether all was right."""
    device, load, spec = bench.device, bench.load, spec_from_hf(bench.config)
    if part in KERNELS:
        with computing_on(device, deterministic=False):
            if part == "kernels":
                return run_kernels(device)
            if part == "packed":
                run_packed(device, dry=bench.dry)
            elif part == "veneer":
                run_veneer(spec, device, bench.peak, load)
            elif part == "graphs":
                return run_graphs(lambda quantized: answering(spec, quantized, device), device, load)
            else:
                document = load.document
                run_profile(
                    lambda quantized: veneer_step(spec, quantized, device, document)(document), device, load.warmup
                )
        return True
    assert folder is not None
    if part == "checkpoint":
        write_checkpoint(bench.config, folder, device)
    elif part in OWN:
        return run_own(part, bench, folder)
    else:
        run_peer(part, bench.config, folder, device, bench.peak, load)
    return True


def run_own(part: str, bench: Bench, folder: Path) -> bool:
    """A part that runs the whole program from the checkpoint in `folder`; whether all was right."""
    spec, device, load = spec_from_hf(bench.config), str(bench.device), bench.load
    with tempfile.TemporaryDirectory() as work:
        if part in ("lora", "qlora"):
            run_steps(spec, folder, Path(work), device, bench.peak, load, part)
        elif part in ("resume", "default"):
            return run_resume(spec, folder, Path(work), device, load, deterministic=part == "resume")
        else:
            run_answers(folder, device, load)
    return True


@dataclass(slots=True)
class PartDone:
    """What a part has printed, and how it ended."""

    part: str
    seconds: float = 0.0
    status: int | None = None
    """Its exit status; None where it was stopped, because its time was over."""
    lines: list[str] = field(default_factory=list)


def run_in_process(part: str, command: list[str], minutes: float, show_errors: bool) -> PartDone:
    """Run a part in a process of its own, and show what it prints as it comes.

    Args:
        part: its name.
        command: starts it.
        minutes: after which it is stopped.
        show_errors: whether what goes to stderr is shown too; where not, its end is, if the part fails.
    """
    done, begun, late = PartDone(part), time.perf_counter(), threading.Event()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=None if show_errors else errors, text=True, errors="replace",
            start_new_session=True,
        ) as process,
    ):  # fmt: skip

        def stop() -> None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)  # with processes that it has started: they hold its output open

        clock = threading.Timer(60 * minutes, stop)
        clock.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                done.lines.append(line.rstrip())
            status = process.wait()
        finally:
            clock.cancel()
            if process.poll() is None:
                stop()
        errors.seek(0)
        said = errors.read()[-3000:].splitlines() if status else []
    done.seconds, done.status = round(time.perf_counter() - begun, 1), None if late.is_set() else status
    if late.is_set():
        said.append(f"{part}: stopped, {minutes:g} minutes are over")
    elif status:
        said.append(f"{part}: failed (exit status {status})")
    for line in said:
        print(line, flush=True)
    done.lines += said
    return done


def run_all(bench: Bench, minutes: float, file: Path) -> bool:
    """Every part in a process of its own, since Unsloth changes the others' code and each has its own peak memory."""
    load, found = bench.load, []
    about = {
        "size": "dry run" if bench.dry else bench.size, "device": processor(bench.device), "peak_tflops": bench.peak,
        "torch": torch.__version__,
    }  # fmt: skip
    peers = [part for part in NEEDS if not missing(part) and not bench.dry]
    for part in NEEDS:
        if missing(part):
            print(f"{part}: not installed ({', '.join(missing(part))})", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for part in (*KERNELS, "checkpoint", *OWN, *peers):
            size = "tiny" if bench.dry else bench.size
            title = f"{size}, rank {RANK}, documents of {load.document:,} tokens, median of {load.steps} steps"
            print(f"\n{part}: {title}\n{HEADER}" if part == "veneer" else f"\n{part}", flush=True)
            command = [sys.executable, __file__, "--size", bench.size, "--part", part, "--folder", folder]
            command += ["--dry-run"] if bench.dry else []
            command += [] if bench.peak is None else ["--peak", str(bench.peak)]
            # The peers' progress bars and advice go to stderr: they are shown only where something went wrong.
            found.append(run_in_process(part, command, minutes, show_errors=part not in NEEDS))
            write_text(file, json.dumps({**about, "parts": [asdict(one) for one in found]}, indent=2) + "\n")
    print(f"\nwritten to {file}", flush=True)
    return all(one.status == 0 for one in found)


def main(argv: list[str] | None = None) -> None:
    """Run the parts and print their tables; exit status 1 where a kernel is wrong or a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="8b", help="shape of the model (default: 8b)")
    parser.add_argument("--peak", type=float, help="dense TFLOP/s of the card in 16 bits, where its name is not known")
    parser.add_argument("--minutes", type=float, default=10.0, help="stop each part after so long (default: 10)")
    parts = (*KERNELS, "checkpoint", *OWN, *NEEDS)
    parser.add_argument("--part", choices=parts, help="run one part alone")
    parser.add_argument("--folder", type=Path, help="where the checkpoint is, for the parts that read one")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="the file of results (default: gpu.json)")
    parser.add_argument("--dry-run", action="store_true", help="go through all parts with a tiny model, on a CPU too")
    args = parser.parse_args(argv)
    on_card = torch.cuda.is_available()
    if not on_card and not args.dry_run:
        sys.exit(f"benchmarks/gpu.py needs a CUDA device; torch {torch.__version__} sees none")
    if args.part in ("checkpoint", *OWN, *NEEDS):
        if args.folder is None:
            parser.error(f"--part {args.part} needs --folder")
        args.folder.mkdir(parents=True, exist_ok=True)
        if args.part != "checkpoint" and not (args.folder / "config.json").exists():
            parser.error(f"{args.folder} has no checkpoint; --part checkpoint writes one there")
    if args.minutes <= 0:
        parser.error(f"--minutes is {args.minutes:g}; it must be above 0")
    device = torch.device("cuda", 0) if on_card else torch.device("cpu")
    peak = args.peak if args.peak is not None or not on_card else peak_tflops(torch.cuda.get_device_name(0))
    bench = Bench(args.size, device, peak, args.dry_run)
    if args.part is not None:
        sys.exit(0 if run_part(args.part, bench, args.folder) else 1)
    known = "unknown; give --peak" if peak is None else f"{peak:g} TFLOP/s"
    print(f"{processor(device)}, peak {known}, torch {torch.__version__}", flush=True)
    sys.exit(0 if run_all(bench, args.minutes, args.json) else 1)


if __name__ == "__main__":
    main()
