"""The tensors that a model asks for are those of transformers, and files or a tokenizer that do not fit are refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch

from helpers.models.damaged_checkpoints import Watched, retensor, rewrite
from helpers.models.tiny import chat_tokenizer, run_config
from helpers.models.tiny_models import saved, tiny_llama
from veneer.adapters.files.store import WEIGHTS_FILE
from veneer.assistant.assistant import make_assistant
from veneer.errors import ModelError
from veneer.io.checkpoint import open_checkpoint
from veneer.io.tokenizer import finish
from veneer.loading.expected import (
    TABLE_NAMES,
    check_vocabulary,
    expected_tensors,
    linear_paths,
    linear_shapes,
    norm_shapes,
)
from veneer.loading.load import load_model
from veneer.model.families.choose import spec_from_hf
from veneer.training.run import train


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}])
def test_every_tensor_of_transformers_is_expected_in_one_part(changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = tiny_llama(changes=changes)
    spec = spec_from_hf(saved(theirs, tmp_path).config)
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    if theirs.config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    assert expected_tensors(spec) == shapes
    linears = linear_shapes(spec)
    assert list(linears) == linear_paths(spec)
    weights = {f"{path}.weight": (outputs, inputs) for path, (inputs, outputs, _) in linears.items()}
    biases = {f"{path}.bias": (outputs,) for path, (_, outputs, bias) in linears.items() if bias}
    tables = {name: shapes[name] for name in TABLE_NAMES if name in shapes}
    assert weights | biases | norm_shapes(spec) | tables == shapes


def test_missing_and_misshaped_tensors_are_all_named_and_nothing_is_read(tmp_path: Path) -> None:
    saved(tiny_llama(), tmp_path)
    changes = {
        "model.layers.1.mlp.up_proj.weight": torch.zeros(112, 63),
        "model.norm.weight": None,
        "model.layers.0.self_attn.q_proj.weight": None,
        "lm_head.weight": torch.zeros(95, 64),
    }
    checkpoint = Watched(retensor(tmp_path, changes))
    with pytest.raises(ModelError) as caught:
        load_model(checkpoint)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "model.norm.weight: missing" in message
    assert "model.layers.0.self_attn.q_proj.weight: missing" in message
    assert "model.layers.1.mlp.up_proj.weight: shape [112, 63], config.json says [112, 64]" in message
    assert "lm_head.weight: shape [95, 64], config.json says [96, 64]" in message
    assert message.count("  - ") == 4
    assert checkpoint.reads == []


def test_a_configuration_of_another_shape_names_every_tensor(tmp_path: Path) -> None:
    saved(tiny_llama(), tmp_path)
    with pytest.raises(ModelError, match=r"k_proj.weight: shape \[32, 64\], config.json says \[64, 64\]") as caught:
        load_model(rewrite(tmp_path, num_key_value_heads=4))
    assert str(caught.value).count("  - ") == 4


def test_a_bias_that_the_configuration_promises_is_missed(tmp_path: Path) -> None:
    saved(tiny_llama(), tmp_path)
    with pytest.raises(ModelError, match=r"layers.1.mlp.down_proj.bias: missing"):
        load_model(rewrite(tmp_path, mlp_bias=True))


def test_a_bias_that_the_configuration_does_not_promise_is_refused_unless_it_is_none(tmp_path: Path) -> None:
    saved(tiny_llama(), tmp_path)
    name = "model.layers.1.self_attn.q_proj.bias"
    unknown = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8), "model.layers.9.x.bias": torch.ones(8)}
    load_model(retensor(tmp_path, {name: torch.zeros(64), **unknown}))
    with pytest.raises(ModelError, match=rf"{name}: a bias, but config\.json has none") as caught:
        load_model(retensor(tmp_path, {name: torch.ones(64)}))
    assert str(caught.value).count("  - ") == 1


def test_a_tokenizer_with_more_ids_than_rows_is_refused_with_both_sizes() -> None:
    tokenizer = finish(chat_tokenizer(), {}, {}, {})
    last = tokenizer.vocab_size - 1
    check_vocabulary(tokenizer, tokenizer.vocab_size, "m")
    with pytest.raises(ModelError, match=rf"of m has ids up to {last}, .* has {last} rows"):
        check_vocabulary(tokenizer, last, "m")


def with_a_token_too_many(model: Path, folder: Path, name: str, *, special: bool) -> tuple[Path, int]:
    """A copy of a model whose tokenizer has one more token than the embedding has rows, and the number of rows."""
    shutil.copytree(model, folder)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = open_checkpoint(folder).config["vocab_size"]
    names = [name.format(number) for number in range(rows - backend.get_vocab_size() + 1)]
    backend.add_tokens([tokenizers.AddedToken(one, special=special) for one in names])
    backend.save(str(folder / "tokenizer.json"))
    return folder, rows


def test_a_run_and_an_assistant_refuse_such_a_tokenizer(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    folder, rows = with_a_token_too_many(tiny_model, tmp_path / "model", "<|new {}|>", special=False)
    with pytest.raises(ModelError, match=rf"has ids up to {rows}, .* {rows} rows"):
        train(run_config(folder, tiny_data, tmp_path / "run"))
    with pytest.raises(ModelError, match=rf"has ids up to {rows}, .* {rows} rows"):
        make_assistant(load_model(open_checkpoint(folder)), open_checkpoint(folder), None)


def test_a_control_token_without_a_row_keeps_nobody_from_training_and_asking(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Gemma 3's text models have no row for the token of images in their tokenizer."""
    folder, rows = with_a_token_too_many(tiny_model, tmp_path / "model", "<|image {}|>", special=True)
    plain, other = (
        train(run_config(model, tiny_data, tmp_path / name, "train.steps=1")).output
        for name, model in (("plain", tiny_model), ("other", folder))
    )
    assert (plain / WEIGHTS_FILE).read_bytes() == (other / WEIGHTS_FILE).read_bytes()
    assistant = make_assistant(load_model(open_checkpoint(folder)), open_checkpoint(folder), None)
    spelled = assistant.encoder.prompt_tokens([{"role": "user", "content": "<|image 0|>"}])
    assert max(spelled) < rows
