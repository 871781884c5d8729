"""`LanguageModel`: what the rest of veneer needs from a model, independent of the backend that computes it.

Two classes implement it: veneer's own decoder (`veneer.model.decoder.CausalLM`) and a model of transformers
(`veneer.model.hf.HfModel`). Both take tokens as one flat list, and decide how to batch them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from veneer.model.compiled_step import CompiledStep
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
        """Number of decoder layers."""
        ...

    @property
    def mixture(self) -> MixtureSpec | None:
        """The mixture of experts; None for a dense model, or where adapters cannot be put on the experts."""
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
        """Scale and soft cap that turn the head's products into logits."""
        ...

    @property
    def max_positions(self) -> int:
        """Longest context the model was trained for, in tokens."""
        ...


class Decoding(Protocol):
    """Generation through a model's modules: rows that are continued token by token."""

    def prefill(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """Take the prompts, int64 `[tokens]` end to end.

        Returns logits of each row's last token, `[rows, vocab_size]`.
        """
        ...

    def widths(self) -> list[int]:
        """Numbers of tokens that the next step computes for each row."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Take one more token for each row, int64 `[rows]`.

        Returns their logits, `[rows, vocab_size]`, which the next step may overwrite.
        """
        ...

    def keep(self, rows: Tensor) -> None:
        """Drop every row that is not in `rows` (int64 indices)."""
        ...


class Modules(Protocol):
    """Named modules below a root."""

    def get_submodule(self, target: str) -> nn.Module:
        """The module at a path. Raises AttributeError if there is none."""
        ...


class LanguageModel(Modules, Protocol):
    """A causal language model whose module paths are Hugging Face's."""

    dtype: torch.dtype
    """The dtype of activations and products."""
    training: bool

    @property
    def spec(self) -> ModelSpec:
        """Sizes of the model."""
        ...

    @property
    def device(self) -> torch.device:
        """Device that the model computes on."""
        ...

    @property
    def flat(self) -> bool:
        """Whether the layers take tokens as one flat list, and all modules with weights are veneer's own.

        Adapters on other modules than linear layers need this, and so do several adapters in one pass.
        """
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
        """The head, which maps hidden states `[rows, dim]` to logits `[rows, vocab_size]`."""
        ...

    def documents(self, tokens: Tensor, positions: Tensor, lengths: Sequence[int], shared: int = 0) -> Tensor:
        """Hidden states `[tokens, dim]` of documents packed end to end, each of which sees only itself.

        Args:
            tokens: token ids, int64 `[tokens]`.
            positions: positions counted from each document's beginning, int64 `[tokens]`.
            lengths: number of tokens of each document, without the shared ones.
            shared: number of tokens at the front with which every document begins.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of the next token, `[rows, dim]` to `[rows, vocab_size]` in the compute dtype."""
        ...

    def decoding(self, rows: int, capacity: int) -> Decoding:
        """A decoding with room for `rows` rows of at most `capacity` tokens each."""
        ...

    def compiled_step(self, rows: int) -> CompiledStep | None:
        """A step of at most `rows` tokens of any sequences; None if the compiled library does not know all
        operations."""
        ...

    def row_bytes(self, capacity: int) -> int:
        """The largest size of the cache of one such row, in bytes."""
        ...

    def recompute(self, how: Recomputation | None) -> None:
        """Use gradient checkpointing, or keep the activations of all layers (None)."""
        ...

    def set_embeddings(self, embedding: nn.Module, head: nn.Module, vocab_size: int) -> None:
        """Replace the embedding and the head, and set the size of the vocabulary.

        Raises:
            AdapterError: the model cannot change its own.
        """
        ...

    def train(self, mode: bool = True) -> object:
        """Set training mode, or evaluation mode (False)."""
        ...

    def eval(self) -> object:
        """Equal to `train(False)`."""
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
