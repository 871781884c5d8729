"""The settings of the hardware and its use."""

from __future__ import annotations

from typing import Literal

from veneer.config.numbers import Count, Duration, Threads
from veneer.config.section import Section
from veneer.enums import Dtype, Products, Recompute, Sharding


class ComputeSection(Section):
    """Settings of the device and of the computation."""

    place = "compute"

    device: str = "auto"
    """The device: `auto`, `cpu`, `cuda` or `cuda:N`."""
    dtype: Dtype = Dtype.AUTO
    """The dtype of activations and matrix products: `auto` is `bfloat16` if the hardware multiplies it natively,
    `float16` on GPUs that natively multiply only that (Turing, Volta), and otherwise `float32`. In `float16` the loss
    is scaled automatically. Adapters are always float32, and so is the optimiser's state, unless `train.optimizer` says
    otherwise."""
    products: Products = Products.EXACT
    """How the frozen base model is multiplied with its inputs and gradients: `exact` in the compute dtype. `int8`
    rounds both factors to 8 bits, which loses precision, for lora and qlora on a CPU with AVX-512 VNNI. It is faster
    than `exact`, except in bfloat16 on a CPU with AMX. The base then needs as much memory as in bfloat16, also with
    qlora."""
    deterministic: bool = False
    """Whether a run on a GPU adds in a fixed order everywhere. Two runs on one card and with one version of torch then
    give the same bytes, and so does a resumed one. Otherwise the attention of a GPU adds gradients in any order, and
    two runs differ by rounding. It costs speed. A CPU always adds in a fixed order."""
    threads: Threads | None = None
    """The number of CPU threads of each process; torch's choice by default. Two runs give the same bytes only with the
    same number."""
    rank_timeout: Duration = 600.0
    """The time after which a run on several processes ends because one of them does not answer: seconds, or `90s`,
    `10m`."""
    sharding: Sharding = Sharding.NONE
    """How a run on several processes stores the weights that method full trains, their gradients and the optimiser's
    state: with `none` every process holds all of them. With `full` every process holds a part of each tensor, and
    gathers a layer when it computes it (FSDP2). The result is then the same up to rounding, but not byte for byte."""
    memory_limit_mb: Count | None = None
    """The largest peak memory of the run, in MB (10⁶ bytes); by default four fifths of the main memory, or nine tenths
    of a GPU's. On a GPU it is never more than the memory that is free when the run begins; on a CPU free memory does
    not matter."""
    micro_batch_tokens: Count | Literal["auto"] = "auto"
    """The number of tokens in a micro-batch. It affects memory and speed; the result does not depend on it beyond
    rounding. `auto` is the smallest number that is about as fast as a larger one, within the memory limit."""
    recompute: Recompute = Recompute.AUTO
    """Whether the backward pass computes each layer's activations again (gradient checkpointing): `auto` only if they
    do not fit into the memory limit, `layers` always, `never` not at all. It needs a fraction of the memory, and half
    as much work again with a frozen base (a third with method full)."""
