"""What DoRA adds to a step of LoRA: both train the same rows of the bundled claims in turn, step by step.

SmolLM2-135M, rank 16 on all linear layers. What else the machine does hits both alike; the first step is not counted.

Usage: python benchmarks/dora.py [--method lora|qlora] [--dtype bfloat16|float32] [--variant avx2] [--steps N]
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace

import torch
from int8 import MICRO_BATCH_TOKENS, SPEC, prepare

from veneer.bundled import bundled_data, bundled_model
from veneer.data.encoded.encoding import encode_all
from veneer.data.micro_batches.packing import pack
from veneer.data.records import read_records
from veneer.enums import Overlong, Products, Variant
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.machine.heap import heap_kept
from veneer.native.library import compiled_choice, use_variant


def main() -> None:
    """Train both, and print a line for each step and the median of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=["lora", "qlora"], default="lora")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--variant", help="kernels of another instruction set than the processor's best")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rows", type=int, default=8, help="rows of a step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.variant:
        use_variant(args.variant)
    checkpoint = open_checkpoint(bundled_model())
    records = read_records(bundled_data() / "train.jsonl")
    rows = encode_all(records, checkpoint.tokenizer(), max_length=None, overlong=Overlong.DROP).examples
    form = WeightForm.QUANTIZED if args.method == "qlora" else WeightForm.FROZEN
    lora, dora = (
        prepare(checkpoint, form, Products.EXACT, spec, getattr(torch, args.dtype))
        for spec in (SPEC, replace(SPEC, variant=Variant.DORA))
    )
    variant = compiled_choice().variant
    print(f"{args.method}, {args.dtype}, {args.rows} rows a step, {args.threads} threads, kernels {variant}")
    with heap_kept():
        for number in range(args.steps):
            first = number * args.rows % (len(rows) - args.rows)
            batches = list(pack(rows[first : first + args.rows], MICRO_BATCH_TOKENS))
            for side in (lora, dora) if number % 2 else (dora, lora):
                side.step(batches)
            print(f"step {number + 1:3d}  LoRA {lora.seconds[-1]:5.2f} s  DoRA {dora.seconds[-1]:5.2f} s", flush=True)
    ratios = [b / a for a, b in zip(lora.seconds[1:], dora.seconds[1:], strict=True)]
    low, median, high = min(ratios), statistics.median(ratios), max(ratios)
    print(f"a step with DoRA takes {median:.3f} of one with LoRA ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
