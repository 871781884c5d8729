"""Loads a model: its files are compared with its configuration, and then read into the requested form."""

from __future__ import annotations

from typing import NoReturn

import torch

from veneer.enums import Products, Scheme
from veneer.errors import ConfigError
from veneer.io.checkpoint import Checkpoint
from veneer.loading.expected import TABLE_NAMES, Recorder, check_tensors, linear_paths
from veneer.loading.forms import WeightForm, keeps_blocks, keeps_table_blocks
from veneer.loading.how import DEFAULTS, Loading
from veneer.loading.stored import stored_quantisation
from veneer.loading.streams import StreamedTables, StreamedWeights
from veneer.loading.unread import check_tied
from veneer.machine.hardware import check_products
from veneer.model.decoder import CausalLM
from veneer.model.families.choose import spec_from_hf
from veneer.model.shape import DecoderSpec
from veneer.products import reads_stored


def load_model(checkpoint: Checkpoint, how: Loading = DEFAULTS) -> CausalLM:
    """Build the model of `checkpoint`.

    Raises:
        ModelError: the architecture is unknown, or tensors do not fit the configuration.
        ConfigError: this machine cannot compute the products, `how.quant` skips layers that do not exist, or the files
            have quantised weights and the form is TRAINABLE.
    """
    trained, device = how.form is WeightForm.TRAINABLE, how.device.type
    check_products(how.products, how.device)
    if how.products is Products.INT8 and trained:
        raise ConfigError("compute.products int8 is for a frozen base; weights that are trained are multiplied exactly")
    spec = _checked_spec(checkpoint)
    stored = stored_quantisation(checkpoint, spec)
    if trained and checkpoint.stored:
        refuse_training(checkpoint.source, next(iter(checkpoint.stored.values())).scheme)
    weights = StreamedWeights(
        checkpoint=checkpoint,
        how=how,
        dense=how.dense(linear_paths(spec), stored=stored is not None),
        keeps_blocks=keeps_blocks(trained, how.products, device),
        narrow=not trained and reads_stored(how.dtype, device),
    )
    stays = keeps_table_blocks(how.tables, trained, device)
    return CausalLM(spec, weights, how.dtype, StreamedTables(weights) if stays else None)


def unloaded_model(checkpoint: Checkpoint, dtype: torch.dtype) -> CausalLM:
    """The model of `checkpoint` with weights that are trained, in float32 and without memory (on the meta device).

    Args:
        checkpoint: the files of the model.
        dtype: dtype of activations and products.

    Raises:
        ModelError: the architecture is unknown or tensors do not fit the configuration.
        ConfigError: the files have quantised weights.
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
    """Raise ConfigError: quantised weights in files cannot be fine-tuned in full."""
    raise ConfigError(
        f"{source} has quantised weights ({scheme.value}), but method full trains all weights in float32: the result "
        "would lack what rounding removed. Use method qlora, or the model's unquantised checkpoint"
    )
