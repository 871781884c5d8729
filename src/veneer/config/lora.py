"""The settings of the adapter, and of the quantised base model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from veneer.config.numbers import NUMBER, Fraction, Name, Rank, Rate
from veneer.config.section import Section
from veneer.enums import Bias, Factors, Init, Scaling, Scheme, Variant


class LoraSection(Section):
    """Settings of the adapter."""

    place = "lora"

    rank: Rank | Literal["auto"] = 16
    """The rank of the update: the inner dimension of B · A. `auto` is the smallest of 16, 32, 64, 128 and 256
    that can hold what the rows have to teach."""
    alpha: Rate = 32.0
    """The numerator of the update's scale, which is alpha / rank."""
    dropout: Fraction = 0.0
    """The share of the adapter's inputs that is dropped at random during training."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """The modules that get an adapter: `all-linear`, a list of module names, or a regular expression for whole
    paths. `embed_tokens` and `lm_head` may be named too. In a mixture of experts, `all-linear` means the linear
    layers of the attention and all experts (`gate_up_proj`, `down_proj`); the router (`gate`, or `router`) must be
    named."""
    exclude_modules: str | tuple[str, ...] = ()
    """Modules that match `target_modules` but get no adapter: a list of names, or a regular expression."""
    layers_to_transform: tuple[Annotated[int, Field(ge=0), NUMBER], ...] | None = None
    """The numbers of the decoder layers that get an adapter, from 0; all layers by default. A module that a list of
    `target_modules` names by its whole path gets one in any layer."""
    rank_pattern: dict[str, Rank] = Field(default={})
    """Other ranks for some modules, for example `{down_proj: 32}`. As in PEFT, a key is a regular expression for the
    path of a module, or for the end of one; the first key that fits counts."""
    alpha_pattern: dict[str, Rate] = Field(default={})
    """Other alphas for some modules, with keys as in `rank_pattern`."""
    scaling: Scaling = Scaling.STANDARD
    """The scale of the update: `standard` is alpha / rank, `rslora` (rank-stabilised LoRA) is alpha / √rank."""
    variant: Variant = Variant.LORA
    """The kind of update: `lora` adds B · A to the weight. `dora` (DoRA) also trains the length of each row of the
    weight separately from its direction."""
    init: Init = Init.KAIMING
    """How A and B are initialised. In every case the base model stays unchanged, and the saved adapter is a plain one
    for it."""
    factors: Factors = Factors.BOTH
    """Which of the two matrices are trained: `both`, or only `b`, so that A keeps its initial values (LoRA-FA)."""
    bias: Bias = Bias.NONE
    """Which biases of the base model are also trained: `none`, `all`, or `lora_only` (those of modules with an
    adapter)."""
    modules_to_save: tuple[Name, ...] = ()
    """Modules that are trained in full, in float32, and saved with the adapter: names or ends of paths (`lm_head`)."""
    trainable_tokens: tuple[Annotated[int, Field(ge=0), NUMBER], ...] = ()
    """Ids of tokens whose rows in the embedding and in the head are trained."""
    new_tokens: tuple[Name, ...] = ()
    """Texts that become new tokens. They extend the vocabulary, their rows are trained, and the tokenizer that knows
    them is saved with the adapter."""


class QuantSection(Section):
    """Settings of QLoRA's quantised base model."""

    place = "quant"

    scheme: Scheme = Scheme.NF4
    """The format of the quantised weights: `nf4` and `fp4` need 4 bits a weight, `int8` needs 8 bits, with one scale
    for every output. Activations and matrix products stay in the compute dtype."""
    block: Literal[32, 64, 128, 256, 512, 1024, 2048, 4096] = 64
    """The number of weights that share one scale (4-bit formats)."""
    double_quant: bool = True
    """Whether the scales are quantised too, in blocks of 256 (4-bit formats)."""
    skip_modules: tuple[Name, ...] = ()
    """Linear layers that are not quantised, each a whole path or the end of one (`down_proj`). The embedding and the
    head are never quantised."""
