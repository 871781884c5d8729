"""The processes of a run together: where they meet, and the messages that they exchange.

They first meet in a store, which waits as long as necessary: rank 0 reads and tokenises the rows, and the others get
them from there. Only then the group of torch.distributed is created, whose collectives fail after the time-out: gloo on
CPUs, NCCL for tensors on GPUs. A collective that fails ends the run on every rank with the name of the lost one. The
time-out covers all of this, so a collective gets a little less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import blake2b
from time import monotonic, sleep
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from veneer.errors import ConfigError, RankLost, listing
from veneer.processes.liveness import GOES_ON, Heart, Peers, Store, collective_seconds, within
from veneer.processes.ranks import ONE_RANK, Ranks
from veneer.processes.rounds import ROUND, agreed
from veneer.runtime.descriptors import silent_stdout
from veneer.runtime.signals import Stopped, stop_signalled

PLACE = "veneer"
"""The prefix of all rounds' keys in the store."""
POLL = 0.05
"""Seconds between two looks into the store."""
MEETING = 300.0
"""Seconds within which all ranks must have reached the meeting place."""
ARRIVAL = 30.0
"""How many seconds after the others a rank may always arrive, even if the group's time-out is shorter."""


class Group(Protocol):
    """What a run needs from its processes."""

    @property
    def ranks(self) -> Ranks:
        """The place of this process."""
        ...

    @property
    def process_group(self) -> dist.ProcessGroup | None:
        """The group of torch.distributed, once it is connected; None for a single process."""
        ...

    def reaching(self) -> AbstractContextManager[None]:
        """A block in which collectives of the group are called; one that fails raises RankLost."""
        ...

    def publish(self, key: str, text: str) -> None:
        """Publish a text for the other ranks, before or after they are connected."""
        ...

    def awaited(self, key: str) -> str:
        """A text that another rank publishes; this waits as long as necessary."""
        ...

    def connect(self, device: torch.device) -> None:
        """Create the group for the collectives that follow."""
        ...

    def gather(self, values: Tensor) -> Tensor:
        """The float64 values [n] of every rank, [world, n]."""
        ...

    def exchange(self, parts: Tensor, sizes: Sequence[int]) -> Tensor:
        """Send part r of [world, m, n] to rank r, and receive from rank q `sizes[q]` rows: [sum of sizes, n]."""
        ...

    def join(self, part: Tensor, whole: Tensor) -> None:
        """Write the parts [n] of all ranks, one after another, into `whole` [world · n]."""
        ...

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite the tensor with rank 0's."""
        ...

    def require_equal(self, what: str, text: str) -> None:
        """Refuse a text that differs between ranks.

        Raises:
            ConfigError: the text differs; the ranks whose text is not rank 0's are named.
        """
        ...


class Alone:
    """A single process (`Group`), whose texts nobody reads.

    Args:
        ranks: the place of the process. Other processes on this machine may have runs of their own and share its
            memory.
    """

    process_group = None

    def __init__(self, ranks: Ranks = ONE_RANK):
        self.ranks = ranks

    def reaching(self) -> AbstractContextManager[None]:
        """See `Group`."""
        return nullcontext()

    def publish(self, key: str, text: str) -> None:
        """See `Group`."""

    def awaited(self, key: str) -> str:
        """See `Group`."""
        raise AssertionError(f"nobody publishes {key!r} for a single process")

    def connect(self, device: torch.device) -> None:
        """See `Group`."""

    def gather(self, values: Tensor) -> Tensor:
        """See `Group`."""
        return values.unsqueeze(0)

    def exchange(self, parts: Tensor, sizes: Sequence[int]) -> Tensor:
        """See `Group`."""
        return parts[0]

    def join(self, part: Tensor, whole: Tensor) -> None:
        """See `Group`."""
        whole.copy_(part)

    def broadcast(self, tensor: Tensor) -> None:
        """See `Group`."""

    def require_equal(self, what: str, text: str) -> None:
        """See `Group`."""


@dataclass(slots=True)
class Together:
    """Several processes (`Group`)."""

    ranks: Ranks
    timeout: float
    """Seconds after which a rank that does not answer is given up."""
    store: Store
    peers: Peers
    sent: dict[str, int] = field(default_factory=dict)
    """The bytes that this rank has sent to others, by purpose: `control` and `gradients`."""
    process_group: dist.ProcessGroup | None = None
    """The group of torch.distributed for these collectives; None before it is created."""

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """See `Group`.

        Raises:
            RankLost: a collective has failed.
        """
        try:
            yield
        except RuntimeError as error:
            if not _of_network(error):
                raise
            raise self.peers.lost(error) from None

    def publish(self, key: str, text: str) -> None:
        """See `Group`.

        Raises:
            RankLost: the meeting place of the ranks is gone.
        """
        with self._lost():
            self.store.set(f"text/{key}", text)

    def awaited(self, key: str) -> str:
        """See `Group`.

        Raises:
            RankLost: a rank has failed, or has not answered within the time-out.
        """
        most = collective_seconds(self.timeout)
        try:
            with self.peers.watched():
                while (text := within(most, lambda: self._left(key))) is None:
                    # A process that was asked to end only waits until it knows that nobody is there.
                    self.peers.require(soon=stop_signalled())
                    sleep(POLL)
        except RuntimeError as error:
            raise self.peers.lost(error) from None
        return text

    def _left(self, key: str) -> str | None:
        """A text of another rank, if it is already there."""
        return self.store.get(f"text/{key}").decode() if self.store.check([f"text/{key}"]) else None

    def connect(self, device: torch.device) -> None:
        """See `Group`.

        Raises:
            RankLost: a rank has failed meanwhile, or does not answer.
        """
        # Here a failed rank is noticed at once; in the collectives only after the time-out.
        self.publish(f"ready/{self.ranks.rank}", self.ranks.name)
        for rank in range(self.ranks.world):
            self.awaited(f"ready/{rank}")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        timeout = timedelta(seconds=collective_seconds(self.timeout))
        # Gloo in torch 2.9 and 2.10 prints a line for each rank, which would precede the JSON of `--json`.
        with self._lost(), silent_stdout():
            if dist.is_initialized():
                # The launcher has already created a group, with its own time-out, as Ray does.
                made = dist.new_group(backend=backend, timeout=timeout)
                assert isinstance(made, dist.ProcessGroup)  # every rank is a member
                self.process_group = made
                return
            dist.init_process_group(
                backend,
                store=PrefixStore("group", self.store),  # type: ignore[arg-type]
                rank=self.ranks.rank,
                world_size=self.ranks.world,
                timeout=timeout,
            )
            self.process_group = dist.group.WORLD

    def disconnect(self) -> None:
        """Leave the group that `connect` created, and no other."""
        if self.process_group is not None:
            dist.destroy_process_group(self.process_group)
            self.process_group = None

    def gather(self, values: Tensor) -> Tensor:
        """See `Group`."""
        found = torch.empty(self.ranks.world * values.numel(), dtype=values.dtype)
        with self._lost():
            dist.all_gather(list(found.chunk(self.ranks.world)), values, group=self.process_group)
        self._count("control", values.nbytes * (self.ranks.world - 1))
        return found.view(self.ranks.world, -1)

    def exchange(self, parts: Tensor, sizes: Sequence[int]) -> Tensor:
        """See `Group`."""
        world, rows, width = parts.shape
        found = torch.empty(sum(sizes), width, dtype=parts.dtype, device=parts.device)
        with self._lost():
            sent = parts.view(world * rows, width)
            dist.all_to_all_single(found, sent, list(sizes), [rows] * world, group=self.process_group)
        self._count("gradients", parts.nbytes // world * (world - 1))
        return found

    def join(self, part: Tensor, whole: Tensor) -> None:
        """See `Group`."""
        with self._lost():
            dist.all_gather(list(whole.chunk(self.ranks.world)), part, group=self.process_group)
        self._count("gradients", part.nbytes * (self.ranks.world - 1))

    def broadcast(self, tensor: Tensor) -> None:
        """See `Group`."""
        with self._lost():
            dist.broadcast(tensor, src=0, group=self.process_group)
        # A collective changes a tensor without counting the change, and values derived from the old ones are recognised
        # by that count (`veneer.adapters.layers.rounded`).
        torch.autograd.graph.increment_version(tensor)

    def require_equal(self, what: str, text: str) -> None:
        """See `Group`."""
        digest = torch.frombuffer(bytearray(blake2b(text.encode(), digest_size=16).digest()), dtype=torch.int32)
        every = self.gather(digest.double())
        others = [rank for rank in range(self.ranks.world) if not bool((every[rank] == every[0]).all())]
        if others:
            first, *names = [self.awaited(f"ready/{rank}") for rank in (0, *others)]
            raise ConfigError(
                f"{what} differs from that of {first} on:\n{listing(names)}\n"
                "All processes must read the same model and rows, with the same version of veneer and torch."
            )

    def _count(self, kind: str, size: int) -> None:
        self.sent[kind] = self.sent.get(kind, 0) + size

    @contextmanager
    def _lost(self) -> Iterator[None]:
        """Turn a failed collective, or a store that is gone, into the error that names the lost rank."""
        try:
            yield
        except RuntimeError as error:
            raise self.peers.lost(error) from None


class Meeting:
    """A context in which this process and the others form a group.

    Args:
        ranks: the place of this process.
        timeout: seconds after which a rank that does not answer is given up.

    Raises:
        RankLost: the meeting place of the ranks cannot be reached, or a rank does not come.
    """

    def __init__(self, ranks: Ranks, timeout: float):
        self._ranks, self._timeout = ranks, timeout
        self._together: Together | None = None
        self._heart: Heart | None = None

    def __enter__(self) -> Group:
        if not self._ranks.many:
            return Alone(self._ranks)
        with _reaching(self._ranks):
            own, pulse = _store(self._ranks), _store(self._ranks)
            most = max(self._timeout, ARRIVAL)
            this = within(most + ARRIVAL, lambda: agreed(own, self._ranks, most))
            store: Store = PrefixStore(this.name, own)  # type: ignore[arg-type]
            ranks = replace(self._ranks, restarts=this.restarts)
            peers = Peers(PrefixStore(this.name, pulse), ranks, self._timeout)  # type: ignore[arg-type]
            peers.introduce()
        self._heart = Heart(peers)
        self._together = Together(ranks, self._timeout, store, peers)
        return self._together

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._together is None or self._heart is None:
            return
        if error is None:
            _leave(self._together.store, self._ranks)
        elif not isinstance(error, RankLost):
            self._together.peers.last_words("a signal asked it to" if isinstance(error, Stopped) else str(error))
        self._heart.stop()
        self._together.disconnect()


def tell_killed(store: TCPStore, ranks: Ranks, by: str) -> None:
    """Store the last words of a rank that a signal has ended, where the others look for them.

    Args:
        store: the launcher's store, in which the ranks meet.
        ranks: the place of the rank.
        by: the name of the signal.
    """
    place: Store = PrefixStore(PLACE, store)
    if place.check([ROUND]):  # before that nobody waits long
        met: Store = PrefixStore(place.get(ROUND).decode(), place)  # type: ignore[arg-type]
        Peers(met, ranks, 0.0).last_words(f"killed by {by}. {GOES_ON}")


def _of_network(error: BaseException) -> bool:
    """Whether an error comes from torch.distributed. gloo raises a RuntimeError that names its source."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _store(ranks: Ranks) -> Store:
    """A connection to the meeting place of the ranks. Rank 0 creates the place if no launcher keeps one."""
    store = TCPStore(
        ranks.address,
        ranks.port,
        ranks.world,
        is_master=ranks.first and not ranks.agent,
        timeout=timedelta(seconds=MEETING),
        wait_for_workers=False,
        multi_tenant=True,
    )
    prefixed: Store = PrefixStore(PLACE, store)
    return prefixed


@contextmanager
def _reaching(ranks: Ranks) -> Iterator[None]:
    """Turn a store that is missing, or disappears, into an error that says so."""
    try:
        yield
    except RuntimeError as error:
        raise RankLost(
            f"{ranks.name} cannot reach {ranks.meeting_place}, where the ranks meet: {str(error).splitlines()[0]}"
        ) from None


def _leave(store: Store, ranks: Ranks) -> None:
    """Let rank 0 wait for the others if it keeps the store: they need it until they are done."""
    with suppress(RuntimeError):
        store.set(f"left/{ranks.rank}", "1")
        if ranks.first and not ranks.agent:
            end = monotonic() + MEETING
            while monotonic() < end and not all(store.check([f"left/{rank}"]) for rank in range(1, ranks.world)):
                sleep(POLL)
