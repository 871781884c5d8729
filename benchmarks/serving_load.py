"""Clients of a server: closed loops that stream completions, and what they saw.

Every client asks its next question when its last answer has ended. Times are those of the client: from the moment when
a request is sent to its first text, and from the first text to the last.
"""

from __future__ import annotations

import http.client
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 900.0
TICKS = 100
"""Clock ticks a second in /proc (USER_HZ)."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is measured."""

    name: str
    host: str
    port: int
    pid: int
    base: str = ""
    """The base's name in requests."""
    adapter_fields: Callable[[int], dict[str, Any]] = lambda number: {}
    """The fields of a request that asks for an adapter, by its number."""

    def processor_seconds(self) -> float:
        """Seconds of the processor that the server's process has taken."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident(self) -> int:
        """Bytes of memory that the server's process has now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * 4096


@dataclass(frozen=True, slots=True)
class Ask:
    """A request."""

    prompt: str
    tokens: int
    adapter: int | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client saw of an answer."""

    adapter: int | None
    first: float
    """Seconds to the first text."""
    whole: float
    """Seconds to the end."""
    tokens: int

    @property
    def each(self) -> float:
        """Seconds a token after the first."""
        return (self.whole - self.first) / max(1, self.tokens - 1)


@dataclass(frozen=True, slots=True)
class Load:
    """A case that was measured."""

    seen: tuple[Seen, ...]
    seconds: float
    processor: float
    """Seconds of the server's processor time."""

    @property
    def rate(self) -> float:
        """Tokens a second of the wall's clock."""
        return sum(one.tokens for one in self.seen) / self.seconds

    @property
    def processor_rate(self) -> float:
        """Tokens a second of the server's processor time."""
        return sum(one.tokens for one in self.seen) / max(self.processor, 1e-9)

    def first(self, share: float) -> float:
        """The share-quantile of the seconds to the first text."""
        return quantile([one.first for one in self.seen], share)

    @property
    def each(self) -> float:
        """Median seconds a token."""
        return statistics.median(one.each for one in self.seen)

    def goodput(self, first: float, each: float) -> float:
        """The share of answers whose first text and whose further tokens came in time."""
        return sum(one.first <= first and one.each <= each for one in self.seen) / len(self.seen)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def ask(server: Server, one: Ask) -> Seen:
    """Send a request, and read its stream to the end."""
    body: dict[str, Any] = {"model": server.base, "prompt": one.prompt, "max_tokens": one.tokens, "stream": True}
    body |= {"temperature": 0, "ignore_eos": True}
    if one.adapter is not None:
        body |= server.adapter_fields(one.adapter)
    connection = http.client.HTTPConnection(server.host, server.port, timeout=SECONDS)
    headers = {"content-type": "application/json"}
    begun = time.perf_counter()
    first = 0.0
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(f"{server.name}: {answer.status}: {answer.read()[:300]!r}")
    for line in answer:
        if line.startswith(b"data: {"):
            if b'"error"' in line:
                raise RuntimeError(f"{server.name}: {line[:300]!r}")
            first = first or time.perf_counter() - begun
    whole = time.perf_counter() - begun
    connection.close()
    return Seen(one.adapter, first, whole, one.tokens)


def run(server: Server, asks: Sequence[Ask], clients: int) -> Load:
    """Ask everything, so many at a time."""
    before, begun = server.processor_seconds(), time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        seen = tuple(pool.map(lambda one: ask(server, one), asks))
    return Load(seen, time.perf_counter() - begun, server.processor_seconds() - before)


def prompts(count: int, words: int, seed: int) -> list[str]:
    """Prompts of about so many tokens without a common beginning."""
    source = random.Random(seed)
    known = [
        "river",
        "mountain",
        "parcel",
        "letter",
        "window",
        "garden",
        "winter",
        "market",
        "engine",
        "bridge",
        "forest",
        "harbour",
        "silver",
        "lantern",
    ]
    return [f"{source.randrange(10**6)} " + " ".join(source.choices(known, k=words)) for _ in range(count)]


def workload(kind: str, count: int, adapters: int, seed: int) -> list[int]:
    """The adapter of each request, by Punica's popularity (Chen et al., 2023, arXiv:2310.18547) or by Zipf's law.

    Args:
        kind: distinct (each request another one), uniform (√count ones, equally often), skewed (each next one is asked
            1.5 times less often), identical (one), or zipf (exponent 1 over all).
        count: of requests.
        adapters: how many there are.
        seed: of the draws.
    """
    source = random.Random(seed)
    if kind == "identical":
        return [0] * count
    if kind == "distinct":
        return [number % adapters for number in range(count)]
    if kind == "uniform":
        several = min(adapters, max(1, round(math.sqrt(count))))
        found = [number % several for number in range(count)]
        source.shuffle(found)
        return found
    weights = [1.5**-rank if kind == "skewed" else 1 / (rank + 1) for rank in range(min(adapters, 10_000))]
    return source.choices(range(len(weights)), weights, k=count)
