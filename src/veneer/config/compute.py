"""The settings of the hardware and how it is used."""

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
    """The dtype of activations and matrix products: `auto` takes `bfloat16` where it is multiplied natively, `float16`
    on GPUs that multiply only that so (Turing, Volta), and else `float32`. In `float16` the loss is scaled by itself.
    Adapters are always float32, and so is the optimiser's state, unless `train.optimizer` says otherwise."""
    products: Products = Products.EXACT
    """How the frozen base model is multiplied with its inputs and gradients: `exact` in the compute dtype. `int8`
    rounds both factors to 8 bits, which is faster and loses precision, for lora and qlora on a CPU with AVX-512
    VNNI; the base then takes as much memory as in bfloat16, under qlora too."""
    deterministic: bool = False
    """Whether a run on a GPU adds in a fixed order everywhere, so that two runs on one card and with one version of
    torch give the same bytes, and so does a resumed one. Without it the attention of a GPU adds gradients in any
    order, and two runs differ by rounding. It costs speed. A CPU always adds in a fixed order."""
    threads: Threads | None = None
    """The number of CPU threads of each process; torch's choice by default. Two runs give the same bytes only with the
    same number."""
    rank_timeout: Duration = 600.0
    """The time after which a run on several processes ends because one of them does not answer: seconds, or `90s`,
    `10m`."""
    sharding: Sharding = Sharding.NONE
    """Which processes of a run on several of them hold the weights that method full trains, their gradients and the
    optimiser's state: `none` has all of them in every process. `full` has a part of each tensor in each process, which
    gathers a layer when it computes it (FSDP2). The result is then the same to rounding, and not to the byte."""
    memory_limit_mb: Count | None = None
    """The largest peak memory of the run, in MB (10⁶ bytes); by default four fifths of the main memory, or nine tenths
    of a GPU's. On a GPU it is never more than what is free when the run begins; on a CPU what is free does not
    count."""
    micro_batch_tokens: Count | Literal["auto"] = "auto"
    """The number of tokens in a micro-batch. It decides memory and speed; the result does not depend on it beyond
    rounding. `auto` takes the smallest number that is about as fast as a larger one, within the memory limit."""
    recompute: Recompute = Recompute.AUTO
    """Whether the backward pass computes each layer's activations again (gradient checkpointing): `auto` only if
    they do not fit into the memory limit, `layers` always, `never` not at all. It takes a fraction of the memory,
    and half as much work again beside a frozen base (a third under method full)."""
