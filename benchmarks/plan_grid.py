"""Predicted against measured peak memory: random models trained for some steps, each run in its own process.

    nice python benchmarks/plan_grid.py                 # the whole grid, about a quarter of an hour on two cores
    nice python benchmarks/plan_grid.py --runs others   # other kinds of adapters, optimisers, sizes and families
    python benchmarks/plan_grid.py --only m30 --every 3
    python benchmarks/plan_grid.py --again grid.json    # measured before, predicted by the code as it is now

Measured is the process's peak resident memory as the system counts it (`ru_maxrss`), over loading, a rehearsal, five
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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plan_cases import Case, config_of, grid, others, pairs, taught

ROWS, STEPS = 16, 5
RUNS = {"grid": grid, "others": others, "pairs": pairs, "taught": taught}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def values_of(case: Case, model: str, output: str, data: str) -> dict[str, Any]:
    """The settings of a run."""
    values: dict[str, Any] = {
        "model": model,
        "output": output,
        "method": case.method,
        "objective": case.objective,
        "data": {"file": data},
        "lora": {"rank": case.rank},
        "train": {"steps": STEPS, "examples_per_step": case.rows_per_step},
        "compute": {
            "device": "cpu", "dtype": case.dtype, "recompute": case.recompute,
            "micro_batch_tokens": case.micro_batch, "memory_limit_mb": 10**6,
        },
    }  # fmt: skip
    if case.teacher:
        values["distillation"] = {"teacher": str(Path(model).with_name(f"{case.teacher}-llama"))}
    return values | {section: values.get(section, {}) | more for section, more in case.more.items()}


def predict_again(one: dict[str, Any]) -> float:
    """MB that the code as it is now predicts for a run that was measured before."""
    import torch

    from veneer.adapters.spec import LoraSpec
    from veneer.config import parse
    from veneer.model.families.choose import spec_from_hf
    from veneer.planning.batch_shape import BatchShape
    from veneer.planning.memory import memory
    from veneer.planning.setup import Setup

    case, components = Case(**one["case"]), one["plan"]["components"]
    spec = spec_from_hf(config_of(case.shape, case.model_type))
    config = parse(values_of(case, "model", "output", "data"), where="the grid")
    setup = Setup(
        spec=spec,
        method=config.method,
        dtype=getattr(torch, case.dtype),
        threads=torch.get_num_threads(),
        lora=LoraSpec.of(config.lora, tied=spec.tied_head),
        quant=config.quant,
        products=config.compute.products,
        optimizer=config.train.optimizer,
        objective=config.objective,
        file_bytes=2,
    )
    start = components["runtime"] - components["first_use"]
    cut = BatchShape(**one["plan"]["cut"])
    return memory(setup, cut, recompute=case.recompute == "layers", start=start).peak / 1e6


def write_model(path: Path, shape: str, model_type: str) -> None:
    """Random bfloat16 weights, with a byte-level tokenizer, as a Hugging Face directory."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from veneer.loading.expected import expected_tensors
    from veneer.model.families.choose import spec_from_hf

    path.mkdir(parents=True)
    config = config_of(shape, model_type) | {"dtype": "bfloat16"}
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


def write_rows(path: Path, length: int, *, pairs: bool = False) -> None:
    """Chats of random digits, a token each; half of every row is supervised. With `pairs` a row has a second answer."""
    source = random.Random(length)
    lines = []
    for number in range(ROWS):
        wanted = length if number == 0 else source.randint(length // 2, length)
        digits = "".join(source.choices("0123456789", k=max(4, wanted - 24)))
        half = len(digits) // 2
        row = {"prompt": digits[:half], "completion": digits[half:]}
        if pairs:
            row = {"prompt": digits[:half], "chosen": digits[half:], "rejected": digits[half:][::-1]}
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(case: Case, model: str, data: str) -> dict[str, Any]:
    """Train in this process; the plan and what really happened."""
    from veneer.config import parse
    from veneer.training.run import train

    with tempfile.TemporaryDirectory() as folder:
        result = train(parse(values_of(case, model, folder, data), where="the grid"))
        assert result.plan is not None, "transformers computes none of the grid's models"
        return {
            "measured": result.peak_memory_mb,
            "plan": result.plan.to_json(),
            "seconds_per_step": result.progress.seconds / STEPS,
        }


def folder_of(case: Case) -> str:
    """The name of its model's folder."""
    return f"{case.shape}-{case.model_type}"


def prepare(case: Case, folder: Path) -> None:
    """Write its models where they are not there yet; in a process of its own, since this one must stay small."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    for shape, model_type in ((case.shape, case.model_type), *([(case.teacher, "llama")] if case.teacher else [])):
        model = folder / f"{shape}-{model_type}"
        code = (
            f"import pathlib, plan_grid; plan_grid.write_model(pathlib.Path({str(model)!r}), {shape!r}, {model_type!r})"
        )
        if not model.exists():
            subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """`run` in a process of its own, whose parent is small: a child's peak starts at its parent's size."""
    pairs = case.objective not in ("sft", "distillation")
    model, data = folder / folder_of(case), folder / f"{case.length}{'-pairs' if pairs else ''}.jsonl"
    if not data.exists():
        write_rows(data, case.length, pairs=pairs)
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
    parser.add_argument("--runs", choices=list(RUNS), default="grid")
    parser.add_argument("--only", help="only runs of these shapes, methods or families, with commas")
    parser.add_argument("--every", type=int, default=1, help="only every so many of them")
    parser.add_argument("--again", type=Path, help="predict the runs of this file again, and measure nothing")
    parser.add_argument("--json", type=Path, help="write all numbers into this file")
    parser.add_argument("--plot", type=Path, help="write the plot into this file")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(run(Case(**json.loads(options.case)), options.model, options.data)))
        return
    started = time.perf_counter()
    print(f"{'run':70s} {'predicted':>10s} {'measured':>10s} {'over':>7s} {'s/step':>14s}")
    found = []
    for one in again(options.again) if options.again else measured(RUNS[options.runs](), options.only, options.every):
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
        # New tokens and teachers are known to a run alone, which has the files.
        known = "new_tokens" in one["case"]["more"].get("lora", {}) or one["case"].get("teacher")
        yield one if known else {**one, "predicted": predict_again(one)}


def measured(runs: list[Case], only: str | None, every: int) -> Iterator[dict[str, Any]]:
    """Make the runs."""
    wanted = set(only.split(",")) if only else None
    cases = [one for one in runs if wanted is None or {one.shape, one.method, one.model_type} & wanted][::every]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for case in cases:
            prepare(case, folder)
            result = measure(case, folder)
            yield {"case": asdict(case), "predicted": result["plan"]["peak"] / 1e6, **result}


def line(one: dict[str, Any]) -> str:
    """A run as it is printed; seconds a step are foreseen / measured."""
    case, predicted, peak = Case(**one["case"]), one["predicted"], one["measured"]
    timed = f"{one['plan']['seconds_per_step']:.2f} / {one['seconds_per_step']:.2f}"
    over = 100 * (predicted / peak - 1)
    return f"{case.name:70s} {predicted:7,.0f} MB {peak:7,.0f} MB {over:+6.1f} % {timed:>14s}"


def plot(found: list[dict[str, Any]]) -> str:
    """Measured against predicted, a colour for each method, and the line on which they are equal."""
    from veneer.html.charts import Series, scatter_chart

    series = [
        Series(method, [(one["measured"], one["predicted"]) for one in found if one["case"]["method"] == method])
        for method in ("lora", "qlora", "full")
    ]
    return scatter_chart("Peak memory: predicted against measured", "measured, MB", "predicted, MB", series)


if __name__ == "__main__":
    main()
