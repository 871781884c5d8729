"""Greedy decoding beside llama.cpp at equal bits a weight: tokens/s of 1, 8 and 32 answers at once, and of a prompt.

    python benchmarks/decode.py [MODEL] [--threads N] [--rounds N] [--tokens N] [--variant avx2] [--bits 4]

MODEL is anything that `veneer` opens. veneer holds it in NF4 (double quantisation) and int8, and reads the Q4_0 and
Q8_0 files that are made of it for llama.cpp (the extra `llama-cpp`), whose blocks it keeps. A MODEL that is itself a
GGUF file in Q4_1 is read by both too. Formats are compared with themselves, NF4 and int8 with all of as many bits. All
run with as many threads, each in a process of its own, by turns; the median of the rounds counts. The clock is the
wall's, from the first prompt to the last token; tokens per second of the processor's time stand beside, for machines on
which others compute. Below the table stand the instructions that llama.cpp uses, and the share of the processor's
float32 peak that veneer's answers take (float_peak.py). The next tokens stand there apart from prompts. Where the
processor multiplies pairs of bfloat16 faster than floats, either may be more than that peak.

`--variant` chooses the kernels of a narrower instruction set for veneer. llama.cpp then still uses all that its build
and the processor have.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from float_peak import SHARE, allowed, float_peak

from veneer.bundled import bundled_model

COUNTS = (1, 8, 32)
MOST = max(COUNTS)
FIRST = f"{MOST} first"
"""The case that ends with the first token of each answer: what prompts take."""
PREFILL = 400
"""Tokens of the long prompt."""
SYSTEMS = {
    4: ("veneer NF4", "veneer Q4_0", "veneer Q4_1", "llama.cpp Q4_0", "llama.cpp Q4_1"),
    8: ("veneer int8", "veneer Q8_0", "llama.cpp Q8_0"),
}
"""By the bits of a weight. A system is a program and a format."""
Answers = Callable[[list[str], int], int]
"""Answers every prompt with so many tokens; returns how many were made in all."""


def veneer_answers(model: str, scheme: str, threads: int, variant: str | None) -> Answers:
    """veneer's way from prompts to tokens."""
    import torch

    from veneer.config import QuantSection
    from veneer.enums import Scheme
    from veneer.generation.batch import generate
    from veneer.generation.sampling import Sampling
    from veneer.io.checkpoint import open_checkpoint
    from veneer.loading.forms import TableForm, WeightForm
    from veneer.loading.how import Loading
    from veneer.loading.load import load_model
    from veneer.native import library

    torch.set_num_threads(threads)
    if variant is not None:
        library.use_variant(variant)
    checkpoint = open_checkpoint(model)
    tokenizer = checkpoint.tokenizer()
    if scheme.startswith("q"):
        loaded = load_model(checkpoint, Loading(tables=TableForm.STORED))
    else:
        quant = QuantSection(scheme=Scheme(scheme))
        loaded = load_model(checkpoint, Loading(form=WeightForm.QUANTIZED, quant=quant, tables=TableForm.STORED))

    def answers(prompts: list[str], tokens: int) -> int:
        ids = [tokenizer.encode(prompt) for prompt in prompts]
        made = generate(loaded, ids, sampling=Sampling(max_new_tokens=tokens), stop_ids=frozenset())
        return sum(map(len, made))

    return answers


def llama_answers(model: str, threads: int) -> Answers:
    """llama.cpp's."""
    x = importlib.import_module("xllamacpp")
    settings = x.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel, settings.port = model, 16384, MOST, 0
    settings.warmup = True
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    server = x.Server(settings)

    def answer(prompt: str, tokens: int) -> int:
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        found = server.handle_completions(body)
        found = found if isinstance(found, dict) else json.loads(found)
        return int(found["timings"]["predicted_n"])

    def answers(prompts: list[str], tokens: int) -> int:
        with ThreadPoolExecutor(len(prompts)) as pool:
            return sum(pool.map(lambda prompt: answer(prompt, tokens), prompts))

    return answers


def stories(count: int) -> list[str]:
    """The prompts of the short cases."""
    return [f"Write a long story about a river and a mountain, number {number}." for number in range(count)]


def measure(answers: Answers, tokens: int) -> dict[str, list[float]]:
    """Tokens per second, by the wall and by the processor's time, of each number of answers and of the long prompt."""
    answers(["Once upon a time"], 4)
    found = {}
    for count in COUNTS:
        prompts = stories(count)
        start = time.perf_counter(), time.process_time()
        made = answers(prompts, tokens)
        found[f"{count} at once"] = [made / (time.perf_counter() - start[0]), made / (time.process_time() - start[1])]
    start = time.perf_counter(), time.process_time()
    made = answers(stories(MOST), 1)
    found[FIRST] = [made / (time.perf_counter() - start[0]), made / (time.process_time() - start[1])]
    start = time.perf_counter(), time.process_time()
    answers(["word " * PREFILL], 1)
    found["prompt"] = [PREFILL / (time.perf_counter() - start[0]), PREFILL / (time.process_time() - start[1])]
    return found


def child(name: str, args: argparse.Namespace) -> dict[str, list[float]]:
    """One system in a process of its own."""
    command = [sys.executable, __file__, args.model, "--system", name, "--threads", str(args.threads)]
    command += ["--tokens", str(args.tokens), "--folder", args.folder]
    command += ["--variant", args.variant] if args.variant else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_one(name: str, args: argparse.Namespace) -> None:
    """The child's part: measure and print."""
    program, _, kind = name.partition(" ")
    own = Path(args.folder) / f"{kind.lower()}.gguf"
    file = str(own) if own.exists() else args.model
    if program == "veneer":
        answers = veneer_answers(file, kind.lower(), args.threads, args.variant)
    else:
        answers = llama_answers(file, args.threads)
    print(json.dumps(measure(answers, args.tokens)))


def write_files(model: str, folder: Path, bits: list[int]) -> None:
    """What llama.cpp reads, of so many bits a weight."""
    from veneer.exports.gguf import write_gguf_base
    from veneer.io.checkpoint import open_checkpoint
    from veneer.io.gguf.encode import Quant

    for kind in (Quant(f"q{count}_0") for count in bits):
        write_gguf_base(folder / f"{kind.value}.gguf", open_checkpoint(model), kind)


def in_q4_1(model: str) -> bool:
    """Whether a model is a GGUF file whose linear layers are in Q4_1."""
    from veneer.io.checkpoint import open_checkpoint

    formats = [held.format.name for name, held in open_checkpoint(model).blocks.items() if "layers." in name]
    return bool(formats) and set(formats) == {"Q4_1"}


def pairs(medians: dict[str, dict[str, list[float]]]) -> list[tuple[str, str]]:
    """Each of veneer's systems, and the llama.cpp of as many bits that it is compared with."""
    found = []
    for systems in SYSTEMS.values():
        peers = [name for name in systems if name.startswith("llama.cpp") and name in medians]
        for own in systems:
            if not own.startswith("veneer") or own not in medians:
                continue
            same = f"llama.cpp {own.partition(' ')[2]}"
            found += [(own, same)] if same in peers else [(own, peer) for peer in peers]
    return found


def report(results: dict[str, list[dict[str, list[float]]]]) -> None:
    """Medians, and veneer's against llama.cpp's of the same bits."""
    cases = [case for case in next(iter(results.values()))[0] if case != FIRST]
    medians = {
        name: {case: [statistics.median(run[case][clock] for run in runs) for clock in (0, 1)] for case in cases}
        for name, runs in results.items()
    }
    print(f"{'tokens/s, by the wall (processor)':34s}" + "".join(f"{case:>22s}" for case in cases))
    for name, found in medians.items():
        print(f"{name:34s}" + "".join(f"{found[case][0]:13.1f} ({found[case][1]:6.1f})" for case in cases))
    for own, peer in pairs(medians):
        ratios = ((case, medians[own][case], medians[peer][case]) for case in cases)
        spoken = ", ".join(f"{case} {a[0] / b[0]:.2f}x ({a[1] / b[1]:.2f}x)" for case, a, b in ratios)
        print(f"{own} / {peer}: {spoken}")


def share_of_peak(results: dict[str, list[dict[str, list[float]]]], args: argparse.Namespace) -> None:
    """What 60 % of the float32 peak would make, and what veneer's 32 answers at once make of it."""
    peak = float_peak(args.threads, args.variant)
    if peak is None:
        return
    most = allowed(args.model, stories(MOST), args.tokens, peak)
    print(
        f"float32 peak of {args.threads} threads: {peak / 1e9:.0f} GFLOP/s, which would make {most.whole:.0f} tokens/s "
        f"of {MOST} answers with their prompts, and {most.following:.0f} without; {100 * SHARE:.0f} % are "
        f"{SHARE * most.whole:.0f} and {SHARE * most.following:.0f}"
    )
    for name, runs in results.items():
        if name.startswith("veneer"):
            rate, first = (statistics.median(run[case][0] for run in runs) for case in (f"{MOST} at once", FIRST))
            alone = (args.tokens - 1) / (args.tokens / rate - 1 / first)
            print(
                f"{name}: {MOST} at once take {100 * rate / most.whole:.0f} % of it with their prompts, and without "
                f"them {100 * alone / most.following:.0f} % ({alone:.0f} tokens/s)"
            )


def main() -> None:
    """Measure all systems by turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="the quickstart's by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--variant")
    parser.add_argument("--bits", type=int, nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="of a weight")
    parser.add_argument(
        "--system", choices=[name for names in SYSTEMS.values() for name in names], help=argparse.SUPPRESS
    )
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.model = args.model or bundled_model()
    if args.system:
        run_one(args.system, args)
        return
    with tempfile.TemporaryDirectory() as folder:
        args.folder = folder
        write_files(args.model, Path(folder), args.bits)
        names = [name for bits in args.bits for name in SYSTEMS[bits] if "Q4_1" not in name or in_q4_1(args.model)]
        results: dict[str, list[dict[str, list[float]]]] = {name: [] for name in names}
        for _ in range(args.rounds):
            for name in names:
                results[name].append(child(name, args))
                print(f"{name}: {json.dumps(results[name][-1])}", file=sys.stderr, flush=True)
    report(results)
    print(f"llama.cpp: {importlib.import_module('xllamacpp').get_system_info()}")
    share_of_peak(results, args)


if __name__ == "__main__":
    main()
