"""What the rest of veneer needs of a language model, whoever computes it.

Two meet it: veneer's own decoder (`veneer.model.decoder.CausalLM`) and a model of transformers behind the same face
(`veneer.model.hf.HfModel`). Tokens go in as one flat list either way; how they are laid for the computation is the
model's own business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from veneer.model.mixture import MixtureSpec
from veneer.model.recompute import Recomputation
from veneer.products import Scores


class ModelSpec(Protocol):
    """The sizes that a run, an adapter or an evaluation asks for."""

    @property
    def model_type(self) -> str:
        """Hugging Face's name of the architecture."""
        ...

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        ...

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        ...

    @property
    def num_layers(self) -> int:
        """How many layers there are."""
        ...

    @property
    def mixture(self) -> MixtureSpec | None:
        """Experts in the place of a feed-forward block, where adapters can go on them."""
        ...

    @property
    def tied_head(self) -> bool:
        """Whether the head's weight is the embedding's."""
        ...

    @property
    def by_length(self) -> bool:
        """Whether a token's state depends on how long its whole text is."""
        ...

    @property
    def scores(self) -> Scores:
        """What becomes of the head's products."""
        ...

    @property
    def max_positions(self) -> int:
        """Longest context the model was trained for, in tokens."""
        ...


class Decoding(Protocol):
    """Rows that are continued token by token."""

    def prefill(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """Take the prompts, int64 `[tokens]` end to end; hidden states of each row's last token, `[rows, dim]`."""
        ...

    def widths(self) -> list[int]:
        """Tokens of each row that the next step computes."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Take one more token a row, int64 `[rows]`; their hidden states, `[rows, dim]`."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Drop every row that is not in `rows` (int64 indices)."""
        ...


class Modules(Protocol):
    """Named modules below a root."""

    def get_submodule(self, target: str) -> nn.Module:
        """The module at a path. Raises AttributeError where there is none."""
        ...


class LanguageModel(Modules, Protocol):
    """A causal language model whose module paths are Hugging Face's."""

    dtype: torch.dtype
    """Of activations and products."""
    training: bool

    @property
    def spec(self) -> ModelSpec:
        """Its sizes."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def flat(self) -> bool:
        """Whether its layers see tokens as one flat list and all its leaves are veneer's own: what adapters on other
        modules than linear layers need, and several adapters in one pass."""
        ...

    @property
    def fan_in_fan_out(self) -> bool:
        """Whether any of its linear layers is stored `[in, out]` (transformers' Conv1D)."""
        ...

    @property
    def embedding(self) -> nn.Module:
        """The token embedding, with a `weight` `[vocab_size, dim]`."""
        ...

    @property
    def lm_head(self) -> nn.Module:
        """Scores of hidden states: `[rows, dim]` to `[rows, vocab_size]`."""
        ...

    @property
    def head_weight(self) -> Tensor | None:
        """`[vocab_size, dim]` where the scores are the hidden states' product with it and nothing else."""
        ...

    def documents(self, tokens: Tensor, positions: Tensor, lengths: Sequence[int], shared: int = 0) -> Tensor:
        """Hidden states `[tokens, dim]` of documents laid end to end, each seeing itself alone.

        Args:
            tokens: int64 `[tokens]`.
            positions: int64 `[tokens]`, counted from each document's beginning.
            lengths: tokens of each document, without the shared ones.
            shared: tokens at the front that begin every document.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token, `[rows, dim]` to `[rows, vocab_size]` in the compute dtype."""
        ...

    def decoding(self, rows: int, capacity: int) -> Decoding:
        """Room for `rows` rows of at most `capacity` tokens."""
        ...

    def row_bytes(self, capacity: int) -> int:
        """What such a row takes at most."""
        ...

    def recompute(self, how: Recomputation | None) -> None:
        """Compute layers again in backward, or keep their activations."""
        ...

    def put_tables(self, embedding: nn.Module, head: nn.Module, vocab_size: int) -> None:
        """Put other modules in the place of embedding and head.

        Raises:
            AdapterError: the model keeps its own.
        """
        ...

    def train(self, mode: bool = True) -> object:
        """Compute as in training, or not."""
        ...

    def eval(self) -> object:
        """The same as `train(False)`."""
        ...

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Give gradients to every parameter, or to none."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """All modules, in any order."""
        ...

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """All modules by path, in model order."""
        ...

    def linear_paths(self) -> list[str]:
        """Paths of the linear layers that can carry an adapter, in model order; the head is not among them."""
        ...
