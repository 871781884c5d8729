"""Predicted against measured peak memory: random Llama shapes trained for three steps, each run in its own process.

    nice python benchmarks/plan_grid.py                 # the whole grid, about a quarter of an hour on two cores
    python benchmarks/plan_grid.py --only m30 --every 3
    python benchmarks/plan_grid.py --again grid.json    # measured before, predicted by the code as it is now

Measured is the process's peak resident memory as the system counts it (`ru_maxrss`), over loading, a rehearsal, three
steps, a checkpoint and the result. Predicted is what the run said before it read a weight. The models are random:
memory does not depend on what the weights say.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "m3": {"hidden": 128, "inner": 352, "layers": 4, "heads": 4, "kv_heads": 2, "vocab": 2048, "tied": True},
    "m8": {"hidden": 256, "inner": 688, "layers": 6, "heads": 4, "kv_heads": 4, "vocab": 8192, "tied": False},
    "m30": {"hidden": 384, "inner": 1024, "layers": 12, "heads": 6, "kv_heads": 2, "vocab": 16384, "tied": True},
    "m135": {"hidden": 576, "inner": 1536, "layers": 30, "heads": 9, "kv_heads": 3, "vocab": 49152, "tied": True},
    "m360": {"hidden": 960, "inner": 2560, "layers": 32, "heads": 15, "kv_heads": 5, "vocab": 49152, "tied": True},
}
"""The last two have the sizes of SmolLM2-135M and SmolLM2-360M."""
ROWS, STEPS = 16, 3
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Case:
    """One run."""

    shape: str
    method: str
    dtype: str
    length: int
    """Longest row, in tokens; the others are between half of it and all of it."""
    rank: int
    recompute: str
    micro_batch: int
    rows_per_step: int = 4
    dropout: float = 0.0


def grid() -> list[Case]:
    """Every method with and without recomputation, over shapes, lengths, ranks, dtypes and micro-batches."""
    cases = []
    for shape in ("m3", "m8", "m30"):
        for number, (length, rank, micro_batch) in enumerate(
            ((64, 4, 256), (256, 16, 512), (512, 64, 2048), (2048, 8, 2048))
        ):
            dtype = "float32" if number % 2 else "bfloat16"
            other = "bfloat16" if number % 2 else "float32"
            cases += [
                Case(shape, "lora", dtype, length, rank, "never", micro_batch),
                Case(shape, ("qlora", "full")[number % 2], other, length, rank, "layers", micro_batch),
                Case(shape, ("full", "qlora")[number % 2], "bfloat16", length, rank, "never", micro_batch),
            ]
    cases += [
        Case("m135", "lora", "bfloat16", 256, 16, "never", 1024),
        Case("m135", "lora", "bfloat16", 1024, 64, "layers", 1024, 2),
        Case("m135", "lora", "float32", 256, 8, "never", 512),
        Case("m135", "lora", "bfloat16", 128, 8, "never", 512, 4, 0.1),
        Case("m135", "qlora", "bfloat16", 256, 16, "never", 1024),
        Case("m135", "qlora", "bfloat16", 512, 16, "never", 512, 2),
        Case("m135", "qlora", "bfloat16", 2048, 16, "layers", 2048, 1),
        Case("m135", "qlora", "float32", 64, 4, "layers", 256),
        Case("m135", "full", "bfloat16", 256, 16, "never", 512, 2),
        Case("m135", "full", "bfloat16", 256, 16, "layers", 1024, 4),
        Case("m135", "full", "float32", 128, 16, "never", 256, 2),
        Case("m360", "qlora", "bfloat16", 256, 16, "layers", 512, 2),
        Case("m360", "qlora", "bfloat16", 256, 16, "never", 512, 2),
        Case("m360", "lora", "bfloat16", 256, 16, "never", 512, 2),
    ]
    return cases


def config_of(shape: dict[str, Any]) -> dict[str, Any]:
    """The config.json of a shape."""
    return {
        "model_type": "llama", "hidden_size": shape["hidden"], "intermediate_size": shape["inner"],
        "num_hidden_layers": shape["layers"], "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv_heads"], "vocab_size": shape["vocab"], "tie_word_embeddings": shape["tied"],
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu", "bos_token_id": 0,
        "eos_token_id": 2,
    }  # fmt: skip


def predict_again(one: dict[str, Any]) -> float:
    """MB that the code as it is now predicts for a run that was measured before."""
    import torch

    from veneer.adapters.spec import LoraSpec
    from veneer.model.spec import spec_from_hf
    from veneer.options import Method
    from veneer.plan.memory import memory
    from veneer.plan.setup import Cut, Setup

    case, components = Case(**one["case"]), one["plan"]["components"]
    setup = Setup(
        spec=spec_from_hf(config_of(SHAPES[case.shape])), method=Method(case.method),
        lora=LoraSpec(rank=case.rank, alpha=32.0, dropout=case.dropout),
        dtype=getattr(torch, case.dtype), threads=torch.get_num_threads(),
    )  # fmt: skip
    start = components["runtime"] - components["first_use"]
    cut = Cut(**one["plan"]["cut"])
    return memory(setup, cut, recompute=case.recompute == "layers", start=start).peak / 1e6


def write_model(path: Path, shape: dict[str, Any]) -> None:
    """Random bfloat16 weights of a shape, with a byte-level tokenizer, as a Hugging Face directory."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from veneer.load import expected_tensors
    from veneer.model.spec import spec_from_hf

    path.mkdir(parents=True)
    config = config_of(shape)
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    source = torch.Generator().manual_seed(0)
    tensors = {
        name: (torch.randn(size, generator=source) * 0.02 if len(size) == 2 else torch.ones(size)).bfloat16()
        for name, size in expected_tensors(spec_from_hf(config)).items()
    }
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["user assistant\n"], trainer)
    backend.save(str(path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def write_rows(path: Path, length: int) -> None:
    """Chats of random digits, a token each; half of every row is supervised."""
    source = random.Random(length)
    lines = []
    for number in range(ROWS):
        wanted = length if number == 0 else source.randint(length // 2, length)
        digits = "".join(source.choices("0123456789", k=max(4, wanted - 24)))
        half = len(digits) // 2
        lines.append(json.dumps({"prompt": digits[:half], "completion": digits[half:]}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(case: Case, model: str, data: str) -> dict[str, Any]:
    """Train in this process; the plan and what really happened."""
    from veneer.config import parse
    from veneer.training.run import train

    with tempfile.TemporaryDirectory() as folder:
        values = {
            "model": model,
            "output": folder,
            "method": case.method,
            "data": {"file": data},
            "lora": {"rank": case.rank, "dropout": case.dropout},
            "train": {"steps": STEPS, "examples_per_step": case.rows_per_step},
            "compute": {
                "device": "cpu", "dtype": case.dtype, "recompute": case.recompute,
                "micro_batch_tokens": case.micro_batch, "memory_limit_mb": 10**6,
            },
        }  # fmt: skip
        result = train(parse(values, where="the grid"))
        return {
            "measured": result.peak_memory_mb,
            "plan": result.plan.to_json(),
            "seconds_per_step": result.progress.seconds / STEPS,
        }


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """`run` in a process of its own, whose parent is small: a child's peak starts at its parent's size."""
    model, data = folder / case.shape, folder / f"{case.length}.jsonl"
    if not data.exists():
        write_rows(data, case.length)
    arguments = [sys.executable, __file__, "--case", json.dumps(asdict(case)), "--model", str(model)]
    done = subprocess.run([*arguments, "--data", str(data)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Run the grid, print it, draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    parser.add_argument("--only", help="only runs of these shapes or methods, with commas")
    parser.add_argument("--every", type=int, default=1, help="only every so many of them")
    parser.add_argument("--again", type=Path, help="predict the runs of this file again, and measure nothing")
    parser.add_argument("--json", type=Path, help="write all numbers into this file")
    parser.add_argument("--plot", type=Path, help="write the plot into this file")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(run(Case(**json.loads(options.case)), options.model, options.data)))
        return
    started = time.perf_counter()
    print(f"{'run':58s} {'predicted':>10s} {'measured':>10s} {'over':>7s} {'s/step':>14s}")
    found = []
    for one in again(options.again) if options.again else measured(options.only, options.every):
        found.append(one)
        print(line(one), flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    errors = [100 * (one["predicted"] / one["measured"] - 1) for one in found]
    print(
        f"{len(found)} runs in {time.perf_counter() - started:.0f} s: predicted is {min(errors):+.1f} % at the lowest, "
        f"{max(errors):+.1f} % at the highest, {sum(errors) / len(errors):+.1f} % on average"
    )
    if options.plot:
        options.plot.write_text(plot(found), encoding="utf-8")


def again(path: Path) -> Iterator[dict[str, Any]]:
    """The runs of a file that `--json` wrote, predicted again."""
    for one in json.loads(path.read_text(encoding="utf-8")):
        yield {**one, "predicted": predict_again(one)}


def measured(only: str | None, every: int) -> Iterator[dict[str, Any]]:
    """Run the grid."""
    wanted = set(only.split(",")) if only else None
    cases = [case for case in grid() if wanted is None or {case.shape, case.method} & wanted][::every]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for shape in dict.fromkeys(case.shape for case in cases):
            # In a process of its own, since this one must stay small.
            code = f"import plan_grid; plan_grid.write_model(__import__('pathlib').Path({str(folder / shape)!r}), "
            code += f"plan_grid.SHAPES[{shape!r}])"
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
            subprocess.run([sys.executable, "-c", code], check=True, env=environment)
        for case in cases:
            result = measure(case, folder)
            yield {"case": asdict(case), "predicted": result["plan"]["peak"] / 1e6, **result}


def line(one: dict[str, Any]) -> str:
    """A run as it is printed; seconds a step are foreseen / measured."""
    case, predicted, peak = Case(**one["case"]), one["predicted"], one["measured"]
    name = f"{case.shape} {case.method} {case.dtype} length {case.length} rank {case.rank} "
    name += f"{case.recompute} {case.micro_batch}"
    timed = f"{one['plan']['seconds_per_step']:.2f} / {one['seconds_per_step']:.2f}"
    over = 100 * (predicted / peak - 1)
    return f"{name:58s} {predicted:7,.0f} MB {peak:7,.0f} MB {over:+6.1f} % {timed:>14s}"


def plot(found: list[dict[str, Any]]) -> str:
    """Measured against predicted, a colour for each method, and the line on which they are equal."""
    from veneer.charts import Series, scatter_chart

    series = [
        Series(method, [(one["measured"], one["predicted"]) for one in found if one["case"]["method"] == method])
        for method in ("lora", "qlora", "full")
    ]
    return scatter_chart("Peak memory: predicted against measured", "measured, MB", "predicted, MB", series)


if __name__ == "__main__":
    main()
