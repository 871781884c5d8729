"""Tensors and settings of the files that the model does not read, but that a user may expect to have an effect."""

from __future__ import annotations

import re

import torch

from veneer.errors import ModelError, listing
from veneer.io.checkpoint import Checkpoint, dtypes_in_headers
from veneer.io.model_files import decoded_when_read
from veneer.loading.expected import TABLE_NAMES, expected_tensors
from veneer.model.families.fields import unscaled
from veneer.model.shape import DecoderSpec

_COMPUTED = re.compile(r".*\.rotary_emb\.inv_freq|.*\.[kv]_scale")
"""Tensors that follow from the configuration (rotary frequencies in old files), and scales of a quantised cache."""
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


def unread_tensors(checkpoint: Checkpoint, spec: DecoderSpec) -> list[str]:
    """Names of the tensors in the files for which a decoder of `spec` has no place.

    Tensors on which the result does not depend are left out: those that the configuration determines, the head of a
    model whose head is its embedding (`check_tied`), and the layers that predict further tokens, which some models have
    after the last one (`num_nextn_predict_layers`).
    """
    known = expected_tensors(spec).keys() | {*TABLE_NAMES}
    further = bool(checkpoint.config.get("num_nextn_predict_layers"))

    def matters(name: str) -> bool:
        layer = _LAYER.match(name)
        behind = layer is not None and int(layer[1]) >= spec.num_layers
        return name not in known and not _COMPUTED.fullmatch(name) and not (further and behind)

    return [name for name in checkpoint.names() if matters(name)]


def unread_notes(checkpoint: Checkpoint, spec: DecoderSpec) -> tuple[str, ...]:
    """What the user should know about tensors and settings that are not read: a sentence that names them, or none."""
    return (*_tensor_notes(checkpoint, spec), *_scaling_notes(checkpoint))


def _scaling_notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    keys = unscaled(checkpoint.config)
    if not keys:
        return ()
    return (
        f"config.json of {checkpoint.source} has settings of a scaling of rotary positions, but no type of "
        f"scaling: as in transformers, nothing is scaled.\n{listing(keys)}\nIf the model was trained with a "
        'scaling, name it there ("rope_type": "linear", "yarn", …).',
    )


def _tensor_notes(checkpoint: Checkpoint, spec: DecoderSpec) -> tuple[str, ...]:
    names = unread_tensors(checkpoint, spec)
    if not names:
        return ()
    return (
        f"the files of {checkpoint.source} have tensors that its config.json has no place for. They are not read, and "
        f"change nothing:\n{listing(names)}\nIf they belong to the model, correct config.json (attention_bias, "
        "mlp_bias and num_hidden_layers say which layers and biases there are).",
    )


def check_tied(files: Checkpoint, embedding: str, head: str) -> None:
    """Refuse files whose head differs from the embedding if config.json says that both are the same.

    Versions of transformers differ here: up to 4 the embedding is the head, from 5 on the files' head is. Both tables
    are read as they are stored, compared, and released before the model is read.

    Args:
        files: the files of a model whose head is its embedding.
        embedding: name of the embedding's weight.
        head: name of the head's weight; files without it have nothing to compare.

    Raises:
        ModelError: the two differ.
    """
    names = files.names()
    if head not in names or embedding not in names or _equal(files, embedding, head):
        return
    raise ModelError(
        f"{files.source}: config.json says that the head is the embedding (tie_word_embeddings true), but the files "
        f"have a {head} with other values than {embedding}. Set tie_word_embeddings to false in config.json to use "
        f"the files' head, or leave {head} out of the files to use the embedding."
    )


def _equal(files: Checkpoint, first: str, second: str) -> bool:
    if files.shape(first) != files.shape(second) or {first, second} & files.stored.keys():
        return False
    dtypes = dtypes_in_headers(files.files())
    # If the files have several dtypes, or others than these, float32 represents the numbers of all.
    dtype = dtypes.pop() if len(dtypes) == 1 and not decoded_when_read(files.config) else torch.float32
    return torch.equal(files.read(first, dtype), files.read(second, dtype))
