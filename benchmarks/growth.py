"""How speed and memory grow: with the length of documents, the tokens and documents of a step, rank, the model's size,
and the number of steps made.

Every case is a process of its own, with random weights and tokens (half of them supervised), LoRA on all linear layers,
one micro-batch a step. Tokens a second are the median of its steps but the first; memory is the process's peak.

Usage: python benchmarks/growth.py [--only length,tokens,documents,rank,size,steps] [--threads N] [--output FOLDER]
Writes growth.json and one SVG for each series into FOLDER (default: build/growth).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.data.micro_batches.batches import MicroBatch
from veneer.html.charts import Series, line_chart
from veneer.machine.peak_memory import peak_memory_mb
from veneer.model.decoder import CausalLM
from veneer.model.families.choose import spec_from_hf
from veneer.model.leaves import DenseLinear
from veneer.model.shape import DecoderSpec
from veneer.training.optimizers.adamw import AdamW
from veneer.training.optimizers.base import RuleOptimizer
from veneer.training.over_model import OverModel

# hidden, intermediate, layers, heads, key heads, vocabulary: SmolLM2-135M, SmolLM2-360M and Llama-3.2-1B
SIZES = {
    "135M": (576, 1536, 30, 9, 3, 49152),
    "360M": (960, 2560, 32, 15, 5, 49152),
    "1B": (2048, 8192, 16, 32, 8, 128256),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One run: `documents` of `length` tokens make a step."""

    series: str
    x: float
    """Where it stands in its series."""
    length: int
    documents: int
    rank: int = 16
    size: str = "135M"
    steps: int = 4


@dataclass(frozen=True, slots=True)
class Result:
    """What a run took."""

    tokens_per_second: float
    peak_mb: float
    seconds: list[float]


CASES = [
    *(Case("length", length, length, max(1, 2048 // length)) for length in (256, 512, 1024, 2048, 4096, 8192)),
    *(Case("tokens", 256 * count, 256, count) for count in (1, 2, 4, 8, 16)),
    *(Case("documents", count, 2048 // count, count) for count in (2, 4, 8, 16, 32)),
    # The 360M shape, since the rank cannot exceed a layer's smaller side: 192 for the keys of the 135M one, 320 here.
    *(Case("rank", rank, 256, 4, rank=rank, size="360M") for rank in (4, 16, 64, 128, 256)),
    *(Case("size", parameters, 256, 4, size=size) for size, parameters in (("135M", 135), ("360M", 360), ("1B", 1236))),
    Case("steps", 60, 128, 4, steps=60),
]
LABELS = {
    "length": "tokens of a document (2,048 tokens a step, or one document)",
    "tokens": "tokens of a step (documents of 256)",
    "documents": "documents of a step of 2,048 tokens",
    "rank": "rank (the 360M shape, 1,024 tokens a step)",
    "size": "millions of parameters (1,024 tokens a step)",
}


class RandomWeights:
    """A `Weights` whose tensors are drawn, small enough that activations stay finite."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        """A frozen bfloat16 layer."""
        return DenseLinear(self.parameter(f"{path}.weight", (out_features, in_features)))

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        """A frozen bfloat16 tensor; norms are one."""
        if len(shape) == 1:
            return nn.Parameter(torch.ones(shape, dtype=torch.bfloat16), requires_grad=False)
        drawn = torch.empty(shape, dtype=torch.bfloat16).normal_(0, shape[-1] ** -0.5, generator=self._generator)
        return nn.Parameter(drawn, requires_grad=False)


def spec_of(size: str) -> DecoderSpec:
    """The shapes of a Llama of that size."""
    hidden, intermediate, layers, heads, kv_heads, vocabulary = SIZES[size]
    return spec_from_hf(
        {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "vocab_size": vocabulary,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 100_000.0,
            "tie_word_embeddings": True,
        }
    )


def batch_of(case: Case, vocabulary: int) -> MicroBatch:
    """Random documents, the second half of each supervised."""
    total = case.length * case.documents
    tokens = torch.randint(0, vocabulary, (total,), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(case.length).repeat(case.documents)
    rows = torch.nonzero((positions >= case.length // 2) & (positions < case.length - 1))[:, 0]
    return MicroBatch(tokens, positions, 0, (case.length,) * case.documents, 0, tokens[rows + 1], rows)


def measure(case: Case) -> Result:
    """Run the steps of a case in this process."""
    model = CausalLM(spec_of(case.size), RandomWeights(), torch.bfloat16).train()
    adapter = inject(model, LoraSpec(rank=case.rank, alpha=2.0 * case.rank), seed=0)
    names = dict(zip(adapter.tensors(), adapter.parameters(), strict=True))
    optimizer = RuleOptimizer(names, AdamW((0.9, 0.999)), weight_decay=0.0)
    batch = batch_of(case, model.spec.vocab_size)
    seconds = []
    for _ in range(case.steps):
        start = time.perf_counter()
        (OverModel(model).sums(batch).total / batch.supervised).backward()
        optimizer.step(1e-4)
        seconds.append(time.perf_counter() - start)
    rate = len(batch.tokens) / statistics.median(seconds[1:])
    return Result(round(rate, 1), round(peak_memory_mb(torch.device("cpu"))), [round(s, 4) for s in seconds])


def in_own_process(case: Case, threads: int) -> Result:
    """The same in a fresh process, whose peak is its own."""
    command = [sys.executable, __file__, "--case", json.dumps(asdict(case)), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case}: {done.stderr.strip().splitlines()[-1]}")
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def show(series: str, found: list[tuple[Case, Result]], folder: Path, console: Console) -> None:
    """A table, and charts of speed and memory."""
    table = Table(title=LABELS[series])
    for heading in (series, "tokens/s", "ms a token", "peak MB"):
        table.add_column(heading, justify="right")
    for case, result in found:
        rate = result.tokens_per_second
        table.add_row(f"{case.x:g}", f"{rate:,.0f}", f"{1000 / rate:.2f}", f"{result.peak_mb:,.0f}")
    console.print(table)
    cost = [(case.x, 1000 / result.tokens_per_second) for case, result in found]
    memory = [(case.x, result.peak_mb) for case, result in found]
    for name, label, points in (("time", "milliseconds a token", cost), ("memory", "peak MB", memory)):
        chart = line_chart(f"{series}: {label}", LABELS[series], label, [Series(label, points, marked=True)])
        (folder / f"{series}-{name}.svg").write_text(chart, encoding="utf-8")


def show_steps(result: Result, folder: Path, console: Console) -> None:
    """Whether later steps cost more than earlier ones."""
    first, last = result.seconds[1:21], result.seconds[-20:]
    console.print(
        f"steps: the median of the first 20 is {1000 * statistics.median(first):.0f} ms, of the last 20 "
        f"{1000 * statistics.median(last):.0f} ms; the very first {1000 * result.seconds[0]:.0f} ms"
    )
    points = [(float(step), 1000 * seconds) for step, seconds in enumerate(result.seconds, 1)]
    chart = line_chart("milliseconds a step", "step", "milliseconds", [Series("a step of 512 tokens", points)])
    (folder / "steps-time.svg").write_text(chart, encoding="utf-8")


def main() -> None:
    """Run the cases and show them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="length,tokens,documents,rank,size,steps")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=Path("build/growth"))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = set(args.only.split(",")) - {case.series for case in CASES}
    if unknown:
        parser.error(f"--only names no series: {', '.join(sorted(unknown))}")
    if args.case:
        torch.set_num_threads(args.threads)
        print(json.dumps(asdict(measure(Case(**json.loads(args.case))))))
        return
    console = Console()
    args.output.mkdir(parents=True, exist_ok=True)
    numbers: dict[str, list[dict[str, Any]]] = {}
    for series in args.only.split(","):
        results = []
        for case in (case for case in CASES if case.series == series):
            console.print(f"{case.series} {case.x:g} …", style="dim")
            results.append((case, in_own_process(case, args.threads)))
        if series == "steps":
            show_steps(results[0][1], args.output, console)
        else:
            show(series, results, args.output, console)
        # After every series, so that what was measured is there if a later one fails.
        numbers[series] = [{**asdict(case), **asdict(result)} for case, result in results]
        (args.output / "growth.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
