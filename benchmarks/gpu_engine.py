"""Whole runs of the program on a card: loading, steps, memory against plan, resume, bytes, answers; a part of gpu.py.

What `veneer train` does is done, from a checkpoint on disk: nothing of it is left out or done in another order.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_shapes import ALPHA, RANK, Load, flops_per_token

import veneer
from veneer.errors import Interrupted
from veneer.events import Event, StepDone
from veneer.model.shape import DecoderSpec

SPECIAL = 2
"""Tokens that a row has besides its numbers, at most."""
RESUMED_STEPS = 6
"""Steps of the runs whose bytes are compared."""


def write_rows(path: Path, rows: int, numbers: int, vocab: int) -> Path:
    """Texts of random numbers, each of which is one token."""
    draws = np.random.default_rng(0)
    lines = [json.dumps({"text": " ".join(map(str, draws.integers(3, vocab, numbers)))}) for _ in range(rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def settings(model: Path, rows: Path, output: Path, device: str, load: Load, **compute: Any) -> dict[str, Any]:
    """A run that trains on all rows in every step."""
    count = len(rows.read_text(encoding="utf-8").splitlines())
    return {
        "model": str(model), "output": str(output), "method": "lora", "objective": "pretraining",
        "data": {"file": str(rows), "max_length": load.document},
        "lora": {"rank": RANK, "alpha": float(ALPHA)},
        "train": {
            "examples_per_step": count, "steps": load.warmup + load.steps, "learning_rate": 1e-4, "save_every": 1000,
        },
        "compute": {"device": device, **compute},
    }  # fmt: skip


def trained(config: dict[str, Any], **more: Any) -> tuple[veneer.RunResult, list[StepDone], float]:
    """A run's result, its steps, and the seconds of all that came before them."""
    steps: list[StepDone] = []
    begun = time.perf_counter()
    first: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, StepDone):
            first.append(time.perf_counter() - event.seconds)
            steps.append(event)

    result = veneer.train(config, subscribers=[note], **more)
    return result, steps, first[0] - begun


def line(
    name: str, result: veneer.RunResult, steps: list[StepDone], before: float, flops: float, peak: float | None
) -> str:
    """A line of the table: tokens a second, share of the peak, memory against plan. The first steps are no part."""
    seconds = statistics.median(step.seconds for step in steps)
    rate = steps[-1].tokens / seconds
    share = "     -" if peak is None else f"{rate * flops / (peak * 1e12):6.1%}"
    planned = "-"
    if result.plan is not None:
        memory = result.plan.choice.memory
        planned = f"{(memory.peak - memory.runtime) / 1e6:,.0f}"
    return (
        f"{name:34} {steps[-1].tokens:6,} {1000 * seconds:9.1f} ms {rate:9,.0f} {share} "
        f"{result.peak_memory_mb:9,.0f} MB (plan {planned}), {before:.0f} s before the first step"
    )


def run_steps(
    spec: DecoderSpec, model: Path, work: Path, device: str, peak: float | None, load: Load, method: str
) -> None:
    """Print a line for each number of tokens, with and without recomputation."""
    document = load.document
    flops = flops_per_token(spec, RANK, document)
    for count in load.tokens:
        rows = write_rows(
            work / f"{count}.jsonl", max(1, count // document), min(count, document) - SPECIAL, spec.vocab_size
        )
        for recompute in ("never", "layers"):
            name = f"{method}, {'recomputed' if recompute == 'layers' else 'kept'}"
            compute = {"recompute": recompute, "micro_batch_tokens": count}
            config = settings(model, rows, work / f"{recompute}-{count}", device, load, **compute)
            try:
                result, steps, before = trained({**config, "method": method})
                print(line(name, result, steps[load.warmup :], before, flops, peak), flush=True)
                del result
            except veneer.VeneerError as error:
                print(f"{name:34} {count:6,} {str(error).splitlines()[0]}", flush=True)
            if device != "cpu":
                torch.cuda.empty_cache()


def run_resume(spec: DecoderSpec, model: Path, work: Path, device: str, load: Load, *, deterministic: bool) -> bool:
    """Whether a run has equal bytes when it is made again, and when it is resumed; by default they may differ, and what
    holds is printed. A beginning that all rows share is among them."""
    numbers = load.document // 4
    rows = write_rows(work / "resume.jsonl", 8, numbers, spec.vocab_size)
    texts = [json.loads(text)["text"] for text in rows.read_text(encoding="utf-8").splitlines()]
    front = " ".join(texts[0].split()[: numbers // 4])
    rows.write_text("".join(json.dumps({"text": f"{front} {text}"}) + "\n" for text in texts), encoding="utf-8")

    def config(name: str) -> dict[str, Any]:
        made = settings(model, rows, work / name, device, load, deterministic=deterministic)
        return {**made, "method": "qlora", "train": made["train"] | {"steps": RESUMED_STEPS}}

    trained(config("one"))
    trained(config("again"))
    stopped_after(config("resumed"), RESUMED_STEPS // 2)
    trained(config("resumed"), resume=True)
    one, again, resumed = (adapter_bytes(work / name) for name in ("one", "again", "resumed"))
    mode = "deterministic" if deterministic else "default"
    print(f"{mode:14} made again: {_equal(one, again)}; resumed: {_equal(one, resumed)}", flush=True)
    return not deterministic or one == again == resumed


def stopped_after(config: dict[str, Any], steps: int) -> None:
    """Begin a run and stop it after so many steps."""
    done = 0

    def stop() -> bool:
        nonlocal done
        done += 1
        return done >= steps

    try:
        veneer.train(config, stop=stop)
    except Interrupted:
        return
    raise AssertionError("the run was not stopped")


def adapter_bytes(output: Path) -> bytes:
    """The weights that a run has published."""
    return (output / "adapter_model.safetensors").read_bytes()


def _equal(one: bytes, other: bytes) -> str:
    return "equal bytes" if one == other else "other bytes"


def run_answers(model: Path, device: str, load: Load) -> None:
    """Print tokens a second of one answer and of 16 beside each other, from the times of a long and of a short one."""
    for method in ("lora", "qlora"):
        for prompts in (1, 16):
            short, long = (answer_seconds(model, device, method, prompts, tokens) for tokens in (1, load.answer))
            rate = f"{prompts * (load.answer - 1) / (long - short):9,.0f}" if long > short else "        -"
            print(f"{method:6} {prompts:3} answers at once: {rate} tokens/s; loading {short:.1f} s", flush=True)


def answer_seconds(model: Path, device: str, method: str, prompts: int, tokens: int) -> float:
    """Seconds of loading the model and of answers of so many tokens."""
    sampling = veneer.Sampling(max_new_tokens=tokens, min_new_tokens=tokens)
    begun = time.perf_counter()
    compute = veneer.ComputeSection(device=device)
    veneer.generate(str(model), ["7 8 9"] * prompts, method=method, sampling=sampling, compute=compute)
    return time.perf_counter() - begun
