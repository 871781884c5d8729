"""Where a LoRA step's time goes, by torch's profiler: shares of the functions that veneer's steps are made of.

Usage: python benchmarks/step_shares.py [--data rows.jsonl] [--threads N]

SmolLM2-135M in bfloat16, rank 16 on all linear layers, 8 rows a step; four steps are counted after four others.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import torch
from int8 import prepare
from peers.launch import BUILD, choose_data, write_rows
from torch.profiler import ProfilerActivity, profile

from veneer.bundled import bundled_model
from veneer.data.encoded.encoding import encode_all
from veneer.data.micro_batches.packing import pack
from veneer.data.records import read_records
from veneer.enums import Overlong, Products
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.machine.heap import heap_kept

STEPS, ROWS, MICRO_BATCH_TOKENS = 4, 8, 4096
PARTS = {
    "_LoraProduct": "products with the base and of LoRA",
    "_TogetherByKernels": "products with the base and of LoRA",
    "_LinearCrossEntropy": "the head and the cross-entropy",
    "_PackedKernel": "attention",
    "_SwiGlu": "SwiGLU",
    "_RmsNorm": "norms",
    "_AddRmsNorm": "norms",
    "_Rotate": "rotary positions",
}
"""Functions, without the ending of their backward, and what they are part of."""


def main() -> None:
    """Profile, and print a share a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="rows (GSM8K beside the checkout, or the bundled ones)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = write_rows(choose_data(args.data, print), 2 * STEPS * ROWS, BUILD / "step-rows.jsonl")
    checkpoint = open_checkpoint(bundled_model())
    examples = encode_all(
        read_records(rows), checkpoint.tokenizer(), max_length=None, overlong=Overlong.DROP
    ).examples  # fmt: skip
    batches = [
        list(pack(examples[start : start + ROWS], MICRO_BATCH_TOKENS)) for start in range(0, len(examples), ROWS)
    ]
    with heap_kept():
        side = prepare(checkpoint, WeightForm.FROZEN, Products.EXACT)
        for batch in batches[:STEPS]:
            side.step(batch)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for batch in batches[STEPS : 2 * STEPS]:
                side.step(batch)
    shares: Counter[str] = Counter()
    for event in profiler.key_averages():
        part = PARTS.get(event.key.removesuffix("Backward"), "the rest")
        shares[part] += event.self_cpu_time_total
    for part, time in shares.most_common():
        print(f"{part:40s} {time / sum(shares.values()):6.1%}")


if __name__ == "__main__":
    main()
