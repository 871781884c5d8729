"""`Setup`: the model and how it is trained, which a plan is made from.

No weight is needed; everything follows from a `config.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

import torch

from veneer.adapters.exclusions import refuse_on
from veneer.adapters.layers.experts import target_paths
from veneer.adapters.layers.score import SCORE_WEIGHT
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import ALL_LINEAR, EMBEDDING, HEAD, is_router, layer_number, names_module
from veneer.config import QuantSection
from veneer.enums import Bias, Factors, Init, Method, ObjectiveName, OptimizerName, Products
from veneer.loading.expected import linear_shapes, norm_shapes
from veneer.loading.forms import keeps_blocks
from veneer.model.shape import DecoderSpec, Norm
from veneer.native.stored import Format
from veneer.planning.lanes import ALONE, Spread
from veneer.planning.mixture import has_experts, mixture_linears, share_of_experts
from veneer.planning.trained import LinearShape, Shape, by_adapter, by_full, by_linear, norm_paths
from veneer.products import reads_stored
from veneer.quant.blocks import row_bytes
from veneer.quant.schemes import skipped


def decoder_linears(
    spec: DecoderSpec, lora: LoraSpec | None, targets: Sequence[str] | None = None
) -> list[dict[str, LinearShape]]:
    """The linear layers of each decoder layer by last name, with the updates of `lora`.

    Args:
        spec: sizes of the model.
        lora: the adapter; None for no adapter.
        targets: paths that get an update, if they are already known.

    Raises:
        AdapterError: `lora` names layers that do not exist, or its rank is too large for its initialisation.
    """
    shapes = linear_shapes(spec)
    adapted: set[str] = set()
    if lora is not None:
        adapted = set(lora.targets(target_paths(list(shapes), spec)) if targets is None else targets)
    subtracted = lora is not None and lora.init in (Init.PISSA, Init.PISSA_FAST, Init.OLORA)
    saved = () if lora is None else lora.modules_to_save
    layers: list[dict[str, LinearShape]] = [{} for _ in range(spec.num_layers)]
    for path, (inputs, outputs, bias) in shapes.items():
        number = layer_number(path)
        assert number is not None
        if ".experts." in path:
            continue
        layers[number][path.rpartition(".")[2]] = LinearShape(
            path,
            inputs,
            outputs,
            bias=bias,
            rank=lora.rank_of(path) if lora is not None and path in adapted else 0,
            subtracted=subtracted,
            saved=any(names_module(name, path) for name in saved),
        )
    for number, own in enumerate(layers):
        if has_experts(spec, number):
            own |= mixture_linears(spec, number, lora, adapted)
    if lora is not None:
        linears = [linear for layer in layers for linear in layer.values()]
        lora.check_ranks({linear.path: min(linear.inputs, linear.outputs) for linear in linears if linear.rank})
    return layers


def check_adapter(spec: DecoderSpec, lora: LoraSpec, targets: Sequence[str]) -> None:
    """Refuse what `inject` would refuse, before there is a model.

    Args:
        spec: sizes of the model.
        lora: the adapter, whose options do not exclude each other.
        targets: paths that get an update.

    Raises:
        AdapterError: the adapter names modules or tokens that do not exist, trains one in two ways, or its rank is too
            large for its initialisation.
    """
    linears = _modules_of(decoder_linears(spec, lora, targets))
    saved = lora.saved([EMBEDDING, *linears, *norm_paths(spec), HEAD], targets)
    lora.check_tokens(spec.vocab_size, tied=spec.tied_head, busy={*saved, *targets})


def _modules_of(linears: Iterable[Mapping[str, LinearShape]]) -> list[str]:
    """Paths of linear layers, without parameters of experts, which are no modules."""
    return [linear.path for layer in linears for linear in layer.values() if not linear.experts]


@dataclass(frozen=True, kw_only=True, slots=True)
class Teaching:
    """The teacher of a distillation, for the plan."""

    setup: Setup
    """The teacher as a model, with its adapter if it has one."""
    adapted: bool
    """Whether it has an adapter."""
    shared: bool
    """Whether its base is the student's own, in memory once."""
    top_k: int | None
    """The number of its likeliest tokens that are kept; None if it computes during the steps."""
    tokens: int
    """The number of supervised tokens with kept predictions."""

    @property
    def kept(self) -> int:
        """Bytes of its stored predictions: an int32 and a float32 for each token, and one more number for all
        others."""
        return 0 if self.top_k is None else self.tokens * (8 * self.top_k + 4)

    @property
    def live(self) -> Setup | None:
        """The teacher, if it computes during the steps."""
        return self.setup if self.top_k is None else None


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A model and how it is trained: everything that decides memory and time, except the micro-batch."""

    spec: DecoderSpec
    method: Method
    dtype: torch.dtype
    """The dtype of activations, products and a frozen base."""
    device: str = "cpu"
    """Kind of device: `cpu` or `cuda`."""
    threads: int = 1
    lora: LoraSpec = field(default=LoraSpec(rank=16, alpha=32.0))
    """The adapter. It has no meaning in full fine-tuning."""
    targets: tuple[str, ...] | None = None
    """Paths that get an update, from a caller that has resolved them and refused what cannot be trained. If None, both
    happen here."""
    quant: QuantSection = field(default_factory=QuantSection)
    stored: bool = False
    """Whether the base's files are already quantised, as `quant` says. The base is then quantised in every method."""
    blocks: Mapping[str, Format] = field(default_factory=dict)
    """The linear layers, by path, that the base's GGUF file holds in blocks that kernels can read."""
    tables: Mapping[str, Format] = field(default_factory=dict)
    """Embedding and head, by path, if the file holds them in such blocks and the model only answers."""
    products: Products = Products.EXACT
    optimizer: OptimizerName = OptimizerName.ADAMW
    objective: ObjectiveName = ObjectiveName.SFT
    teaching: Teaching | None = None
    """The teacher of a distillation."""
    reward_models: tuple[Setup, ...] = ()
    """Reward models on the run's own base, which judge the answers that it samples."""
    spread: Spread = ALONE
    """The lanes of the run and its processes. All numbers are those of one process."""
    reference_copied: bool = False
    """Whether a copy of the trained weights at the start of the run is kept as a reference."""
    file_bytes: int = 4
    """Bytes of an element in the model's files. 4 is the largest usual number."""
    linears: list[dict[str, LinearShape]] = field(init=False, repr=False, compare=False)
    dense: frozenset[str] = field(init=False, repr=False, compare=False)
    """Paths of the linear layers that are not quantised."""

    def __post_init__(self) -> None:
        linears = decoder_linears(self.spec, None if self.full else self.lora, self.targets)
        object.__setattr__(self, "linears", linears)
        paths = _modules_of(linears)
        dense = skipped(paths, self.quant.skip_modules) if self.quantized else frozenset(paths)
        # A router is never quantised.
        object.__setattr__(self, "dense", dense | frozenset(path for path in paths if is_router(path)))
        if not self.full and self.targets is None:
            adaptable = [path for path in paths if not is_router(path)]
            targets = tuple(self.lora.targets(target_paths(adaptable, self.spec)))
            object.__setattr__(self, "targets", targets)
            refuse_on(self.lora, targets, self.spec)
            check_adapter(self.spec, self.lora, targets)

    @property
    def full(self) -> bool:
        """Whether all weights are trained (full fine-tuning)."""
        return self.method is Method.FULL

    @property
    def row_losses(self) -> bool:
        """Whether the losses of single rows enter a formula. A trained head then computes its scores twice."""
        return not self.objective.imitates and self.teaching is None and not self.scores_texts

    @property
    def scores_texts(self) -> bool:
        """Whether a head of the adapter scores texts, and no token is scored."""
        return self.objective is ObjectiveName.REWARD

    @property
    def quantized(self) -> bool:
        """Whether the base's linear layers are quantised."""
        return self.method is Method.QLORA or self.stored

    @property
    def dense_bytes(self) -> int:
        """Bytes in memory of a weight of a linear layer that is not quantised."""
        if self.full:
            return 4
        return self.file_bytes if reads_stored(self.dtype, self.device) else self.dtype.itemsize

    def block_bytes(self, linear: LinearShape) -> int | None:
        """Bytes of a linear layer's weight in the blocks of its file; None if it does not stay in them."""
        kind = self.blocks.get(linear.path) if linear.path in self.dense else None
        if kind is None or not keeps_blocks(self.full, self.products, self.device):
            return None
        return linear.outputs * row_bytes(kind, linear.inputs)

    def with_rank(self, rank: int) -> Setup:
        """A copy with one rank for all updates."""
        return replace(self, lora=self.lora.with_rank(rank))

    @cached_property
    def every_linear(self) -> tuple[LinearShape, ...]:
        """The linear layers of all decoder layers, in their order."""
        return tuple(linear for layer in self.linears for linear in layer.values())

    @property
    def live_teacher(self) -> Setup | None:
        """The teacher, if there is one that computes during the steps."""
        return None if self.teaching is None else self.teaching.live

    @cached_property
    def updated(self) -> frozenset[str]:
        """Those of embedding and head that get an update."""
        if self.full or self.lora.target_modules == ALL_LINEAR:
            return frozenset()
        return frozenset(self.targets or ()) & {EMBEDDING, HEAD}

    @cached_property
    def saved(self) -> frozenset[str]:
        """Those of embedding and head that are in `modules_to_save`."""
        return frozenset(path for path in (EMBEDDING, HEAD) if self.saves(path))

    @property
    def trained_tokens(self) -> bool:
        """Whether single rows of the embedding are trained."""
        return not self.full and EMBEDDING in self.lora.trainable_tokens

    @property
    def trains_before_layers(self) -> bool:
        """Whether anything before the first layer is trained."""
        return self.full or EMBEDDING in self.updated | self.saved or self.trained_tokens

    @property
    def head_is_adapted(self) -> bool:
        """Whether the head is more than a product with one frozen weight."""
        tied = self.spec.tied_head and self.trained_tokens
        return not self.full and (HEAD in self.updated or HEAD in self.lora.trainable_tokens or tied)

    @property
    def trained_head(self) -> bool:
        """Whether the head's own weight is trained: in full fine-tuning, in `modules_to_save`, or tied to the
        embedding."""
        tied = self.spec.tied_head and EMBEDDING in self.saved and self.lora.tied_modules
        return self.full or HEAD in self.saved or (tied and HEAD not in self.updated)

    @cached_property
    def linear_weights(self) -> int:
        """Elements of all linear layers' weights, without the head."""
        return sum(linear.weights for linear in self.every_linear)

    @cached_property
    def met_weights(self) -> float:
        """Elements of linear weights that one token is multiplied with. In a mixture only its own experts count."""
        share = share_of_experts(self.spec)
        return sum(linear.weights * (share if ".experts." in linear.path else 1.0) for linear in self.every_linear)

    @cached_property
    def met_adapter_weights(self) -> float:
        """Elements of the adapter that one token is multiplied with."""
        experts = sum(linear.factors for linear in self.every_linear if linear.experts)
        return self.adapter_weights - experts * (1 - share_of_experts(self.spec))

    @cached_property
    def head_weights(self) -> int:
        """Elements of the embedding; the head has as many."""
        return self.spec.vocab_size * self.spec.hidden_size

    @cached_property
    def other_weights(self) -> int:
        """Elements outside linear weights: embedding, an untied head, norms and biases."""
        spec = self.spec
        biases = sum(linear.outputs for linear in self.every_linear if linear.bias)
        norms = sum(prod(shape) for shape in norm_shapes(spec).values())
        return self.head_weights * (1 if spec.tied_head else 2) + norms + biases

    @cached_property
    def trained(self) -> list[tuple[str, Shape]]:
        """Name and shape of every trained tensor."""
        if self.full:
            return list(by_full(self.spec, self.every_linear))
        score = [(SCORE_WEIGHT, (1, self.spec.hidden_size))] if self.scores_texts else []
        return [*by_adapter(self.spec, self.every_linear, self.lora, self.updated), *score]

    @cached_property
    def trained_weights(self) -> int:
        """Elements of all trained tensors."""
        return sum(prod(shape) for _, shape in self.trained)

    @property
    def end_weights(self) -> int:
        """Elements outside the layers, for a model whose weights are all trained."""
        return self.head_weights * (1 if self.spec.tied_head else 2) + self.spec.hidden_size

    @property
    def layer_weights(self) -> int:
        """Elements of one layer of such a model."""
        return -(-(self.trained_weights - self.end_weights) // self.spec.num_layers)

    @property
    def adapter_weights(self) -> int:
        """Elements of the adapter: trained tensors, a frozen A, and subtracted pairs."""
        if self.full:
            return 0
        linears = self.every_linear
        still = sum(linear.rank * linear.inputs for linear in linears) if self.lora.factors is Factors.B else 0
        return self.trained_weights + still + sum(linear.factors for linear in linears if linear.subtracted)

    def learns(self, linear: LinearShape) -> bool:
        """Whether any part of a linear layer is trained."""
        return self.full or any(True for _ in by_linear(linear, self.lora))

    def saves(self, *paths: str) -> bool:
        """Whether any of the modules is trained in full in addition to an adapter."""
        return not self.full and any(names_module(name, path) for name in self.lora.modules_to_save for path in paths)

    def learns_norm(self, *paths: str) -> bool:
        """Whether any part of these norms is trained in addition to an adapter."""
        biases = self.lora.bias is Bias.ALL and self.spec.norm is Norm.LAYER_BIAS
        return not self.full and bool(paths) and (biases or self.saves(*paths))

    @property
    def largest_matrix(self) -> int:
        """Elements of the largest linear layer's weight."""
        return max(linear.weights for linear in self.every_linear)

    @cached_property
    def largest_packed(self) -> int:
        """Elements of the largest quantised weight; 0 if none is quantised."""
        sizes = [
            linear.weights
            for linear in self.every_linear
            if linear.weights and (linear.path not in self.dense or self.block_bytes(linear) is not None)
        ]
        return max(sizes, default=0)
