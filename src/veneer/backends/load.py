"""Loads a model from files, for either backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from veneer.backends.choose import backend_of
from veneer.backends.files import HfFiles
from veneer.enums import Backend, Products
from veneer.errors import ConfigError
from veneer.io.checkpoint import Checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import DEFAULTS, Loading
from veneer.loading.load import load_model
from veneer.loading.stored import stored_layers
from veneer.loading.streams import StreamedWeights
from veneer.loading.unread import check_tied
from veneer.machine.out_of_memory import refuse_full_address_space
from veneer.model.hf import HfModel, build
from veneer.model.hf_skeleton import make_skeleton
from veneer.model.hf_sources import keeps_float32
from veneer.model.language import LanguageModel


def load_language_model(
    checkpoint: Checkpoint, backend: Backend = Backend.AUTO, how: Loading = DEFAULTS
) -> LanguageModel:
    """Build the model of `checkpoint`; errors as `veneer.loading.load.load_model` and `load_hf`.

    Raises:
        OutOfMemory: the address space is limited, and leaves the model no room to compute.
    """
    own = backend_of(checkpoint.config, backend) is Backend.VENEER
    model: LanguageModel = load_model(checkpoint, how) if own else load_hf(checkpoint, how)
    refuse_full_address_space(torch.get_num_threads())
    return model


def load_hf(checkpoint: Checkpoint, how: Loading = DEFAULTS) -> HfModel:
    """Build the model of `checkpoint` as transformers computes it, one tensor at a time.

    Only linear layers are quantised: experts that are one tensor in memory stay in `how.dtype`. Embedding and head are
    dense.

    Raises:
        ModelError: transformers is not installed or does not know the architecture, or the files do not fit it.
        ConfigError: `how.quant` skips layers that do not exist, or asks for trained weights or 8-bit products.
    """
    if how.products is not Products.EXACT:
        raise ConfigError("compute.products int8 works only with veneer's own decoder; with backend hf use exact")
    if how.form is WeightForm.TRAINABLE:
        raise ConfigError("method full works only with veneer's own decoder; with backend hf use lora or qlora")
    skeleton = make_skeleton(checkpoint.config, how.dtype)
    files = HfFiles(checkpoint, skeleton)
    for head, embedding in skeleton.tied.items():
        check_tied(files, embedding, head)
    paths = [linear.path for linear in skeleton.spec.linears]
    dense = how.dense(paths, stored=stored_layers(files, paths) is not None)
    streamed = StreamedWeights(checkpoint=files, how=how, dense=dense)
    weights = _HfWeights(files, streamed, keeps_float32(skeleton.module), frozenset(files.names()))
    return build(skeleton, weights, how.dtype, how.device).check()


@dataclass(frozen=True, slots=True)
class _HfWeights:
    """Reads each tensor from the files as the skeleton is filled (`veneer.model.hf.HfWeights`)."""

    files: HfFiles
    streamed: StreamedWeights
    wide: Callable[[str], bool]
    names: frozenset[str]

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        return self.streamed.linear(path, in_features, out_features, bias=bias)

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        if not self.wide(path):
            return self.streamed.parameter(path, shape)
        tensor = self.files.read(path, torch.float32).to(self.streamed.how.device)
        return nn.Parameter(tensor, requires_grad=False)

    def buffer(self, path: str) -> Tensor | None:
        if path not in self.names:
            return None
        return self.files.read(path, torch.float32)
