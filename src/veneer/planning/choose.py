"""The choice of a micro-batch and of recomputation under a limit, and the refusal of what cannot fit.

The smallest micro-batch within two percent of the best rate, never above the limit; recomputation only where nothing
fits without. The choice follows from the setup, the rows and the machine's size alone, never from a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from veneer.config import ComputeSection
from veneer.config.checks import IN_PARTS
from veneer.enums import Method, Recompute
from veneer.errors import listing
from veneer.planning.memory import GPU_START, MB, Memory, decoded_bytes, hosted_bytes, memory, parked_bytes, resident
from veneer.planning.setup import BatchShape, Setup
from veneer.planning.time import operations, overhead_operations
from veneer.system import memory as system_memory
from veneer.system import memory_limit

CANDIDATES = (256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152, 65536)
"""Sizes of micro-batches in tokens that are considered, besides that of the longest row."""
TOLERANCE = 0.02
"""Largest loss of speed for which a smaller micro-batch is preferred."""
SHARE = 0.8
"""Share of the main memory that a run may take by default; the system and other programs live on the rest."""
GPU_SHARE = 0.9
"""Share of a GPU's memory that a run may take by default. No system lives there, and what others have taken is never
counted in (`free_bytes`): the rest is for what the driver keeps, and for an error of the plan."""
ROUNDING = 64
"""The micro-batch that holds the longest row is rounded up to a multiple of this."""

BatchShapeFor = Callable[[int], BatchShape]
"""A function from the tokens of a micro-batch to its shape."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """Bytes that a run may take, and where the number comes from."""

    bytes: float
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatchChoice:
    """A micro-batch with its memory."""

    micro_batch_tokens: int
    recompute: bool
    batch: BatchShape
    memory: Memory


def limit_of(compute: ComputeSection, total: int | None = None, processes: int = 1, free: int | None = None) -> Limit:
    """The limit of `compute.memory_limit_mb`, or four fifths of the main memory, or nine tenths of a GPU's, or what of
    that is free.

    Args:
        compute: the section `compute` of the configuration.
        total: bytes of a GPU's memory; None for this machine's main memory, or the container's.
        processes: the number of processes that share the main memory equally.
        free: bytes of the GPU's memory that are free; None where all of it may be taken.
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
        return Limit(bytes=free, source=f"what is free of {total / MB:,.0f} MB")
    return Limit(bytes=GPU_SHARE * total, source=f"nine tenths of {total / MB:,.0f} MB")


def device_bytes(device: torch.device) -> int | None:
    """Bytes of a GPU's memory; None for the CPU."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def free_bytes(device: torch.device) -> int | None:
    """Bytes of a GPU's memory that this process may have in all, its own among them; None for the CPU.

    CUDA's context exists when this is asked, and a plan counts it (`GPU_START`).
    """
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) + GPU_START


def choose(
    setup: Setup,
    compute: ComputeSection,
    longest: int,
    batch_for: BatchShapeFor,
    limit: Limit,
    *,
    start: int | None = None,
) -> tuple[MicroBatchChoice, str | None]:
    """Choose the micro-batch, and whether layers are recomputed.

    Returns:
        The choice and None; or, where nothing fits, the choice that takes least memory and the reason of the refusal,
        with the nearest settings that would fit.

    Args:
        setup: model and method.
        compute: section `compute` of the configuration. What it sets is not changed.
        longest: tokens of the longest row.
        batch_for: gives the shape of a micro-batch of so many tokens.
        limit: the limit of memory.
        start: see `memory`.
    """
    start = resident() if start is None else start
    chosen = _fitting(setup, compute, longest, batch_for, limit, start)
    if chosen is not None:
        return _with_decoded(setup, chosen, limit), None
    cheapest = min(_options(setup, compute, longest, batch_for, start), key=lambda option: option.memory.peak)
    return cheapest, _refusal(setup, compute, cheapest, limit, start)


def _with_decoded(setup: Setup, chosen: MicroBatchChoice, limit: Limit) -> MicroBatchChoice:
    """The choice with quantised weights kept decoded, on a GPU whose memory has room for all of them: they would be
    decoded two or three times in each micro-batch. On a CPU the kernels read them as they are stored."""
    if setup.device == "cpu":
        return chosen
    roomy = replace(chosen, memory=replace(chosen.memory, decoded=decoded_bytes(setup)))
    return roomy if roomy.memory.peak <= limit.bytes else chosen


def _fitting(
    setup: Setup, compute: ComputeSection, longest: int, batch_for: BatchShapeFor, limit: Limit, start: int | None
) -> MicroBatchChoice | None:
    options = _options(setup, compute, longest, batch_for, start)
    fitting = [option for option in options if option.memory.peak <= limit.bytes]
    if not fitting:
        # Only where nothing fits otherwise: the embedding is looked up in the main memory, and factors are rounded at
        # each product.
        slim = {"hosted": hosted_bytes(setup), "rounded": 0}
        options = [replace(option, memory=replace(option.memory, **slim)) for option in options]
        fitting = [option for option in options if option.memory.peak <= limit.bytes]
    if not fitting:
        # And at last the inputs of recomputed layers are in the main memory too.
        options = [_parked(setup, option) for option in options if option.recompute]
        fitting = [option for option in options if option.memory.peak <= limit.bytes]
    if not fitting:
        return None
    if not all(option.recompute for option in fitting):
        fitting = [option for option in fitting if not option.recompute]
    best = min(_cost(setup, option) for option in fitting)
    return next(option for option in fitting if _cost(setup, option) <= (1 + TOLERANCE) * best)


def _parked(setup: Setup, option: MicroBatchChoice) -> MicroBatchChoice:
    return replace(option, memory=replace(option.memory, parked=parked_bytes(setup, option.batch)))


def _cost(setup: Setup, option: MicroBatchChoice) -> float:
    work = operations(setup, option.batch, recompute=option.recompute)
    return work + option.batch.micro_batches * overhead_operations(setup)


def _options(
    setup: Setup, compute: ComputeSection, longest: int, batch_for: BatchShapeFor, start: int | None
) -> list[MicroBatchChoice]:
    """All choices that the settings allow, the smallest micro-batch first."""
    recomputing = {Recompute.NEVER: (False,), Recompute.LAYERS: (True,), Recompute.AUTO: (False, True)}
    found = []
    for tokens in _candidates(compute, longest):
        batch = batch_for(tokens)
        found += [
            MicroBatchChoice(
                micro_batch_tokens=tokens,
                recompute=recompute,
                batch=batch,
                memory=memory(setup, batch, recompute=recompute, start=start),
            )
            for recompute in recomputing[compute.recompute]
        ]
        if batch.micro_batches <= 1:
            break  # a larger one holds no more
    return found


def _candidates(compute: ComputeSection, longest: int) -> list[int]:
    if compute.micro_batch_tokens != "auto":
        return [compute.micro_batch_tokens]
    own = -(-longest // ROUNDING) * ROUNDING
    return [own, *(tokens for tokens in CANDIDATES if tokens > own)]


def _refusal(setup: Setup, compute: ComputeSection, cheapest: MicroBatchChoice, limit: Limit, start: int | None) -> str:
    need = f"{cheapest.memory.peak / MB:,.0f} MB"
    how = (
        f"micro-batches of {cheapest.batch.tokens:,} tokens, "
        f"{'layers recomputed' if cheapest.recompute else 'activations kept'}, longest row {cheapest.batch.longest:,}"
    )
    ways = _ways_out(setup, compute, cheapest.batch, limit, start)
    remedy = (
        f"It fits with any of these:\n{listing(ways)}"
        if ways
        else "No shorter rows, smaller rank or other method makes it fit: it takes a smaller model, or more memory."
    )
    spread = setup.spread
    whole = spread.processes > 1 and not spread.in_parts
    each = f" Each of the {spread.processes} processes holds all of it." if whole else ""
    return (
        f"this run takes {need} at its peak ({how}) and may take {limit.bytes / MB:,.0f} MB ({limit.source}).{each} "
        f"{remedy}"
    )


def _ways_out(setup: Setup, compute: ComputeSection, batch: BatchShape, limit: Limit, start: int | None) -> list[str]:
    """Single changes that make the run fit, with its memory then; several together where no single change does."""
    share = batch.supervised / batch.tokens

    def short(length: int) -> BatchShapeFor:
        most = length * batch.together
        return lambda tokens: BatchShape.of_rows(length, max(tokens, most), 1, share, together=batch.together)

    auto = compute.model_copy(update={"micro_batch_tokens": "auto", "recompute": Recompute.AUTO})
    one_row = short(batch.longest)
    found = []

    def attempt(label: str, other: Setup, settings: ComputeSection, length: int, batch_for: BatchShapeFor) -> bool:
        fits = _fitting(other, settings, length * batch.together, batch_for, limit, start)
        if fits is not None:
            found.append(f"{label} ({fits.memory.peak / MB:,.0f} MB)")
        return fits is not None

    if compute.recompute is Recompute.NEVER:
        attempt("compute.recompute=layers", setup, compute.model_copy(update={"recompute": Recompute.LAYERS}),
                batch.longest, lambda tokens: batch)  # fmt: skip
    row = batch.longest * batch.together
    if compute.micro_batch_tokens != "auto" and compute.micro_batch_tokens > row:
        attempt(f"compute.micro_batch_tokens={row}", setup,
                compute.model_copy(update={"micro_batch_tokens": row}), batch.longest, one_row)  # fmt: skip
    if not found and (compute.micro_batch_tokens != "auto" or compute.recompute is Recompute.NEVER):
        attempt("compute.recompute=auto compute.micro_batch_tokens=auto", setup, auto, batch.longest, one_row)
    lighter = [
        (f"method={method.value}", replace(setup, method=method))
        for method in (Method.LORA, Method.QLORA)
        if setup.full or (not setup.quantized and method is Method.QLORA)
    ]
    if _may_be_in_parts(setup):
        parts = replace(setup, spread=replace(setup.spread, sharded=True))
        attempt("compute.sharding=full", parts, auto, batch.longest, one_row)
    for label, other in lighter:
        attempt(label, other, auto, batch.longest, one_row)
    for rank in _halves(setup.lora.rank) if not setup.full else []:
        if attempt(f"lora.rank={rank}", setup.with_rank(rank), auto, batch.longest, one_row):
            break
    for length in _halves(batch.longest, least=16):
        if attempt(f"data.max_length={length}", setup, auto, length, short(length)):
            break
    if found:
        return found
    for label, other in (("", setup), *lighter):
        for rank in (other.lora.rank, *_halves(other.lora.rank)) if not other.full else (other.lora.rank,):
            for length in _halves(batch.longest, least=16):
                words = [label, f"lora.rank={rank}" if rank != setup.lora.rank else "", f"data.max_length={length}"]
                if attempt(" ".join(filter(None, words)), other.with_rank(rank), auto, length, short(length)):
                    return found
    return found


def _may_be_in_parts(setup: Setup) -> bool:
    """Whether each process could hold a part of the weights where each of several holds all of them."""
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
