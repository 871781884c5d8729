"""The description of a model and its capabilities, before any of its weights is read.

Only this folder distinguishes veneer's own decoder from transformers. All other code asks for a capability.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from veneer.config import QuantSection
from veneer.enums import Backend
from veneer.io.tokenizer import Tokenizer
from veneer.model.hf_skeleton import HfSpec
from veneer.model.shape import DecoderSpec
from veneer.native.stored import Format


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What can be done with a model, by who computes it."""

    joint_passes: bool
    """Whether several adapters are trained in one pass."""
    packing: bool
    """Whether documents are packed end to end for the kernels: padded to whole blocks, with a shared beginning only
    once."""
    full_fine_tuning: bool
    """Whether every weight can be trained."""
    new_tokens: bool
    """Whether rows can be added to the vocabulary."""
    int8_products: bool
    """Whether the frozen base can be multiplied in 8 bits."""
    recomputation: bool
    """Whether backward can compute the layers again."""
    beyond_linears: bool
    """Whether an adapter can change modules other than linear layers: embedding, head, norms, biases."""
    gguf: bool
    """Whether the model, or an adapter of it, can be written as GGUF."""
    quantised_files: bool
    """Whether the model can be written quantised."""
    named_as_files: bool
    """Whether its modules have the names and shapes of the tensors in its files."""
    packages: tuple[str, ...] = ()
    """Packages other than veneer whose version can change a bit of the result."""


CAPABILITIES = {
    Backend.VENEER: Capabilities(
        joint_passes=True, packing=True, full_fine_tuning=True, new_tokens=True, int8_products=True,
        recomputation=True, beyond_linears=True, gguf=True,
        quantised_files=True, named_as_files=True,
    ),
    Backend.HF: Capabilities(
        joint_passes=False, packing=False, full_fine_tuning=False, new_tokens=False,
        int8_products=False, recomputation=True, beyond_linears=False, gguf=False,
        quantised_files=False, named_as_files=False, packages=("transformers",),
    ),
}  # fmt: skip
"""The capabilities of each backend. Some of transformers' architectures cannot recompute; a `Description` says so."""


def capabilities_of(backend: Backend) -> Capabilities:
    """The capabilities of the backend that computed a run. AUTO is in records that are older than the choice; veneer's
    own decoder computed those runs."""
    return CAPABILITIES[Backend.VENEER if backend is Backend.AUTO else backend]


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """A model before its weights are read."""

    source: str
    """What the user named: a directory, a file or a hub id."""
    backend: Backend
    """The backend that computes the model, as a run's `config.yaml` records it: VENEER or HF."""
    capabilities: Capabilities
    spec: DecoderSpec | HfSpec
    """The sizes of the model."""
    linears: tuple[str, ...]
    """Paths of the linear layers that can carry an adapter, in model order; the head is not among them."""
    stored: QuantSection | None
    """The quantisation of the linear layers in the files, or None if they are not quantised."""
    blocks: Mapping[str, Format]
    """The linear layers, by path, that a GGUF file holds in blocks which kernels read."""
    tables: Mapping[str, Format]
    """Embedding and head, by path, if a GGUF file holds them so."""
    dtype: torch.dtype | None
    """The dtype of the weights in the files, by their headers if the files exist, otherwise by config.json; None if
    neither says it."""
    tokenizer: Callable[[], Tokenizer]
    """Reads the tokenizer. Raises ModelError if it is missing or damaged."""
    notes: tuple[str, ...] = ()
    """What the user should know about the model, a sentence each."""

    @property
    def file_bytes(self) -> int:
        """The number of bytes of an element in the files; if they do not say it, 4, which is the largest usual
        number."""
        return 4 if self.dtype is None else self.dtype.itemsize
