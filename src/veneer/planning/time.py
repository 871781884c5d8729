"""Estimates of a run's time (operations over a rate) and of its files' sizes.

A short probe measures the rate of this machine's processor, with the product that the run itself would use. The other
work of a step is added. The rate of a GPU that is given by name is its published peak, times the share that a training
step reaches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import nn

from veneer.enums import ObjectiveName
from veneer.errors import ConfigError, nearest
from veneer.machine.hardware import timed
from veneer.machine.out_of_memory import refuse_full_address_space
from veneer.model.leaves import DenseLinear
from veneer.planning.batch_shape import BatchShape
from veneer.planning.mixture import block_width
from veneer.planning.optimizer import state_bytes
from veneer.planning.setup import Setup
from veneer.products import apply_trained, reads_stored

PROBE_SECONDS, PROBE_AT_MOST = 0.15, 0.5
"""Seconds that the probe takes, and the most that it takes if other programs make its times differ."""
PROBE_TOKENS = 512
PROBE_AGREE = 3
"""The number of times (the best one and others within a tenth of it) after which the probe's result counts as
certain."""
CPU_EFFICIENCY = 1.0
"""The share of the probe's rate that a step's own products reach. The other work of a step is counted separately."""
BESIDE_LAYER = 4e-3
"""Seconds besides products for each layer of a micro-batch, forward and backward: Python, and the starts of operations.
This number and those below, except that of dropout, fit 17 runs of benchmarks/plan_grid.py on two threads, in bfloat16
on AMX and in float32 on AVX-512, whose products differ tenfold (docs/benchmarks.md)."""
BESIDE_TOKEN = 18e-9
"""Seconds of a thread besides products for each token, layer, and element of the residual stream and of the
feed-forward block: norms, activations, sums."""
BESIDE_AGAIN = 0.3
"""The share that recomputation adds to the time of layers besides products."""
BESIDE_TRAINED = 7e-9
"""Seconds of a thread in a step for each trained weight: its gradient's conversion and norm, and the optimiser."""
BESIDE_DROPPED = 4e-9
"""Seconds for each element that a dropout before an adapter may drop; one thread draws them (from one run of 135M)."""
ATTENTION_TIMES = 1.5
"""How many times longer attention takes than its operations at the rate of products: it exponentiates, and multiplies
small blocks."""
GPU_EFFICIENCY = 0.4
"""The share of the published dense peak that training usually reaches. This is an estimate, not measured here
(Chowdhery et al., 2022, arXiv:2204.02311, table 3, lists 21 to 46 % for large models)."""
FLOAT32_SHARE = 1 / 16
"""The ratio of a card's float32 rate to its bfloat16 rate, as for the A100 (19.5 to 312) and the H100 (67 to 989)."""
LAYER_OPERATIONS_CPU, LAYER_OPERATIONS_GPU = 2e9, 1.2e12
"""Operations that a core, or a GPU, could do while Python and the small operations of a layer run, forward and
backward."""
READ_TOKENS_CPU, READ_TOKENS_GPU = 12.0, 150.0
"""Number of tokens whose products take as long as reading and packing the weights."""
DECODE_TOKENS_CPU, DECODE_TOKENS_GPU = 24.0, 150.0
"""Number of tokens whose products take as long as decoding NF4 twice."""
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU by its data sheet."""

    name: str
    flops: float
    """Operations a second of dense products in `dtype` with float32 sums, without sparsity."""
    memory: int
    """Bytes of memory."""
    dtype: torch.dtype = torch.bfloat16
    """The 16-bit dtype that its tensor cores multiply, which is the default on the card."""


CARDS = {
    "h200": Card("H200 SXM", 989e12, 141 * 10**9),
    "h100": Card("H100 SXM", 989e12, 80 * GIB),
    "a100": Card("A100 SXM 80 GB", 312e12, 80 * GIB),
    "a100-40gb": Card("A100 40 GB", 312e12, 40 * GIB),
    "l40s": Card("L40S", 362e12, 48 * GIB),
    "a6000": Card("RTX A6000", 155e12, 48 * GIB),
    "a10g": Card("A10G", 70e12, 24 * GIB),
    "l4": Card("L4", 121e12, 24 * GIB),
    "rtx4090": Card("GeForce RTX 4090", 165e12, 24 * GIB),
    "rtx3090": Card("GeForce RTX 3090", 71e12, 24 * GIB),
    "t4": Card("T4", 65e12, 16 * GIB, torch.float16),
}
"""Cards by name, with numbers from NVIDIA's data sheets and architecture white papers."""


def card(name: str, option: str = "--device") -> Card:
    """The card with a name; `option` is the name's setting in messages.

    Raises:
        ConfigError: it is not in the table.
    """
    found = CARDS.get(name.lower().replace(" ", ""))
    if found is None:
        raise ConfigError(
            f"{option} {name!r} is unknown{nearest(name, list(CARDS))}; known: auto, cpu, cuda, {', '.join(CARDS)}"
        )
    return found


@dataclass(frozen=True, slots=True)
class Rate:
    """The rate of matrix products, and the share of it that a step is estimated to reach."""

    flops: float
    """Operations a second of matrix products."""
    efficiency: float
    """On a CPU the share that a step's products reach; on a GPU the share of the whole step."""
    measured: bool
    """Whether a probe on this machine measured it; otherwise it is from a data sheet."""


def published(found: Card) -> Callable[[Setup], Rate]:
    """A function that returns the rate in a card's data sheet for a setup."""
    return lambda setup: Rate(
        found.flops * (FLOAT32_SHARE if setup.dtype is torch.float32 else 1.0), GPU_EFFICIENCY, measured=False
    )


def probe(setup: Setup, device: torch.device) -> Rate:
    """Measure a product of the feed-forward block's shape on a device of this machine. This takes about a seventh of a
    second, or up to half a second if other programs disturb it. A process measures each shape once.

    Raises:
        OutOfMemory: the address space is limited, and leaves no room to compute.
    """
    threads, spec = torch.get_num_threads(), setup.spec
    refuse_full_address_space(threads)
    width, columns = min(spec.hidden_size, 2048), min(spec.intermediate_size, 4096)
    efficiency = CPU_EFFICIENCY if device.type == "cpu" else GPU_EFFICIENCY
    flops = _product_rate(width, columns, setup.dtype, device, threads, frozen=not setup.full)
    return Rate(flops, efficiency, measured=True)


@cache
def _product_rate(
    width: int, columns: int, dtype: torch.dtype, device: torch.device, threads: int, *, frozen: bool
) -> float:
    """Operations a second of a product of `PROBE_TOKENS` rows, with torch's threads, of which there are `threads`.

    A frozen weight's product is that of a layer, which uses veneer's kernels if possible. Torch's product may be
    several times faster (with AMX), or slower.
    """
    x = torch.ones(PROBE_TOKENS, width, dtype=dtype, device=device)
    held = torch.bfloat16 if frozen and reads_stored(dtype, device.type) else dtype
    weight = nn.Parameter(torch.ones(columns, width, dtype=held, device=device), requires_grad=False)
    layer = DenseLinear(weight)
    product = partial(layer.product, x) if frozen else partial(apply_trained, x, weight, None)
    product()
    started = time.perf_counter()
    times = [timed(product, device)]
    while (passed := time.perf_counter() - started) <= PROBE_AT_MOST and (passed <= PROBE_SECONDS or not _agree(times)):
        times.append(timed(product, device))
    return 2 * PROBE_TOKENS * width * columns / min(times)  # other programs can only make it slower


def _agree(times: list[float]) -> bool:
    """Whether other times agree with the best one."""
    return len(times) >= PROBE_AGREE and sorted(times)[PROBE_AGREE - 1] <= 1.1 * min(times)


def operations(setup: Setup, batch: BatchShape, *, recompute: bool) -> float:
    """Floating-point operations of an average step.

    A frozen weight costs two operations for each token in forward and two in backward, a trained one two more. KTO's
    reference point is a separate forward pass over at most as many tokens. Recomputation adds a forward pass of the
    layers: half as much again if the base is frozen, a third if it is trained. Attention with its causal mask costs 2 ·
    length² · width forward and 5 · length² · width backward.
    """
    again = _more_passes(setup, recompute)
    linear = setup.met_weights * (2 + 2 + (2 if setup.full else 0) + 2 * again)
    adapter = setup.met_adapter_weights * (2 + 4 + 2 * again)
    twice = setup.row_losses and (setup.trained_head or setup.head_is_adapted)
    head = setup.head_weights * ((6 if setup.full else 4) + 2 * twice) * batch.step_supervised
    head *= not setup.scores_texts
    attention = _attention_operations(setup, batch, again)
    return (linear + adapter) * batch.step_tokens + head + attention + _taught(setup, batch)


def _more_passes(setup: Setup, recompute: bool) -> int:
    """The forward passes in addition to the one that each token has."""
    return recompute + (setup.objective is ObjectiveName.KTO)


def _attention_operations(setup: Setup, batch: BatchShape, again: int) -> float:
    """The part of `operations` that is attention's, with `again` more forward passes."""
    spec = setup.spec
    return batch.step_squares * spec.num_layers * spec.num_heads * spec.head_dim * (7 + 2 * again)


def _taught(setup: Setup, batch: BatchShape) -> float:
    """Operations of a teacher that computes during the steps: a forward pass, and its head."""
    teacher = setup.live_teacher
    if setup.teaching is None or teacher is None:
        return 0.0
    adapter = teacher.met_adapter_weights if setup.teaching.adapted else 0
    linear = 2 * (teacher.met_weights + adapter) * batch.step_tokens
    attention = 2 * batch.step_squares * teacher.spec.num_layers * teacher.spec.num_heads * teacher.spec.head_dim
    return linear + attention + 2 * teacher.head_weights * batch.step_supervised


def overhead_operations(setup: Setup) -> float:
    """The fixed cost of a micro-batch in addition to its tokens, in operations at the rate of products. The micro-batch
    is chosen by it, and on a GPU the time is computed from it.

    It covers Python and small operations for each layer; each weight is read twice, and decoded twice under QLoRA. It
    is a constant of the setup and not measured: the choice of a micro-batch must not depend on how busy the machine is,
    or one run would give different bytes each time.
    """
    if setup.device == "cpu":
        per_layer, per_weight = LAYER_OPERATIONS_CPU, READ_TOKENS_CPU
    else:
        per_layer, per_weight = LAYER_OPERATIONS_GPU, READ_TOKENS_GPU
    if setup.quantized:
        per_weight += DECODE_TOKENS_CPU if setup.device == "cpu" else DECODE_TOKENS_GPU
    return setup.spec.num_layers * per_layer + 4 * setup.linear_weights * per_weight


def step_seconds(setup: Setup, batch: BatchShape, rate: Rate, *, recompute: bool) -> float:
    """Seconds of an average step."""
    flops, work = rate.flops * rate.efficiency, operations(setup, batch, recompute=recompute)
    if setup.device != "cpu":
        return (work + batch.micro_batches * overhead_operations(setup)) / flops
    slower = (ATTENTION_TIMES - 1) * _attention_operations(setup, batch, _more_passes(setup, recompute))
    return (work + slower) / flops + _beside(setup, batch, recompute=recompute)


def _beside(setup: Setup, batch: BatchShape, *, recompute: bool) -> float:
    """Seconds of an average step on a CPU besides products, which depend on memory and Python. The faster a processor
    multiplies, the larger is their share."""
    spec = setup.spec
    by_token = batch.step_tokens * (spec.hidden_size + block_width(spec)) * BESIDE_TOKEN / setup.threads
    layers = spec.num_layers * (by_token + batch.micro_batches * BESIDE_LAYER)
    if setup.lora.dropout:
        layers += batch.step_tokens * _updated_inputs(setup) * BESIDE_DROPPED
    return layers * (1 + BESIDE_AGAIN * recompute) + setup.trained_weights * BESIDE_TRAINED / setup.threads


def _updated_inputs(setup: Setup) -> int:
    """Elements of a token that are inputs of an update, without those of experts."""
    return sum(one.inputs for one in setup.every_linear if one.rank and not one.experts)


@dataclass(frozen=True, slots=True)
class Disk:
    """Sizes of a run's files in bytes."""

    result: int
    """Size of the adapter, or of the whole model in float32."""
    checkpoint: int
    """Size of one checkpoint: the result and the optimiser's state."""
    merged: int
    """Size of the merged model in the compute dtype."""


def disk(setup: Setup) -> Disk:
    """Sizes of a run's files, without headers."""
    trained = 4 * setup.trained_weights
    whole = setup.linear_weights + setup.other_weights
    return Disk(trained, trained + state_bytes(setup), whole * setup.dtype.itemsize)
