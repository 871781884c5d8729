"""What a plan is made from: a model's shapes, how it is held and trained, and how its tokens are cut.

Nothing here needs a weight; a `config.json` says all of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import ALL_LINEAR, EMBEDDING, HEAD, names_path
from veneer.config import Bias, Factors, Init, Method, Products, RunConfig, Variant
from veneer.errors import AdapterError, listing
from veneer.model.spec import DecoderSpec


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer of the decoder, and the rank of the adapter on it (0: none)."""

    path: str
    inputs: int
    outputs: int
    bias: bool
    rank: int
    subtracted: bool = False
    """Whether the pair that the update starts with is held beside it, and multiplied with."""
    saved: bool = False
    """Whether the layer is trained whole."""

    @property
    def weights(self) -> int:
        """Elements of the weight."""
        return self.inputs * self.outputs

    @property
    def width(self) -> int:
        """Rank of the product that is made."""
        return 2 * self.rank if self.subtracted else self.rank

    @property
    def adapter(self) -> int:
        """Elements of A and B."""
        return self.rank * (self.inputs + self.outputs)


LEAVES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def decoder_linears(spec: DecoderSpec, lora: LoraSpec | None) -> list[dict[str, Linear]]:
    """The linear layers of every decoder layer by their last name, with the updates that `lora` puts on them.

    Raises:
        AdapterError: `lora` names what is not there, or a rank exceeds a layer's smaller side.
    """
    dim, inner = spec.hidden_size, spec.intermediate_size
    queries, keys = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    sizes = {
        "q_proj": (dim, queries), "k_proj": (dim, keys), "v_proj": (dim, keys), "o_proj": (queries, dim),
        "gate_proj": (dim, inner), "up_proj": (dim, inner), "down_proj": (inner, dim),
    }  # fmt: skip
    paths = [
        [f"model.layers.{layer}.{'self_attn' if leaf in LEAVES[:4] else 'mlp'}.{leaf}" for leaf in LEAVES]
        for layer in range(spec.num_layers)
    ]
    adapted = set() if lora is None else set(lora.targets([path for layer in paths for path in layer]))
    subtracted = lora is not None and lora.init in (Init.PISSA, Init.PISSA_FAST, Init.OLORA)
    saved = () if lora is None else lora.modules_to_save
    layers = [
        {
            leaf: Linear(
                path,
                *sizes[leaf],
                bias=spec.attention_bias if leaf in LEAVES[:4] else spec.mlp_bias,
                rank=lora.rank_of(path) if lora is not None and path in adapted else 0,
                subtracted=subtracted,
                saved=any(names_path(name, path) for name in saved),
            )
            for leaf, path in zip(LEAVES, layer, strict=True)
        }
        for layer in paths
    ]
    limits = [(line.path, min(line.inputs, line.outputs)) for layer in layers for line in layer.values() if line.rank]
    too_wide = [f"{path}: at most {limit}" for path, limit in limits if lora is not None and lora.rank_of(path) > limit]
    if too_wide and lora is not None:
        raise AdapterError(f"rank {lora.rank} exceeds the smaller side of these layers:\n{listing(too_wide)}")
    return layers


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A model and how it is trained: all that decides memory and time, except the cut."""

    spec: DecoderSpec
    method: Method
    dtype: torch.dtype
    """Of activations, products and a frozen base."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    threads: int = 1
    lora: LoraSpec = field(default=LoraSpec(rank=16, alpha=32.0))
    """The adapter; of no meaning where everything is trained."""
    block: int = 64
    double_quant: bool = True
    products: Products = Products.EXACT
    linears: list[dict[str, Linear]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "linears", decoder_linears(self.spec, None if self.full else self.lora))
        if not self.full:
            self._check_adapter()

    def _check_adapter(self) -> None:
        """Refuse what `inject` would refuse, before there is a model.

        Raises:
            AdapterError: the adapter names what the model has not, or trains something two ways.
        """
        linears = [line.path for layer in self.linears for line in layer.values()]
        norms = ("input_layernorm", "post_attention_layernorm")
        modules = [f"model.layers.{layer}.{norm}" for layer in range(self.spec.num_layers) for norm in norms]
        targets = self.lora.targets(linears)
        saved = self.lora.saved([EMBEDDING, *linears, *modules, "model.norm", HEAD], targets)
        self.lora.check_tokens(self.spec.vocab_size, tied=self.spec.tied_head, busy={*saved, *targets})

    @classmethod
    def of(cls, config: RunConfig, spec: DecoderSpec, dtype: torch.dtype, device: str, threads: int) -> Setup:
        """The setup of a run."""
        return cls(
            spec=spec,
            method=config.method,
            dtype=dtype,
            device=device,
            threads=threads,
            lora=LoraSpec.of(config.lora),
            block=config.quant.block,
            double_quant=config.quant.double_quant,
            products=config.compute.products,
        )

    @property
    def full(self) -> bool:
        """Whether every weight is trained."""
        return self.method is Method.FULL

    def with_rank(self, rank: int) -> Setup:
        """The same with one rank for all updates."""
        return replace(self, lora=replace(self.lora, rank=rank, rank_pattern={}))

    @cached_property
    def updated(self) -> frozenset[str]:
        """Which of embedding and head carry an update."""
        if self.full or self.lora.target_modules == ALL_LINEAR:
            return frozenset()
        paths = [line.path for layer in self.linears for line in layer.values()]
        return frozenset(self.lora.targets(paths)) & {EMBEDDING, HEAD}

    @cached_property
    def saved(self) -> frozenset[str]:
        """Which of embedding and head are trained whole beside the adapter."""
        return frozenset(path for path in (EMBEDDING, HEAD) if self.saves(path))

    @property
    def trained_tokens(self) -> bool:
        """Whether rows of the embedding are trained by themselves."""
        return not self.full and EMBEDDING in self.lora.trainable_tokens

    @property
    def learns_in_front(self) -> bool:
        """Whether something in front of the first layer is trained."""
        return self.full or EMBEDDING in self.updated | self.saved or self.trained_tokens

    @property
    def scored(self) -> bool:
        """Whether the head is more than a product with one weight."""
        tied = self.spec.tied_head and self.trained_tokens
        return not self.full and (HEAD in self.updated or HEAD in self.lora.trainable_tokens or tied)

    @property
    def trained_head(self) -> bool:
        """Whether the head's own weight is trained: under full fine-tuning, whole, or with the embedding's."""
        tied = self.spec.tied_head and EMBEDDING in self.saved and self.lora.tied_modules
        return self.full or HEAD in self.saved or tied

    @cached_property
    def linear_weights(self) -> int:
        """Elements of all linear layers' weights, the head's left out."""
        return sum(line.weights for layer in self.linears for line in layer.values())

    @cached_property
    def head_weights(self) -> int:
        """Elements of the embedding, and of the head."""
        return self.spec.vocab_size * self.spec.hidden_size

    @cached_property
    def other_weights(self) -> int:
        """Elements that are in no matrix of the layers: embedding, a head of its own, norms, biases."""
        spec = self.spec
        biases = sum(line.outputs for layer in self.linears for line in layer.values() if line.bias)
        norms = (2 * spec.num_layers + 1) * spec.hidden_size
        return self.head_weights * (1 if spec.tied_head else 2) + norms + biases

    @cached_property
    def adapter_weights(self) -> int:
        """Elements of all that an adapter trains: A and B, magnitudes, biases, modules and rows."""
        return sum(self.trained_of(line) for layer in self.linears for line in layer.values()) + self._trained_outside

    def trained_of(self, line: Linear) -> int:
        """Elements of one linear layer that an adapter trains."""
        lora = self.lora
        total = line.rank * (line.outputs + (line.inputs if lora.factors is Factors.BOTH else 0))
        if line.rank and lora.variant is Variant.DORA:
            total += line.outputs
        if line.bias and (lora.bias is Bias.ALL or (lora.bias is Bias.LORA_ONLY and line.rank)):
            total += line.outputs
        return total + (line.weights + (line.outputs if line.bias else 0) if line.saved else 0)

    @property
    def _trained_outside(self) -> int:
        if self.full:
            return 0
        spec, lora = self.spec, self.lora
        both = spec.vocab_size + spec.hidden_size
        total = sum(lora.rank_of(path) * both for path in self.updated)
        if lora.variant is Variant.DORA:
            sizes = {EMBEDDING: spec.hidden_size, HEAD: spec.vocab_size}
            total += sum(sizes[path] for path in self.updated)
        if HEAD in self.updated and lora.factors is Factors.B:
            total -= lora.rank_of(HEAD) * spec.hidden_size
        total += len(self.saved) * self.head_weights
        total += sum(len(ids) for ids in lora.trainable_tokens.values()) * spec.hidden_size
        return total + self._saved_norms

    @property
    def _saved_norms(self) -> int:
        leaves = ("input_layernorm", "post_attention_layernorm")
        paths = [f"model.layers.{layer}.{leaf}" for layer in range(self.spec.num_layers) for leaf in leaves]
        return sum(self.saves(path) for path in (*paths, "model.norm")) * self.spec.hidden_size

    def saves(self, *paths: str) -> bool:
        """Whether any of the modules is trained whole beside an adapter."""
        return not self.full and any(names_path(name, path) for name in self.lora.modules_to_save for path in paths)

    @property
    def subtracted_weights(self) -> int:
        """Elements of the pairs that updates start with and that are held beside them."""
        return sum(line.adapter for layer in self.linears for line in layer.values() if line.subtracted)

    @property
    def trained_weights(self) -> int:
        """Elements that the optimiser changes."""
        return self.linear_weights + self.other_weights if self.full else self.adapter_weights

    @property
    def largest_matrix(self) -> int:
        """Elements of the largest linear layer's weight."""
        return max(line.weights for line in self.linears[0].values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """How tokens come: the largest micro-batch, and what a step is made of."""

    tokens: int
    """Laid in the largest micro-batch; what its documents share counts once."""
    documents: int = 1
    """In it."""
    longest: int
    """Tokens of its longest document."""
    supervised: int
    """Targets in it."""
    shared: int = 0
    """Tokens that all its documents begin with."""
    evaluated: int = 0
    """Tokens of the longest row of the evaluation loss."""
    shapes: int = 1
    """Different numbers of tokens in the run's micro-batches; products are compiled for each."""
    micro_batches: float = 1.0
    """In a step, on average."""
    step_tokens: float = 0.0
    """Tokens of a step's documents, on average."""
    step_supervised: float = 0.0
    """Targets of a step, on average."""
    step_squares: float = 0.0
    """Sum of the squared lengths of a step's documents, on average."""

    @classmethod
    def of_rows(
        cls, length: int, micro_batch_tokens: int, rows: int, supervised: float = 1.0, longest: int | None = None
    ) -> Cut:
        """`rows` rows of one length in a step, of which the share `supervised` counts in the loss; the run has one row
        that is `longest`."""
        fit = max(1, min(rows, micro_batch_tokens // length))
        longest = length if longest is None else longest
        tokens = max(fit * length, longest)
        return cls(
            tokens=tokens,
            documents=fit,
            longest=longest,
            supervised=max(1, round(supervised * tokens)),
            micro_batches=-(-rows // fit),
            step_tokens=rows * length,
            step_supervised=supervised * rows * length,
            step_squares=rows * length**2,
        )
