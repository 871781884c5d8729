"""One function that describes a model, for both backends and with or without its weights."""

from __future__ import annotations

from dataclasses import replace

import torch

from veneer.backends.base import CAPABILITIES, Description
from veneer.backends.choose import backend_of, said
from veneer.backends.files import HfFiles
from veneer.enums import Backend
from veneer.io.checkpoint import ModelConfig, dtype_in_headers
from veneer.io.model_files import decoded_when_read, dtype_of_files
from veneer.io.prequantised import described_quantisation
from veneer.io.protocol import Checkpoint
from veneer.loading.ends import end_notes
from veneer.loading.expected import linear_paths
from veneer.loading.stored import block_formats, stored_layers, stored_quantisation, table_formats
from veneer.loading.unread import unread_notes
from veneer.model.families.choose import spec_from_hf
from veneer.model.hf_skeleton import HfSpec, make_skeleton


def describe_model(model: Checkpoint | ModelConfig, wanted: Backend) -> Description:
    """Describe a model from its opened files, or only from its config.json.

    Args:
        model: opened files, whose tensors are then compared with the configuration; or a configuration, which says
            how the files are quantised without the size of the blocks.
        wanted: the backend; AUTO chooses veneer's own decoder if it knows the architecture.

    Raises:
        ModelError: neither backend knows the architecture, transformers is needed but not installed, or the files do
            not fit the configuration.
    """
    if backend_of(model.config, wanted) is Backend.HF:
        return _by_transformers(model, wanted)
    spec = spec_from_hf(model.config)
    paths = linear_paths(spec)
    return Description(
        source=model.source,
        backend=Backend.VENEER,
        capabilities=CAPABILITIES[Backend.VENEER],
        spec=spec,
        linears=tuple(paths),
        stored=(
            described_quantisation(model.config, paths)
            if isinstance(model, ModelConfig)
            else stored_quantisation(model, spec)
        ),
        blocks=block_formats(model.blocks, paths),
        tables=table_formats(model.blocks),
        dtype=_dtype_of(model),
        tokenizer=model.tokenizer,
        notes=() if isinstance(model, ModelConfig) else unread_notes(model, spec) + end_notes(model, spec.vocab_size),
    )


def _dtype_of(model: Checkpoint | ModelConfig) -> torch.dtype | None:
    """The dtype of the weights: from the headers of the files if they exist, since config.json may name another."""
    said_so = dtype_of_files(model.config)
    return said_so if decoded_when_read(model.config) else dtype_in_headers(model.files()) or said_so


def _by_transformers(model: Checkpoint | ModelConfig, wanted: Backend) -> Description:
    bones = make_skeleton(model.config, torch.float32)
    spec = bones.spec
    paths = [line.path for line in spec.linears]
    if isinstance(model, ModelConfig):
        stored = described_quantisation(model.config, paths)
        ends: tuple[str, ...] = ()
    else:
        stored = stored_layers(HfFiles(model, bones), paths)
        ends = end_notes(model, spec.vocab_size)
    return Description(
        source=model.source,
        backend=Backend.HF,
        capabilities=replace(CAPABILITIES[Backend.HF], recomputation=spec.recomputable),
        spec=spec,
        linears=tuple(line.path for line in spec.adaptable),
        stored=stored,
        blocks={},
        tables={},
        dtype=_dtype_of(model),
        tokenizer=model.tokenizer,
        notes=(said(model.config, wanted), *_layers_without_adapter(spec), *ends),
    )


def _layers_without_adapter(spec: HfSpec) -> list[str]:
    bare = {line.path.rpartition(".")[2] for line in spec.linears} & spec.experts
    if not bare:
        return []
    return [
        f"layers named {', '.join(sorted(bare))} and experts carry no adapter: experts are one tensor here, and PEFT "
        "means them by these names"
    ]
