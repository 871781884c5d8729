"""What a server needs, and what fits: adapters, sequences and context, from a model's configuration and a limit.

A server's memory consists of what it has before the first request (the program and the base), the working memory of a
step, and two budgets that it enforces: `--cache-memory` for keys and values, `--adapter-memory` for adapters. Adapters
that are more than updates of linear layers are computed by the model's modules (`veneer.generation.cohort`): whole
prompts at once, with decoded weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from veneer.enums import Bias, Method, Variant
from veneer.errors import ConfigError
from veneer.generation.scheduler import Limits
from veneer.planning.base import base_bytes
from veneer.planning.choose import Limit
from veneer.planning.memory import MB, resident
from veneer.planning.sampling import BLOCKS_BEYOND, SCORES_COPIES, decoded_for_answers, step_width
from veneer.planning.setup import Setup
from veneer.text.counting import count_of

SERVER_START = 25 * MB
"""How much more a server's process needs, besides the base, than one that plans: imports, threads, its first request
(23 to 25 MB were measured with torch 2.13 for CPUs and 2.15 for CUDA, on Linux)."""
HEAP_SHARE = 0.1
"""Holes in the heap, as a share of everything else that is allocated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingPlan:
    """The memory of a server in bytes, and what it can hold."""

    start: int
    """The program, before a model is loaded."""
    base: int
    workspace: int
    """The working memory of a step: rows of the widest layers, and logits."""
    decoded: int
    """The decoded weights of a quantised base; 0 if no module needs them."""
    heap: int
    """What the allocator holds beyond the tensors."""
    sequence: int
    """Keys and values of a sequence of `context` tokens."""
    prompt: int
    """The working memory for the prompt of such a sequence as a whole; 0 if prompts are computed in pieces."""
    adapter: int
    """An adapter of `rank`, on the requested layers."""
    context: int
    rank: int
    sequences: int
    """The number of sequences of that length that run at a time."""
    adapters: int
    """The number of adapters in memory at a time; all others are read from their files."""
    limit: Limit
    refusal: str | None
    """Why not even one sequence and one adapter fit, or why the requested numbers do not."""

    @property
    def fixed(self) -> int:
        """The memory that is needed for any request."""
        return self.start + self.base + self.workspace + self.decoded + self.heap

    def needed(self, sequences: int, adapters: int) -> int:
        """The memory that this many sequences and adapters need."""
        return self.fixed + sequences * (self.sequence + self.prompt) + adapters * self.adapter

    @property
    def cache_memory(self) -> int:
        """`--cache-memory` in megabytes."""
        return -(-self.sequences * self.sequence // MB)

    @property
    def adapter_memory(self) -> int:
        """`--adapter-memory` in megabytes."""
        return -(-self.adapters * self.adapter // MB)

    @property
    def peak(self) -> int:
        """The peak memory of the server."""
        return self.fixed + (self.cache_memory + self.adapter_memory) * MB + self.sequences * self.prompt

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values."""
        more = {"cache_memory_mb": self.cache_memory, "adapter_memory_mb": self.adapter_memory, "peak": self.peak}
        return {**asdict(self), "limit": asdict(self.limit) | {"bytes": self.limit.known}, **more}


def plan_serving(
    setup: Setup,
    limit: Limit,
    *,
    context: int,
    sequences: int | None = None,
    adapters: int | None = None,
    adapter_dtype: torch.dtype = torch.float32,
    start: int | None = None,
) -> ServingPlan:
    """Compute what a server needs, and what fits into the rest of the memory.

    Args:
        setup: the base, and the adapter whose size is assumed for all.
        limit: the bytes that the server may use.
        context: the tokens of a prompt and its answer together.
        sequences: the number that run at a time; None for as many as fit.
        adapters: the number in memory; None for as many as fit. If both are left open, each gets half of the room.
        adapter_dtype: the dtype of the factors in memory.
        start: the resident bytes of a process that has imported what plans; None for those of this process now.

    Raises:
        ConfigError: the context is longer than the model's, or there is no limit that the adapters could fill.
    """
    spec = setup.spec
    if not 1 <= context <= spec.max_positions:
        raise ConfigError(f"--length {context:,}: the model's context has {spec.max_positions:,} tokens")
    if adapters is None and limit.known is None:
        raise ConfigError(f"{limit.source}: give --adapters, or --memory-limit-mb")
    limits, by_modules = Limits(), computed_by_modules(setup)
    blocks = -(-context // limits.block_tokens) + BLOCKS_BEYOND
    base, workspace = base_bytes(setup), _workspace(setup, limits)
    decoded = decoded_for_answers(setup) if by_modules else 0
    plan = ServingPlan(
        start=(resident() if start is None else start) + SERVER_START,
        base=base,
        workspace=workspace,
        decoded=decoded,
        heap=int(HEAP_SHARE * (base + workspace + decoded)),
        sequence=spec.token_bytes(setup.dtype) * blocks * limits.block_tokens,
        prompt=4 * step_width(setup) * context if by_modules else 0,
        adapter=_adapter_bytes(setup, None if by_modules else adapter_dtype),
        context=context,
        rank=setup.lora.rank,
        sequences=sequences or 0,
        adapters=adapters or 0,
        limit=limit,
        refusal=None,
    )
    room = int(min(limit.bytes, 2**62)) - plan.needed(plan.sequences, plan.adapters)
    share = room // (2 if sequences is None and adapters is None else 1)
    if sequences is None:
        # A server runs at most this many at a time, however much memory there is.
        plan = replace(plan, sequences=min(limits.sequences, max(0, share // (plan.sequence + plan.prompt))))
    if adapters is None:
        plan = replace(plan, adapters=max(0, share // plan.adapter))
    return _with_refusal(plan, quantized=setup.quantized)


def computed_by_modules(setup: Setup) -> bool:
    """Whether a server computes adapters of this kind with the model's modules, in one batch for each adapter, because
    they contain more than `veneer.adapters.layers.step_factors` can express."""
    more = bool(setup.updated or setup.lora.modules_to_save or setup.lora.trainable_tokens)
    biases = setup.lora.bias is not Bias.NONE and any(linear.bias for linear in setup.every_linear)
    return setup.spec.mixture is not None or biases or more


def _adapter_bytes(setup: Setup, dtype: torch.dtype | None) -> int:
    """The bytes of an adapter: factors in a dtype, with a subtracted pair, and numbers for each output in float32. For
    None everything is in float32, as modules hold it."""
    lora = setup.lora
    adapted = [linear for linear in setup.every_linear if linear.rank and not linear.experts]
    dora = lora.variant is Variant.DORA
    by_output = sum(linear.outputs * (dora + lora.factor_bias) for linear in adapted)
    weights = replace(setup, method=Method.LORA).adapter_weights - by_output
    if dora and dtype is not None:
        # The gain also scales the base's own bias, which is corrected by an addition.
        by_output += sum(linear.outputs for linear in adapted if linear.bias)
    return weights * (torch.float32 if dtype is None else dtype).itemsize + by_output * torch.float32.itemsize


def _with_refusal(plan: ServingPlan, *, quantized: bool) -> ServingPlan:
    """The plan, with a refusal if it does not fit."""
    if plan.sequences and plan.adapters and plan.peak <= plan.limit.bytes + 2 * MB:
        return plan
    sequences, adapters = max(1, plan.sequences), max(1, plan.adapters)
    remedy = "a shorter --length, fewer of them, or " + ("a larger limit" if quantized else "--method qlora")
    message = (
        f"a server with {count_of(sequences, 'sequence')} of {plan.context:,} tokens and "
        f"{count_of(adapters, 'adapter')} of rank {plan.rank} needs "
        f"{plan.needed(sequences, adapters) / MB:,.0f} MB, above the limit of "
        f"{plan.limit.bytes / MB:,.0f} MB ({plan.limit.source}); give {remedy}"
    )
    return replace(plan, refusal=message)


def _workspace(setup: Setup, limits: Limits) -> int:
    """The working memory of the compiled step (`veneer.model.compiled_step`), and all of its logits, in float32."""
    return 4 * limits.step_tokens * (step_width(setup) + SCORES_COPIES * setup.spec.vocab_size)
