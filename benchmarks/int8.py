"""LoRA with `compute.products` exact and int8 on the bundled claims: speed and loss of the same steps.

Both models train the same rows in turn, step by step, so that what else the machine does hits both alike; the first
step is not counted. Afterwards the loss on new records is measured of each as it was trained, and of the adapter that
was trained with int8 on the exact base, which is how `veneer evaluate` and other programs use it. The ceiling is what
int8 could give at most: the instruction is twice as fast, and the base's products are only a part of a step.

Usage: python benchmarks/int8.py [--method lora|qlora] [--steps N] [--rows N] [--threads N]
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field
from functools import cache

import torch
from cpu_kernels import milliseconds

from veneer.adapters.adapter import Adapter
from veneer.adapters.inject import inject
from veneer.adapters.layers.linear import LoraLinear
from veneer.adapters.spec import LoraSpec
from veneer.bundled import bundled_data, bundled_model
from veneer.data.encoded.encoding import encode_all
from veneer.data.micro_batches.batches import MicroBatch
from veneer.data.micro_batches.packing import pack
from veneer.data.records import read_records
from veneer.enums import Overlong, Products
from veneer.events import ignore
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM
from veneer.products import linear
from veneer.training.evaluations.held_out import evaluation
from veneer.training.gradients import clip, global_norm
from veneer.training.optimizers.adamw import AdamW
from veneer.training.optimizers.base import RuleOptimizer
from veneer.training.over_model import OverModel
from veneer.training.parallel.lanes import Team

RATE = 1e-3
MICRO_BATCH_TOKENS = 2048
HELD_OUT_ROWS = 64
SPEC = LoraSpec(rank=16, alpha=32.0)


@dataclass
class Side:
    """One of the two models, and what was measured of it."""

    model: CausalLM
    adapter: Adapter
    optimizer: RuleOptimizer
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def held_out_loss(self, batches: list[MicroBatch]) -> float:
        """The loss of rows that are not trained, as a run measures it."""
        found = evaluation(self.model, lambda most: batches, OverModel(self.model), ignore, Team())()
        assert found is not None, "no signal ends it"
        return found.loss

    def step(self, batches: list[MicroBatch]) -> None:
        """One step of the optimiser, timed."""
        start = time.perf_counter()
        supervised = sum(batch.supervised for batch in batches)
        total = 0.0
        for batch in batches:
            loss = OverModel(self.model).sums(batch).total / supervised
            loss.backward()
            total += float(loss.detach())
        parameters = self.adapter.parameters()
        clip(parameters, global_norm(parameters), 1.0)
        self.optimizer.step(RATE)
        self.seconds.append(time.perf_counter() - start)
        self.losses.append(total)


def prepare(
    checkpoint: Checkpoint,
    form: WeightForm,
    products: Products,
    spec: LoraSpec = SPEC,
    dtype: torch.dtype = torch.bfloat16,
) -> Side:
    """A model with a new adapter on all linear layers."""
    model = load_model(checkpoint, Loading(form=form, products=products, dtype=dtype))
    adapter = inject(model, spec)
    named = dict(zip(adapter.tensors(), adapter.parameters(), strict=True))
    return Side(model, adapter, RuleOptimizer(named, AdamW((0.9, 0.99)), weight_decay=0.0))


def base_share(model: CausalLM, tokens: int, seconds: float) -> float:
    """The part of an exact step of `tokens` and `seconds` that its products with the base take, by themselves."""
    total = 0.0
    for layer in (module for module in model.modules() if isinstance(module, LoraLinear)):
        total += product_seconds(tokens, layer.in_features, layer.out_features)
        total += product_seconds(tokens, layer.out_features, layer.in_features)
    return total / seconds


@cache
def product_seconds(tokens: int, inputs: int, columns: int) -> float:
    """Median time of a product of that shape."""
    x, weight = torch.randn(tokens, inputs).bfloat16(), torch.randn(columns, inputs).bfloat16()
    return milliseconds(lambda: linear(x, weight), rounds=10) / 1000


def main() -> None:
    """Train both, and print a line for each step and the totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=["lora", "qlora"], default="lora")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, default=8, help="rows of a step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    checkpoint = open_checkpoint(bundled_model())
    tokenizer = checkpoint.tokenizer()
    rows, heldout = (
        encode_all(read_records(bundled_data() / name), tokenizer, max_length=None, overlong=Overlong.DROP).examples
        for name in ("train.jsonl", "new_records.jsonl")
    )
    form = WeightForm.QUANTIZED if args.method == "qlora" else WeightForm.FROZEN
    sides = {products: prepare(checkpoint, form, products) for products in Products}
    exact, fast = sides[Products.EXACT], sides[Products.INT8]
    print(f"{args.method}, {args.rows} rows a step, {args.threads} threads, torch {torch.__version__}")
    tokens = []
    for number in range(args.steps):
        first = number * args.rows % (len(rows) - args.rows)
        batches = list(pack(rows[first : first + args.rows], MICRO_BATCH_TOKENS))
        tokens.append(sum(batch.document_tokens for batch in batches))
        for side in (exact, fast) if number % 2 else (fast, exact):
            side.step(batches)
        print(
            f"step {number + 1:3d}  exact {exact.seconds[-1]:5.2f} s, loss {exact.losses[-1]:.4f}   "
            f"int8 {fast.seconds[-1]:5.2f} s, loss {fast.losses[-1]:.4f}",
            flush=True,
        )

    for name, side in (("exact", exact), ("int8", fast)):
        rates = [count / seconds for count, seconds in zip(tokens[1:], side.seconds[1:], strict=True)]
        print(f"{name:5s} {statistics.median(rates):6.0f} tokens/s (best step {max(rates):.0f})")
    ratios = [a / b for a, b in zip(exact.seconds[1:], fast.seconds[1:], strict=True)]
    share = base_share(exact.model, round(statistics.median(tokens[1:])), statistics.median(exact.seconds[1:]))
    print(
        f"int8 is {statistics.median(ratios):.2f} times as fast (median over the steps' pairs); the ceiling is "
        f"{1 / (1 - share / 2):.2f}: {100 * share:.0f} % of an exact step are products with the base"
    )
    differences = [b - a for a, b in zip(exact.losses, fast.losses, strict=True)]
    print(f"training loss, int8 - exact: mean {statistics.mean(differences):+.4f}, last {differences[-1]:+.4f}")

    batches = list(pack(heldout[:HELD_OUT_ROWS], MICRO_BATCH_TOKENS))
    print(f"loss on {HELD_OUT_ROWS} new records: exact {exact.held_out_loss(batches):.4f}", end=", ")
    print(f"int8 {fast.held_out_loss(batches):.4f}", end=", ")
    exact.adapter.load(fast.adapter.tensors())
    print(f"trained with int8 and used on the exact base {exact.held_out_loss(batches):.4f}")


if __name__ == "__main__":
    main()
