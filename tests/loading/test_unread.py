"""Tensors that the model has no place for are named, and a head that differs from a tied embedding is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from helpers.models.damaged_checkpoints import Watched, retensor, rewrite
from helpers.models.family_variants import FAMILIES
from helpers.models.hf_models import write_hf_model
from helpers.models.tiny_mixtures import KINDS, tiny_mixture
from helpers.models.tiny_models import saved, tiny, tiny_llama
from veneer.assistant.load import load_assistant
from veneer.assistant.request import AssistantRequest
from veneer.backends.describe import describe_model
from veneer.backends.load import load_hf
from veneer.enums import Backend
from veneer.errors import ModelError
from veneer.events import Event, Level, Note
from veneer.io.checkpoint import open_checkpoint, read_model_config
from veneer.loading.load import load_model, unloaded_model
from veneer.loading.unread import check_tied, unread_notes, unread_tensors
from veneer.model.families.choose import spec_from_hf

BIAS = "model.layers.0.self_attn.q_proj.bias"
LAYER = "model.layers.2.input_layernorm.weight"
EMBEDDINGS = {"llama": "model.embed_tokens.weight", "gpt2": "transformer.wte.weight"}
TIED = {"tie_word_embeddings": True}


def test_a_bias_and_a_layer_that_config_json_does_not_know_are_named(tmp_path: Path) -> None:
    saved(tiny_llama(), tmp_path)
    checkpoint = retensor(tmp_path, {BIAS: torch.zeros(64), LAYER: torch.ones(64)})
    spec = spec_from_hf(checkpoint.config)
    assert unread_tensors(checkpoint, spec) == [BIAS, LAYER]
    (note,) = unread_notes(checkpoint, spec)
    assert f"  - {BIAS}\n  - {LAYER}\n" in note
    assert "config.json" in note
    assert describe_model(checkpoint, Backend.AUTO).notes == (note,)
    assert describe_model(read_model_config(tmp_path), Backend.AUTO).notes == ()


def test_what_the_result_does_not_depend_on_is_not_named(tmp_path: Path) -> None:
    saved(tiny_llama(changes=TIED), tmp_path)
    rewrite(tmp_path, num_nextn_predict_layers=1)
    embedding = open_checkpoint(tmp_path).read("model.embed_tokens.weight", torch.float32)
    added = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "model.layers.0.self_attn.k_proj.k_scale": torch.ones(1),
        "model.layers.2.eh_proj.weight": torch.ones(64, 128),
        "lm_head.weight": embedding,
    }
    checkpoint = retensor(tmp_path, added)
    assert unread_notes(checkpoint, spec_from_hf(checkpoint.config)) == ()


@pytest.mark.parametrize(
    ("scaling", "named"),
    [
        ({"factor": 4.0}, ["rope_scaling.factor"]),
        ({"rope_type": "default", "factor": 4.0, "beta_fast": 32}, ["rope_scaling.factor", "rope_scaling.beta_fast"]),
        ({"type": "default", "factor": None}, []),
        ({"rope_type": "linear", "factor": 4.0}, []),
        (None, []),
    ],
)
def test_a_scaling_without_a_type_is_noted_as_unread_as_transformers_does(
    scaling: dict[str, Any] | None, named: list[str], tmp_path: Path
) -> None:
    saved(tiny_llama(), tmp_path)
    rewrite(tmp_path, rope_parameters=None, rope_scaling=scaling)
    checkpoint = open_checkpoint(tmp_path)
    spec = spec_from_hf(checkpoint.config)
    notes = unread_notes(checkpoint, spec)
    assert [line.removeprefix("  - ") for note in notes for line in note.splitlines() if "  - " in line] == named
    assert LlamaConfig(rope_scaling=scaling).rope_parameters["rope_type"] == spec.rope.kind.value


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_as_transformers_writes_it_has_no_such_tensor(family: str, tmp_path: Path) -> None:
    kind, changes = FAMILIES[family]
    checkpoint = saved(tiny(kind, changes=changes), tmp_path)
    assert unread_notes(checkpoint, spec_from_hf(checkpoint.config)) == ()


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixture_as_transformers_writes_it_has_no_such_tensor(kind: str, tmp_path: Path) -> None:
    checkpoint = saved(tiny_mixture(kind), tmp_path)
    assert unread_tensors(checkpoint, spec_from_hf(checkpoint.config)) == []


def test_whoever_asks_a_model_is_warned_of_them(tiny_model: Path, tmp_path: Path) -> None:
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    retensor(tmp_path, {BIAS: torch.zeros(64)})
    seen: list[Event] = []
    assistant = load_assistant(AssistantRequest(model=str(tmp_path)), seen.append)
    (warning,) = assistant.warnings
    assert BIAS in warning
    assert Note(message=warning, level=Level.WARNING) in seen


@pytest.mark.parametrize("head", [torch.zeros(96, 64), torch.zeros(3, 3)])
def test_a_head_that_differs_from_the_tied_embedding_is_refused(head: torch.Tensor, tmp_path: Path) -> None:
    saved(tiny_llama(changes=TIED), tmp_path)
    checkpoint = retensor(tmp_path, {"lm_head.weight": head})
    problem = r"lm_head\.weight with other values.*tie_word_embeddings to false"
    with pytest.raises(ModelError, match=problem):
        load_model(checkpoint)
    with pytest.raises(ModelError, match=problem):
        unloaded_model(checkpoint, torch.float32)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_so_it_is_where_transformers_computes(kind: str, tmp_path: Path) -> None:
    write_hf_model(tmp_path, kind, changes=TIED)
    load_hf(retensor(tmp_path, {}))
    rows = open_checkpoint(tmp_path).shape(EMBEDDINGS[kind])
    load_hf(retensor(tmp_path, {"lm_head.weight": open_checkpoint(tmp_path).read(EMBEDDINGS[kind], torch.float32)}))
    with pytest.raises(ModelError, match=f"lm_head.weight with other values than {EMBEDDINGS[kind]}"):
        load_hf(retensor(tmp_path, {"lm_head.weight": torch.zeros(rows)}))


def test_a_head_that_equals_the_tied_embedding_is_the_embedding(tmp_path: Path) -> None:
    saved(tiny_llama(changes=TIED), tmp_path)
    embedding = open_checkpoint(tmp_path).read("model.embed_tokens.weight", torch.float32)
    model = load_model(Watched(retensor(tmp_path, {"lm_head.weight": embedding})))
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_tables_are_compared_as_they_are_stored_and_in_float32_where_dtypes_are_mixed(tmp_path: Path) -> None:
    saved(tiny_llama(changes=TIED).bfloat16(), tmp_path)
    embedding = open_checkpoint(tmp_path).read("model.embed_tokens.weight", torch.float32)
    one = Watched(retensor(tmp_path, {"lm_head.weight": embedding.bfloat16()}))
    check_tied(one, "model.embed_tokens.weight", "lm_head.weight")
    assert max(one.alive_bytes) == 2 * embedding.numel() * torch.bfloat16.itemsize
    # The difference is one that bfloat16 does not hold.
    other = retensor(tmp_path, {"lm_head.weight": embedding * (1 + 2**-12)})
    with pytest.raises(ModelError, match="with other values than"):
        check_tied(other, "model.embed_tokens.weight", "lm_head.weight")
