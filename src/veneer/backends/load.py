"""From files to a model in memory, whoever computes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from veneer.backends.choose import backend_of
from veneer.backends.files import HfFiles
from veneer.config import QuantSection
from veneer.enums import Backend, Products
from veneer.errors import ConfigError
from veneer.io.checkpoint import Checkpoint
from veneer.loading.forms import TableForm, WeightForm
from veneer.loading.load import load_model
from veneer.loading.stored import stored_layers
from veneer.loading.streams import StreamedWeights
from veneer.loading.unread import check_tied
from veneer.model.hf import HfModel, build
from veneer.model.hf_skeleton import keeps_float32, make_skeleton
from veneer.model.language import LanguageModel
from veneer.out_of_memory import refuse_full_address_space
from veneer.quant.schemes import skipped


def load_language_model(
    checkpoint: Checkpoint,
    *,
    backend: Backend = Backend.AUTO,
    form: WeightForm = WeightForm.FROZEN,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    products: Products = Products.EXACT,
    quant: QuantSection | None = None,
    quantised_from: torch.dtype | None = None,
    tables: TableForm = TableForm.DENSE,
    progress: Callable[[str], None] = lambda name: None,
) -> LanguageModel:
    """Build the model of `checkpoint`; arguments and errors as `veneer.loading.load.load_model`, and who computes it.

    Raises:
        OutOfMemory: the address space is limited, and leaves the model no room to compute.
    """
    if backend_of(checkpoint.config, backend) is Backend.VENEER:
        model: LanguageModel = load_model(
            checkpoint,
            form=form,
            dtype=dtype,
            device=device,
            products=products,
            quant=quant,
            quantised_from=quantised_from,
            tables=tables,
            progress=progress,
        )
    elif products is not Products.EXACT:
        raise ConfigError("compute.products int8 is done by veneer's own decoder alone; with backend hf take exact")
    else:
        model = load_hf(
            checkpoint,
            form=form,
            dtype=dtype,
            device=device,
            quant=quant,
            quantised_from=quantised_from,
            progress=progress,
        )
    refuse_full_address_space(torch.get_num_threads())
    return model


def load_hf(
    checkpoint: Checkpoint,
    *,
    form: WeightForm = WeightForm.FROZEN,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    quant: QuantSection | None = None,
    quantised_from: torch.dtype | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> HfModel:
    """Build the model of `checkpoint` as transformers computes it, one tensor at a time.

    Args:
        checkpoint: opened files.
        form: dense or quantised, frozen either way. Only linear layers are quantised: experts that are one tensor in
            memory stay in `dtype`.
        dtype: of activations and products, and of what is not quantised.
        device: where the weights go.
        quant: settings for `WeightForm.QUANTIZED`; without effect on files that are quantised already.
        quantised_from: as `veneer.loading.load.load_model` has it.
        progress: called with the name of every tensor that is read.

    Raises:
        ModelError: transformers is not installed or does not know the architecture, or the files do not fit it.
        ConfigError: `quant` skips layers that there are not, or the weights are to be trained.
    """
    if form is WeightForm.TRAINABLE:
        raise ConfigError("method full is done by veneer's own decoder alone; with backend hf take lora or qlora")
    skeleton = make_skeleton(checkpoint.config, dtype)
    files = HfFiles(checkpoint, skeleton)
    for head, embedding in skeleton.tied.items():
        check_tied(files, embedding, head)
    paths = [linear.path for linear in skeleton.spec.linears]
    stored = stored_layers(files, paths)
    quant = quant or QuantSection()
    quantizing = form is WeightForm.QUANTIZED and stored is None
    streamed = StreamedWeights(
        checkpoint=files,
        dtype=dtype,
        device=torch.device(device),
        form=form,
        products=Products.EXACT,
        quant=quant,
        dense=skipped(paths, quant.skip_modules) if quantizing else frozenset(paths),
        progress=progress,
        quantised_from=quantised_from,
    )
    weights = _HfWeights(files, streamed, keeps_float32(skeleton.module), frozenset(files.names()))
    return build(skeleton, weights, dtype, torch.device(device)).check()


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
        tensor = self.files.read(path, torch.float32).to(self.streamed.device)
        return nn.Parameter(tensor, requires_grad=False)

    def buffer(self, path: str) -> Tensor | None:
        if path not in self.names:
            return None
        return self.files.read(path, torch.float32)
