"""Loading a model: its files are compared with its configuration, and then read into the form that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import torch

from veneer.config import QuantSection
from veneer.enums import Products, Scheme
from veneer.errors import ConfigError
from veneer.hardware import check_products
from veneer.io.checkpoint import Checkpoint
from veneer.loading.expected import TABLE_NAMES, Recorder, check_tensors, linear_paths
from veneer.loading.forms import TableForm, WeightForm, keeps_blocks, keeps_table_blocks
from veneer.loading.stored import stored_quantisation
from veneer.loading.streams import StreamedTables, StreamedWeights
from veneer.loading.unread import check_tied
from veneer.model.decoder import CausalLM
from veneer.model.spec import DecoderSpec, spec_from_hf
from veneer.products import reads_stored
from veneer.quant.schemes import skipped


def load_model(
    checkpoint: Checkpoint,
    *,
    form: WeightForm = WeightForm.FROZEN,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    products: Products = Products.EXACT,
    quant: QuantSection | None = None,
    quantised_from: torch.dtype | None = None,
    tables: TableForm = TableForm.DENSE,
    progress: Callable[[str], None] = lambda name: None,
) -> CausalLM:
    """Build the model of `checkpoint`.

    Args:
        checkpoint: the files of the model.
        form: form of the weights. TRAINABLE weights are float32 whatever `dtype` is.
        dtype: dtype of activations and products, and of frozen weights.
        device: device that the weights are moved to, tensor by tensor.
        products: products of the linear layers. INT8 replaces the weights (decoded, where they are quantised) by 8-bit
            copies. It is not possible with TRAINABLE.
        quant: settings for `WeightForm.QUANTIZED`. They have no effect on files that are quantised already.
        quantised_from: the dtype that weights are rounded to before they are quantised; None takes `dtype`. An adapter
            that was trained in another dtype than `dtype` has its own base with that of its training.
        tables: form of embedding and head.
        progress: function that is called with the name of every tensor that is read.

    Raises:
        ModelError: the architecture is unknown, or tensors do not fit the configuration.
        ConfigError: this machine cannot make `products`, `quant` skips layers that do not exist, or the files hold
            quantised weights and `form` is TRAINABLE.
    """
    device = torch.device(device)
    check_products(products, device)
    if products is Products.INT8 and form is WeightForm.TRAINABLE:
        raise ConfigError("compute.products int8 is for a frozen base; weights that are trained are multiplied exactly")
    spec = _checked_spec(checkpoint)
    stored = stored_quantisation(checkpoint, spec)
    if form is WeightForm.TRAINABLE and checkpoint.stored:
        refuse_training(checkpoint.source, next(iter(checkpoint.stored.values())).scheme)
    quant = quant or QuantSection()
    paths = linear_paths(spec)
    quantizing = form is WeightForm.QUANTIZED and stored is None
    weights = StreamedWeights(
        checkpoint=checkpoint,
        dtype=torch.float32 if form is WeightForm.TRAINABLE else dtype,
        device=device,
        form=form,
        products=products,
        quant=quant,
        dense=skipped(paths, quant.skip_modules) if quantizing else frozenset(paths),
        progress=progress,
        quantised_from=quantised_from,
        keeps_blocks=keeps_blocks(form is WeightForm.TRAINABLE, products, device.type),
        narrow=form is not WeightForm.TRAINABLE and reads_stored(dtype, device.type),
    )
    stays = keeps_table_blocks(tables, form is WeightForm.TRAINABLE, device.type)
    return CausalLM(spec, weights, dtype, StreamedTables(weights) if stays else None)


def unloaded_model(checkpoint: Checkpoint, dtype: torch.dtype) -> CausalLM:
    """The model of `checkpoint` with weights that are trained, in float32 and without memory (on the meta device).

    Args:
        checkpoint: the files of the model.
        dtype: dtype of activations and products.

    Raises:
        ModelError: the architecture is unknown or tensors do not fit the configuration.
        ConfigError: the files hold quantised weights.
    """
    spec = _checked_spec(checkpoint)
    if checkpoint.stored:
        refuse_training(checkpoint.source, next(iter(checkpoint.stored.values())).scheme)
    return CausalLM(spec, Recorder(), dtype)


def _checked_spec(checkpoint: Checkpoint) -> DecoderSpec:
    spec = spec_from_hf(checkpoint.config)
    check_tensors(checkpoint, spec)
    if spec.tied_head:
        check_tied(checkpoint, *TABLE_NAMES)
    return spec


def refuse_training(source: str, scheme: Scheme) -> NoReturn:
    """Raise ConfigError: weights that the files hold quantised cannot be fine-tuned in full."""
    raise ConfigError(
        f"{source} holds its weights quantised ({scheme.value}), and method full trains all of them in float32: what "
        "was rounded away would be missing from the result. Take method qlora, or the model's unquantised checkpoint"
    )
