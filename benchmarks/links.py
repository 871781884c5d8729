"""A run on two hosts with a slow link between them: the time of a step against the formula.

    python benchmarks/links.py --mbit 200 1000

The hosts are network namespaces of this machine, joined by a pair of virtual cards that `tc` holds to so many Mbit/s
each way. It takes Linux, root, `ip` and `tc`. Each host has one process of one thread, started as torchrun would start
it. The formula is that of docs/many-devices.md: each of W processes sends 2 (W - 1) / W · G bytes a step, for G bytes
of gradients, and nothing overlaps. So a step takes what it takes over the unlimited link, and that many bytes over the
limited one. The model is random and small beside its adapter, so that the link is most of a step. The links come in
turn, and of each one's steps the fastest counts: whatever else the machine does only adds to them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plan_grid import write_model, write_rows

SHAPE, ROW = "m8", 48
"""The model (`plan_cases.SHAPES`), and the tokens of the longest row."""
HOSTS = {"veneer-a": "10.77.0.1", "veneer-b": "10.77.0.2"}
"""The namespaces, and the address of each; the card of a namespace has its name."""
PORT = 29471
BURST = "256kb"
"""Bytes that a card may send at once, above its rate."""


def arguments_of() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbit", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--rank", type=int, default=128, help="of the adapter, on which its bytes depend")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2, help="runs of each link, in turn")
    parser.add_argument("--rows", type=int, default=4, help="rows in a step")
    return parser.parse_args()


@contextmanager
def two_hosts(mbit: int | None) -> Iterator[None]:
    """Two namespaces with a link of so many Mbit/s each way; None leaves it unlimited."""
    first, second = HOSTS
    commands = [
        f"ip netns add {first}",
        f"ip netns add {second}",
        f"ip link add {first} netns {first} type veth peer name {second} netns {second}",
    ]
    for host, address in HOSTS.items():
        commands += [
            f"ip -n {host} address add {address}/24 dev {host}",
            f"ip -n {host} link set lo up",
            f"ip -n {host} link set {host} up",
        ]
        if mbit is not None:
            commands.append(f"tc -n {host} qdisc add dev {host} root tbf rate {mbit}mbit burst {BURST} latency 400ms")
    try:
        for command in commands:
            subprocess.run(command.split(), check=True)
        yield
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "delete", host], check=False)


def train(options: argparse.Namespace, inputs: Path, output: Path, mbit: int | None) -> tuple[float, int]:
    """Train on two hosts; the least seconds of the steps after the first two, and the bytes of the gradients."""
    model, data = str(inputs / "model"), str(inputs / "rows.jsonl")
    command = [
        sys.executable, "-m", "veneer", "train", "--model", model, "--data", data, "--method", "lora",
        "--output", str(output), "--steps", str(options.steps), "--batch-size", str(options.rows), "--device", "cpu",
        "--rank", str(options.rank), "--set", "compute.threads=1", "--set", "train.save_every=1000000",
        "--set", "compute.rank_timeout=120",
    ]  # fmt: skip
    address = next(iter(HOSTS.values()))
    with two_hosts(mbit):
        processes = []
        for rank, host in enumerate(HOSTS):
            variables = {
                "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
                "MASTER_ADDR": address, "MASTER_PORT": str(PORT), "GLOO_SOCKET_IFNAME": host, "OMP_NUM_THREADS": "1",
            }  # fmt: skip
            processes.append(
                subprocess.Popen(
                    ["ip", "netns", "exec", host, *command],
                    env={**os.environ, **variables},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        said = [process.communicate()[1] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("\n".join(said))
    events = [json.loads(line) for line in (output / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    (begun,) = (event for event in events if event["event"] == "RunStarted")
    seconds = [event["seconds"] for event in events if event["event"] == "StepDone"][2:]
    return min(seconds), 4 * begun["trainable"]


def main() -> None:
    """Measure and print."""
    options = arguments_of()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_model(folder / "model", SHAPE, "llama")
        write_rows(folder / "rows.jsonl", ROW)
        links: list[int | None] = [None, *options.mbit]
        found: dict[int | None, list[float]] = {mbit: [] for mbit in links}
        for number in range(options.rounds):
            for mbit in links:
                seconds, size = train(options, folder, folder / f"{number}-{mbit}", mbit)
                found[mbit].append(seconds)
        free = min(found[None])
        print(f"unlimited: {free:.3f} s a step; {size / 1e6:.2f} MB of gradients")
        for mbit in options.mbit:
            least, expected = min(found[mbit]), free + size / (mbit * 1e6 / 8)
            print(
                f"{mbit:,} Mbit/s: {least:.3f} s a step, {expected:.3f} s by the formula; ratio {least / expected:.3f}"
            )


if __name__ == "__main__":
    main()
