"""What a plan is made from: a model's shapes, how it is held and trained, and how its tokens are cut.

Nothing here needs a weight; a `config.json` says all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from veneer.adapters.inject import resolve_targets
from veneer.config import Method, Products, QuantSection, RunConfig
from veneer.errors import AdapterError, listing
from veneer.model.spec import DecoderSpec
from veneer.quant.schemes import skipped


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer of the decoder, and the rank of the adapter on it (0: none)."""

    path: str
    inputs: int
    outputs: int
    bias: bool
    rank: int

    @property
    def weights(self) -> int:
        """Elements of the weight."""
        return self.inputs * self.outputs

    @property
    def adapter(self) -> int:
        """Elements of A and B."""
        return self.rank * (self.inputs + self.outputs)


LEAVES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def decoder_linears(spec: DecoderSpec, targets: str | Sequence[str], rank: int) -> list[dict[str, Linear]]:
    """The linear layers of every decoder layer by their last name; `rank` on those that `targets` means (0: on none).

    Raises:
        AdapterError: `targets` names no layer, or the rank exceeds a target's smaller side.
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
    adapted = set(resolve_targets([path for layer in paths for path in layer], targets)) if rank else set()
    layers = [
        {
            leaf: Linear(
                path,
                *sizes[leaf],
                bias=spec.attention_bias if leaf in LEAVES[:4] else spec.mlp_bias,
                rank=rank if path in adapted else 0,
            )
            for leaf, path in zip(LEAVES, layer, strict=True)
        }
        for layer in paths
    ]
    limits = [(line.path, min(line.inputs, line.outputs)) for layer in layers for line in layer.values() if line.rank]
    too_wide = [f"{path}: at most {limit}" for path, limit in limits if rank > limit]
    if too_wide:
        raise AdapterError(f"rank {rank} exceeds the smaller side of these layers:\n{listing(too_wide)}")
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
    rank: int = 16
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    quant: QuantSection = field(default_factory=QuantSection)
    stored: bool = False
    """Whether the base's files are quantised already, as `quant` says: then it is held so under every method."""
    products: Products = Products.EXACT
    linears: list[dict[str, Linear]] = field(init=False, repr=False, compare=False)
    dense: frozenset[str] = field(init=False, repr=False, compare=False)
    """Paths of the linear layers that a quantised base keeps in `dtype`."""

    def __post_init__(self) -> None:
        rank = 0 if self.method is Method.FULL else self.rank
        linears = decoder_linears(self.spec, self.target_modules, rank)
        paths = [line.path for layer in linears for line in layer.values()]
        object.__setattr__(self, "linears", linears)
        object.__setattr__(
            self, "dense", skipped(paths, self.quant.skip_modules) if self.quantized else frozenset(paths)
        )

    @classmethod
    def of(
        cls,
        config: RunConfig,
        spec: DecoderSpec,
        dtype: torch.dtype,
        device: str,
        threads: int,
        *,
        stored: bool = False,
    ) -> Setup:
        """The setup of a run."""
        return cls(
            spec=spec,
            method=config.method,
            dtype=dtype,
            device=device,
            threads=threads,
            rank=config.lora.rank,
            dropout=config.lora.dropout,
            target_modules=config.lora.target_modules,
            quant=config.quant,
            stored=stored,
            products=config.compute.products,
        )

    @property
    def full(self) -> bool:
        """Whether every weight is trained."""
        return self.method is Method.FULL

    @property
    def quantized(self) -> bool:
        """Whether the base's linear layers are held quantised."""
        return self.method is Method.QLORA or self.stored

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
        """Elements of all A and B."""
        return sum(line.adapter for layer in self.linears for line in layer.values())

    @property
    def trained_weights(self) -> int:
        """Elements that the optimiser changes."""
        return self.linear_weights + self.other_weights if self.full else self.adapter_weights

    @property
    def largest_matrix(self) -> int:
        """Elements of the largest linear layer's weight."""
        return max(line.weights for line in self.linears[0].values())

    @cached_property
    def largest_packed(self) -> int:
        """Elements of the largest weight that is held quantised; 0 where none is."""
        sizes = [line.weights for layer in self.linears for line in layer.values() if line.path not in self.dense]
        return max(sizes, default=0)


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
