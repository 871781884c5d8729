"""Seconds until SmolLM2-135M is ready to train, after `import torch`, and the first step beside later ones.

Each round is a fresh process: GGUF as the quickstart's package carries it, and the same weights as bfloat16
safetensors. The files are in the system's cache from the second round on; the median counts.

Usage: python benchmarks/startup.py [--rounds N] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROBE = """
import json, sys, time, torch
torch.set_num_threads(int(sys.argv[3]))
start = time.perf_counter()
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.training.over_model import OverModel
from veneer.training.optimizers.adamw import AdamW
from veneer.training.optimizers.base import RuleOptimizer
origin = open_checkpoint(sys.argv[1])
tokenizer = origin.tokenizer()
model = load_model(origin, Loading(form=WeightForm(sys.argv[2]))).train()
adapter = inject(model, LoraSpec(rank=16, alpha=32.0), seed=0)
names = dict(zip(adapter.tensors(), adapter.parameters(), strict=True))
optimizer = RuleOptimizer(names, AdamW((0.9, 0.999)), weight_decay=0.0)
ready = time.perf_counter() - start
from veneer.data.micro_batches.batches import MicroBatch
tokens = torch.randint(0, 40000, (1024,), generator=torch.Generator().manual_seed(0))
rows = torch.arange(100, 200)
batch = MicroBatch(tokens, torch.arange(256).repeat(4), 0, (256,) * 4, 0, tokens[rows + 1], rows)
steps = []
for _ in range(6):
    start = time.perf_counter()
    (OverModel(model).sums(batch).total / 100).backward()
    optimizer.step(1e-4)
    steps.append(time.perf_counter() - start)
print(json.dumps({"ready": ready, "first": steps[0], "later": sorted(steps[1:])[2]}))
"""


def as_safetensors(source: str, folder: Path) -> str:
    """The model as a directory of bfloat16 safetensors with its tokenizer."""
    import torch

    from veneer.io.checkpoint import open_checkpoint
    from veneer.io.model_files import save_model

    origin = open_checkpoint(source)
    save_model(folder, {name: origin.read(name, torch.bfloat16) for name in origin.names()}, origin)
    return str(folder)


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    from veneer.bundled import bundled_model

    gguf = bundled_model()
    with tempfile.TemporaryDirectory() as folder:
        for name, source in (("GGUF", gguf), ("safetensors", as_safetensors(gguf, Path(folder)))):
            for method, form in (("LoRA", "frozen"), ("QLoRA", "quantized")):
                found = []
                for _ in range(args.rounds):
                    command = [sys.executable, "-c", PROBE, source, form, str(args.threads)]
                    found.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
                ready, first, later = (
                    statistics.median(run[key] for run in found) for key in ("ready", "first", "later")
                )
                print(
                    f"{name:12} {method:6} ready in {ready:.2f} s; first step {first:.2f} s, "
                    f"{first / later:.2f} times a later one"
                )


if __name__ == "__main__":
    main()
