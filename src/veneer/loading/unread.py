"""Tensors and settings of the files that the model does not read: which change what the user expects of it."""

from __future__ import annotations

import re

import torch

from veneer.errors import ModelError, listing
from veneer.io.checkpoint import Checkpoint, dtypes_in_headers
from veneer.io.model_files import decoded_when_read
from veneer.loading.expected import TABLE_NAMES, expected_tensors
from veneer.model.families.fields import unscaled
from veneer.model.spec import DecoderSpec

_COMPUTED = re.compile(r".*\.rotary_emb\.inv_freq|.*\.[kv]_scale")
"""Tensors that follow from the configuration (rotary frequencies in old files), and scales of a quantised cache."""
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


def unread_tensors(checkpoint: Checkpoint, spec: DecoderSpec) -> list[str]:
    """Names of the tensors that the files hold and a decoder of `spec` has no place for.

    Left out are tensors that the result does not depend on: what the configuration determines, the head of a model
    whose head is its embedding (`check_tied`), and the layers that predict further tokens, which some models have
    behind the last one (`num_nextn_predict_layers`).
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
        f"config.json of {checkpoint.source} has settings of a scaling of rotary positions, and no type of scaling "
        f"beside them: as in transformers, nothing is scaled.\n{listing(keys)}\nIf the model was trained with a "
        'scaling, name it there ("rope_type": "linear", "yarn", …).',
    )


def _tensor_notes(checkpoint: Checkpoint, spec: DecoderSpec) -> tuple[str, ...]:
    names = unread_tensors(checkpoint, spec)
    if not names:
        return ()
    return (
        f"the files of {checkpoint.source} hold tensors that its config.json has no place for. They are not read, and "
        f"change nothing:\n{listing(names)}\nIf they belong to the model, correct config.json (attention_bias, "
        "mlp_bias and num_hidden_layers say which layers and biases there are).",
    )


def check_tied(files: Checkpoint, embedding: str, head: str) -> None:
    """Refuse files that hold a head with other values than the embedding where config.json says that both are one.

    Versions of transformers differ here: up to 4 the embedding is the head, from 5 on the files' head is. Both tables
    are read as they are stored and compared, and let go of before the model is read.

    Args:
        files: of a model whose head is its embedding.
        embedding: name of the embedding's weight.
        head: name of the head's weight; files without it have nothing to compare.

    Raises:
        ModelError: the two differ.
    """
    names = files.names()
    if head not in names or embedding not in names or _equal(files, embedding, head):
        return
    raise ModelError(
        f"{files.source}: config.json says that the head is the embedding (tie_word_embeddings true), and the files "
        f"hold a {head} with other values than {embedding}. Set tie_word_embeddings to false in config.json to take "
        f"the files' head, or leave {head} out of the files to take the embedding."
    )


def _equal(files: Checkpoint, first: str, second: str) -> bool:
    if files.shape(first) != files.shape(second) or {first, second} & files.stored.keys():
        return False
    dtypes = dtypes_in_headers(files.files())
    # Where the files have several dtypes, or others than these, float32 holds the numbers of all.
    dtype = dtypes.pop() if len(dtypes) == 1 and not decoded_when_read(files.config) else torch.float32
    return torch.equal(files.read(first, dtype), files.read(second, dtype))
