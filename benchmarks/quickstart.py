"""The quickstart held to an instruction set: what it does within its time on a narrower processor than this one.

    python benchmarks/quickstart.py --variant avx2 [--seconds 510] [--output results.json]

veneer uses the kernels of the variant, and torch, oneDNN and MKL are told to use no more (peers/launch.py). The dtype
is what suits the instructions: float32 where they have no products of bfloat16. The clock runs from the start of the
process that computes to its end; 510 seconds are what `make quickstart` allows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from compare import suitable_dtype
from peers.launch import HELD

SECONDS = 510.0
ROWS = 150


def held(variant: str, seconds: float, folder: str) -> dict[str, Any]:
    """Run the quickstart in this process, whose environment holds torch to the variant."""
    from veneer.enums import Dtype, Method
    from veneer.native.library import use_variant
    from veneer.training.run import train
    from veneer.walkthrough import scored, walkthrough_config

    use_variant(variant)
    config = walkthrough_config(Method.QLORA, None, Path(folder, "run"), "cpu", seconds)
    config = config.changed("compute", {"dtype": Dtype(suitable_dtype(variant))})
    begun = time.perf_counter()
    run = train(config)
    return scored(run, config, ROWS, lambda event: None, begun, seconds).to_json()


def main() -> None:
    """Start the held process, and show what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=HELD, required=True, help="hold the quickstart to these instructions")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="its time limit")
    parser.add_argument("--output", type=Path, help="a file for all figures, as JSON")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder:
        Path(args.folder, "result.json").write_text(json.dumps(held(args.variant, args.seconds, args.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, __file__, "--variant", args.variant, "--seconds", str(args.seconds), "--folder", folder],
            env=os.environ | HELD[args.variant],
            check=True,
        )
        seconds, found = time.perf_counter() - begun, json.loads(Path(folder, "result.json").read_text())
    if args.output is not None:
        args.output.write_text(json.dumps(found | {"seconds": seconds}, indent=1) + "\n", encoding="utf-8")
    print(
        f"{args.variant}: {seconds / 60:.1f} min in all, training {found['train_seconds'] / 60:.1f} min at "
        f"{found['tokens_per_second']:.0f} tokens/s, {found['peak_memory_mb']} MB\nleft out: {found['shortening']}"
    )
    for name, report in found["sets"].items():
        print(f"{name}: {json.dumps(report)[:2000]}")


if __name__ == "__main__":
    main()
