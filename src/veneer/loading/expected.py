"""The tensors that a model needs, by name and shape, and whether the files and the tokenizer fit them.

They are recorded from the decoder itself, which requests its modules in order, so that no separate list can differ.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from veneer.errors import ModelError, listing
from veneer.io.checkpoint import Checkpoint
from veneer.io.tokenizer import Tokenizer
from veneer.model.decoder import CausalLM
from veneer.model.leaves import DenseLinear
from veneer.model.shape import DecoderSpec

TABLE_NAMES = ("model.embed_tokens.weight", "lm_head.weight")
"""Names of the weights of embedding and head."""


def expected_tensors(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model, in checkpoint order."""
    return dict(_recorded(spec).shapes)


def linear_paths(spec: DecoderSpec) -> list[str]:
    """Paths of the decoder's linear layers without the head, in checkpoint order."""
    return list(_recorded(spec).linears)


def linear_shapes(spec: DecoderSpec) -> dict[str, tuple[int, int, bool]]:
    """For the path of each linear layer: number of inputs, number of outputs, and whether it has a bias."""
    return dict(_recorded(spec).linears)


def norm_shapes(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor outside of linear layers, routers, embedding and head, in checkpoint order."""
    routers = () if spec.mixture is None else tuple(f"{path}." for path in spec.mixture.routers(spec.num_layers))
    return {name: shape for name, shape in _recorded(spec).norms.items() if not name.startswith(routers)}


def check_tensors(checkpoint: Checkpoint, spec: DecoderSpec) -> None:
    """Compare the tensors that `spec` needs with the names and shapes in the files, before any matrix is read.

    `veneer.loading.unread` reports tensors that the model does not need, but biases of the model's own modules are
    refused: without them the model would compute something else. Biases of zeros are ignored.

    Raises:
        ModelError: tensors are missing or have another shape, or there is an additional bias; the message names all of
            them.
    """
    present, expected = frozenset(checkpoint.names()), expected_tensors(spec)
    problems = []
    for name, shape in expected.items():
        if name not in present:
            problems.append(f"{name}: missing")
        elif checkpoint.shape(name) != shape:
            problems.append(f"{name}: shape {list(checkpoint.shape(name))}, config.json says {list(shape)}")
    for name in sorted(present - expected.keys()):
        biased = name.endswith(".bias") and f"{name.removesuffix('bias')}weight" in expected
        if biased and bool(checkpoint.read(name, torch.float32).any()):
            problems.append(f"{name}: a bias, but config.json has none (attention_bias, mlp_bias)")
    if problems:
        raise ModelError(f"the tensors of {checkpoint.source} do not fit its configuration:\n{listing(problems)}")


def check_vocabulary(tokenizer: Tokenizer, rows: int, source: str) -> None:
    """Refuse a tokenizer that may give a text ids that the embedding has no row for.

    Args:
        tokenizer: the tokenizer of the model.
        rows: number of rows of the model's embedding.
        source: name of the model in the error.

    Raises:
        ModelError: there are such ids; both sizes are named.
    """
    if tokenizer.rows > rows:
        raise ModelError(
            f"the tokenizer of {source} has ids up to {tokenizer.rows - 1:,}, and the model's embedding has "
            f"{rows:,} rows. Take the tokenizer that belongs to the model, or one without the tokens that were added; "
            "tokens of your own are added by lora.new_tokens."
        )


class Recorder:
    """A `Weights` without memory, which records the requests."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.linears: dict[str, tuple[int, int, bool]] = {}

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        """See `veneer.model.leaves.Weights`."""
        self.linears[path] = (in_features, out_features, bias)
        weight = self.parameter(f"{path}.weight", (out_features, in_features))
        return DenseLinear(weight, self.parameter(f"{path}.bias", (out_features,)) if bias else None)

    @property
    def norms(self) -> dict[str, tuple[int, ...]]:
        """Tensors outside of linear layers, embedding and head."""
        of_linears = {f"{path}.{name}" for path in self.linears for name in ("weight", "bias")} | {*TABLE_NAMES}
        return {name: shape for name, shape in self.shapes.items() if name not in of_linears}

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        """See `veneer.model.leaves.Weights`."""
        self.shapes[path] = shape
        return nn.Parameter(torch.empty(shape, device="meta"))


@cache
def _recorded(spec: DecoderSpec) -> Recorder:
    """The tensors that a model needs. Cached, since this takes a tenth of a second for a hundred layers."""
    recorder = Recorder()
    CausalLM(spec, recorder, torch.float32)
    return recorder
