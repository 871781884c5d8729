"""The choice of a micro-batch and of recomputation under a limit, and the refusal of what cannot fit.

The choice is the smallest micro-batch within two percent of the best rate, never above the limit, with recomputation
only if nothing fits without it. It depends on the setup, the rows and the machine's size alone, never on a clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch

from veneer.config import ComputeSection
from veneer.config.checks import IN_PARTS
from veneer.enums import Method, Recompute
from veneer.errors import listing
from veneer.machine.system import memory as system_memory
from veneer.machine.system import memory_limit
from veneer.planning.base import decoded_bytes
from veneer.planning.batch_shape import BatchShape, RowSizes
from veneer.planning.memory import GPU_START, MB, Memory, hosted_bytes, memory, parked_bytes
from veneer.planning.setup import Setup
from veneer.planning.time import operations, overhead_operations

CANDIDATES = (256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152, 65536)
"""The micro-batch sizes, in tokens, that are considered in addition to that of the longest row."""
TOLERANCE = 0.02
"""The largest loss of speed for which a smaller micro-batch is preferred."""
SHARE = 0.8
"""The share of the main memory that a run may use by default; the system and other programs need the rest."""
GPU_SHARE = 0.9
"""The share of a GPU's memory that a run may use by default. No system runs there, and memory that others have taken is
never included (`free_bytes`): the rest is for the driver, and for errors of the plan."""
ROUNDING = 64
"""The micro-batch that holds the longest row is rounded up to a multiple of this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """The bytes that a run may use, and where the number comes from."""

    bytes: float
    source: str

    @property
    def known(self) -> float | None:
        """The bytes; None if the system does not say how much memory there is."""
        return self.bytes if self.bytes < float("inf") else None


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatchChoice:
    """A micro-batch with its memory."""

    micro_batch_tokens: int
    recompute: bool
    batch: BatchShape
    memory: Memory


def limit_of(compute: ComputeSection, total: int | None = None, processes: int = 1, free: int | None = None) -> Limit:
    """The limit of `compute.memory_limit_mb`, or four fifths of the main memory, or nine tenths of a GPU's memory or
    the free part of it.

    Args:
        compute: the section `compute` of the configuration.
        total: bytes of a GPU's memory; None for this machine's main memory, or the container's.
        processes: the number of processes that share the main memory equally.
        free: the free bytes of the GPU's memory; None if all of it may be used.
    """
    if compute.memory_limit_mb is not None:
        return Limit(bytes=compute.memory_limit_mb * MB, source=f"compute.memory_limit_mb={compute.memory_limit_mb}")
    if total is None:
        amounts = [amount for amount in (system_memory()[0], memory_limit()) if amount is not None]
        if not amounts:
            return Limit(bytes=float("inf"), source="the system does not say how much memory there is")
        source = f"four fifths of {min(amounts) / MB:,.0f} MB"
        if processes > 1:
            source = f"{source}, for one of {processes} processes"
        return Limit(bytes=SHARE * min(amounts) / processes, source=source)
    if free is not None and free < GPU_SHARE * total:
        return Limit(bytes=free, source=f"the free part of {total / MB:,.0f} MB")
    return Limit(bytes=GPU_SHARE * total, source=f"nine tenths of {total / MB:,.0f} MB")


def device_bytes(device: torch.device) -> int | None:
    """Bytes of a GPU's memory; None for the CPU."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def free_bytes(device: torch.device) -> int | None:
    """Bytes of a GPU's memory that this process may have in total, including what it already has; None for the CPU.

    CUDA's context already exists when this is called, and a plan includes it (`GPU_START`).
    """
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) + GPU_START


def choose(
    setup: Setup,
    compute: ComputeSection,
    rows: RowSizes,
    limit: Limit,
    *,
    start: int,
) -> tuple[MicroBatchChoice, str | None]:
    """Choose the micro-batch, and whether layers are recomputed.

    Args:
        setup: model and method.
        compute: section `compute` of the configuration. Its explicit settings are not changed.
        rows: sizes of the run's rows.
        limit: the limit of memory.
        start: see `memory`.

    Returns:
        The choice and None. If nothing fits: the choice that needs the least memory, and the reason of the refusal,
        with the nearest settings that would fit.
    """
    chosen = _fitting(setup, compute, rows, limit, start)
    if chosen is not None:
        return _with_decoded(setup, chosen, limit), None
    every = (option for options in _stages(setup, compute, rows, start) for option in options)
    cheapest = min(every, key=lambda option: option.memory.peak)
    return cheapest, _refusal(setup, compute, rows, cheapest, limit, start)


def _with_decoded(setup: Setup, chosen: MicroBatchChoice, limit: Limit) -> MicroBatchChoice:
    """The choice with quantised weights kept decoded, if a GPU's memory has room for all of them: otherwise they would
    be decoded two or three times in each micro-batch. On a CPU the kernels read them as they are stored."""
    if setup.device == "cpu":
        return chosen
    roomy = replace(chosen, memory=replace(chosen.memory, decoded=decoded_bytes(setup)))
    return roomy if roomy.memory.peak <= limit.bytes else chosen


def _fitting(
    setup: Setup, compute: ComputeSection, rows: RowSizes, limit: Limit, start: int
) -> MicroBatchChoice | None:
    for options in _stages(setup, compute, rows, start):
        fitting = [option for option in options if option.memory.peak <= limit.bytes]
        if fitting:
            break
    else:
        return None
    if not all(option.recompute for option in fitting):
        fitting = [option for option in fitting if not option.recompute]
    best = min(_cost(setup, option) for option in fitting)
    return next(option for option in fitting if _cost(setup, option) <= (1 + TOLERANCE) * best)


def _stages(setup: Setup, compute: ComputeSection, rows: RowSizes, start: int) -> Iterator[list[MicroBatchChoice]]:
    """The choices that the settings allow, then the same with less memory, which are for runs that do not fit
    otherwise."""
    options = _options(setup, compute, rows, start)
    yield options
    # The embedding stays in the main memory, and factors are rounded at each product.
    slim = {"hosted": hosted_bytes(setup), "rounded": 0}
    options = [replace(option, memory=replace(option.memory, **slim)) for option in options]
    yield options
    # As the last resort the inputs of recomputed layers are in the main memory too.
    yield [_parked(setup, option) for option in options if option.recompute]


def _parked(setup: Setup, option: MicroBatchChoice) -> MicroBatchChoice:
    return replace(option, memory=replace(option.memory, parked=parked_bytes(setup, option.batch)))


def _cost(setup: Setup, option: MicroBatchChoice) -> float:
    work = operations(setup, option.batch, recompute=option.recompute)
    return work + option.batch.micro_batches * overhead_operations(setup)


def _options(setup: Setup, compute: ComputeSection, rows: RowSizes, start: int) -> list[MicroBatchChoice]:
    """All choices that the settings allow, the smallest micro-batch first."""
    found = []
    for tokens in _candidates(compute, rows.longest):
        batch = rows.batch_shape(tokens)
        found += [
            MicroBatchChoice(
                micro_batch_tokens=tokens,
                recompute=recompute,
                batch=batch,
                memory=memory(setup, batch, recompute=recompute, start=start),
            )
            for recompute in compute.recompute.tried
        ]
        if batch.micro_batches <= 1:
            break  # a larger one holds no more
    return found


def own_size(longest: int) -> int:
    """Tokens of a micro-batch that holds only the longest row."""
    return -(-longest // ROUNDING) * ROUNDING


def _candidates(compute: ComputeSection, longest: int) -> list[int]:
    if compute.micro_batch_tokens != "auto":
        return [compute.micro_batch_tokens]
    own = own_size(longest)
    return [own, *(tokens for tokens in CANDIDATES if tokens > own)]


def _refusal(
    setup: Setup, compute: ComputeSection, rows: RowSizes, cheapest: MicroBatchChoice, limit: Limit, start: int
) -> str:
    need = f"{cheapest.memory.peak / MB:,.0f} MB"
    how = (
        f"micro-batches of {cheapest.batch.tokens:,} tokens, "
        f"{'layers recomputed' if cheapest.recompute else 'activations kept'}, longest row {cheapest.batch.longest:,}"
    )
    ways = _WaysOut(
        setup=setup,
        compute=compute,
        chosen=cheapest.batch,
        batch=rows.batch_shape(own_size(rows.longest)),
        limit=limit,
        start=start,
    ).search()
    remedy = (
        f"It fits with any of these:\n{listing(ways)}"
        if ways
        else "No shorter rows, smaller rank or other method makes it fit: it needs a smaller model, or more memory."
    )
    spread = setup.spread
    whole = spread.processes > 1 and not spread.in_parts
    each = f" Each of the {spread.processes} processes holds all of it." if whole else ""
    return (
        f"this run needs {need} at its peak ({how}) and may use {limit.bytes / MB:,.0f} MB ({limit.source}).{each} "
        f"{remedy}"
    )


@dataclass(kw_only=True, slots=True)
class _WaysOut:
    """A search for changes of settings that make a run fit."""

    setup: Setup
    compute: ComputeSection
    chosen: BatchShape
    """The cheapest micro-batch that the settings allow, which does not fit."""
    batch: BatchShape
    """The largest micro-batch if they are as small as the longest row allows."""
    limit: Limit
    start: int
    found: list[str] = field(default_factory=list)
    """The changes that were found, each with the memory that the run would need."""

    def search(self) -> list[str]:
        """Single changes that make the run fit; several together if no single change does."""
        self._try_memory_settings()
        self._try_single_changes()
        if not self.found:
            self._try_several_changes()
        return self.found

    def _try_memory_settings(self) -> None:
        """Try settings that change no number of the result beyond rounding."""
        compute, row = self.compute, self.batch.longest * self.batch.together
        if compute.recompute is Recompute.NEVER:
            layers = compute.model_copy(update={"recompute": Recompute.LAYERS})
            self._try("compute.recompute=layers", self.setup, layers, rows=_AsChosen(self.chosen))
        if compute.micro_batch_tokens != "auto" and compute.micro_batch_tokens > row:
            one_row = compute.model_copy(update={"micro_batch_tokens": row})
            self._try(f"compute.micro_batch_tokens={row}", self.setup, one_row)
        if not self.found and self._opened(self.batch.longest):
            self._try("", self.setup)

    def _try_single_changes(self) -> None:
        """Try parts, lighter methods, smaller ranks and shorter rows, each by itself."""
        setup = self.setup
        if _may_be_in_parts(setup):
            self._try("compute.sharding=full", replace(setup, spread=replace(setup.spread, sharded=True)))
        for label, other in self._lighter():
            self._try(label, other)
        for rank in _halves(setup.lora.rank) if not setup.full else []:
            if self._try(f"lora.rank={rank}", setup.with_rank(rank)):
                break
        for length in self._shorter():
            if self._try(self._shortened(length), setup, length=length):
                break

    def _try_several_changes(self) -> None:
        """Try these together, up to the first combination that fits."""
        own = self.setup.lora.rank
        for label, other in (("", self.setup), *self._lighter()):
            for rank in (other.lora.rank, *_halves(other.lora.rank)) if not other.full else (other.lora.rank,):
                for length in self._shorter():
                    words = [label, f"lora.rank={rank}" if rank != own else "", self._shortened(length)]
                    if self._try(" ".join(filter(None, words)), other.with_rank(rank), length=length):
                        return

    def _shorter(self) -> list[int]:
        """Lengths of rows, below those that there are and within the model's context."""
        found = _halves(min(self.batch.longest, self.setup.spec.max_positions + 1), least=16)
        return [length for length in found if length > self._prompt]

    def _shortened(self, length: int) -> str:
        """The setting with which no row is longer. A prompt whose answers are sampled is not shortened."""
        sampled = self.batch.sampled > 0
        return f"grpo.max_completion_length={length - self._prompt}" if sampled else f"data.max_length={length}"

    @property
    def _prompt(self) -> int:
        """Tokens of the longest prompt, if its answers are sampled; otherwise 0."""
        batch = self.batch
        return batch.longest - batch.supervised // batch.documents if batch.sampled else 0

    def _lighter(self) -> list[tuple[str, Setup]]:
        """The run with methods that need less memory."""
        setup = self.setup
        return [
            (f"method={method.value}", replace(setup, method=method))
            for method in (Method.LORA, Method.QLORA)
            if setup.full or (not setup.quantized and method is Method.QLORA)
        ]

    def _try(
        self,
        label: str,
        setup: Setup,
        compute: ComputeSection | None = None,
        *,
        length: int | None = None,
        rows: RowSizes | None = None,
    ) -> bool:
        """Note a change if the run fits with it.

        Args:
            label: the change, as settings.
            setup: the run with it.
            compute: its section `compute`; None lets the plan choose what the run sets so that it needs more memory,
                and the change says so.
            length: tokens of the longest row; None for that of the run.
            rows: sizes of its rows; None for those of the length.

        Returns:
            Whether it fits.
        """
        length = self.batch.longest if length is None else length
        if compute is None:
            opened = self._opened(length)
            label = " ".join(filter(None, (label, *(f"compute.{name}=auto" for name in opened))))
            recompute = Recompute.AUTO if "recompute" in opened else self.compute.recompute
            # As small as the plan may choose them.
            smallest = {"micro_batch_tokens": own_size(length * self.batch.together), "recompute": recompute}
            compute = self.compute.model_copy(update=smallest)
        fits = _fitting(setup, compute, rows or _RowsOfLength(length, self.batch), self.limit, self.start)
        if fits is not None:
            self.found.append(f"{label} ({fits.memory.peak / MB:,.0f} MB)")
        return fits is not None

    def _opened(self, length: int) -> list[str]:
        """The settings of `compute` that keep micro-batches of one row of this length, or recomputation, from being
        chosen."""
        tokens = self.compute.micro_batch_tokens
        larger = tokens != "auto" and tokens > length * self.batch.together
        never = self.compute.recompute is Recompute.NEVER
        return [name for name, keeps in (("micro_batch_tokens", larger), ("recompute", never)) if keeps]


@dataclass(frozen=True, slots=True)
class _AsChosen:
    """Rows in the micro-batches that were chosen for them, whatever size is set."""

    batch: BatchShape

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self.batch.longest * self.batch.together

    def batch_shape(self, micro_batch_tokens: int) -> BatchShape:
        """The micro-batch."""
        return self.batch


@dataclass(frozen=True, slots=True)
class _RowsOfLength:
    """Micro-batches that are filled with rows whose documents have at most a given length; everything else is as in the
    run."""

    length: int
    batch: BatchShape
    """The largest micro-batch of the run if they are as small as its longest row allows."""

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self.length * self.batch.together

    def batch_shape(self, micro_batch_tokens: int) -> BatchShape:
        """The largest micro-batch."""
        batch = self.batch
        share = batch.supervised / batch.tokens
        tokens = max(micro_batch_tokens, self.longest)
        rows = tokens // self.longest
        return replace(
            BatchShape.of_rows(self.length, tokens, rows, share, together=batch.together),
            tokens=tokens,
            supervised=max(1, round(share * tokens)),
            evaluated=min(batch.evaluated, tokens),
            micro_batches=batch.micro_batches,
            shapes=batch.shapes,
            sampled=batch.sampled,
        )


def _may_be_in_parts(setup: Setup) -> bool:
    """Whether the processes, which now hold all weights each, could hold a part of them each."""
    spread = setup.spread
    return (
        setup.full
        and spread.processes > 1
        and not spread.sharded
        and setup.optimizer in IN_PARTS
        and setup.objective.imitates
        and setup.spec.mixture is None
    )


def _halves(value: int, least: int = 1) -> list[int]:
    """Powers of two below `value`, the largest first."""
    found = []
    power = 1 << max(0, (value - 1).bit_length() - 1)
    while power >= least and value > least:
        if power < value:
            found.append(power)
        power //= 2
    return found
