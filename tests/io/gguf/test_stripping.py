"""Whitespace behind control tokens is taken by llama.cpp as the tokenizer takes it, whatever a model is called."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from helpers.models.tiny_models import saved, tiny_llama
from helpers.texts.tiny_tokenizers import Tokenize
from veneer.io.gguf.encode import Quant
from veneer.io.gguf.header import read_header
from veneer.io.gguf.model import needed, write_model
from veneer.io.gguf.reader import GgufCheckpoint
from veneer.io.gguf.stripping import END, KEEPING, NAME, strip_notes, stripping_name, strips
from veneer.io.tokenizer import Tokenizer, from_directory

TEXTS = ["a<|im_start|> \n b", "x <|endoftext|> y</s>  z<s> q", "<|im_end|>\n\n<|im_start|>\nuser", "no control  token"]


def tokenizer(base: Path, folder: Path, *, taking: str) -> Tokenizer:
    """A tokenizer with the tokens of Phi-3, that takes whitespace behind `all` others, `some` or `none`."""
    shutil.copytree(base, folder)
    file = folder / "tokenizer.json"
    backend = Backend.from_file(str(file))
    backend.add_special_tokens([AddedToken(token, special=True) for token in sorted(KEEPING | {END})])
    tree = json.loads(backend.to_str())
    for token in tree["added_tokens"]:
        token["rstrip"] = {
            "all": token["content"] not in KEEPING, "some": token["content"] == "<|im_end|>", "none": False,
        }[taking]  # fmt: skip
    file.write_text(json.dumps(tree), encoding="utf-8")
    return from_directory(folder)


@pytest.mark.parametrize(
    ("taking", "name", "written"),
    [
        ("all", "my model", "my model phi-3"), ("all", "Phi-3-mini", "Phi-3-mini"), ("all", "", "phi-3"),
        ("none", "my model", "my model"), ("none", "my-Phi3-tune", "my-phi 3-tune"), ("none", "phi-3", "phi 3"),
        ("some", "phi3", "phi 3"),
    ],
)  # fmt: skip
def test_the_name_says_what_the_tokenizer_does(
    taking: str, name: str, written: str, tiny_model: Path, tmp_path: Path
) -> None:
    made = tokenizer(tiny_model, tmp_path / "made", taking=taking)
    assert stripping_name(name, made) == written
    assert strips(written, KEEPING | {END}) == (taking == "all")
    assert ["<|im_end|>" in note for note in strip_notes(made)] == [True] * (taking == "some")


def test_a_name_means_nothing_where_the_tokens_are_missing() -> None:
    assert not strips("phi-3", KEEPING)
    assert not strips(None, KEEPING | {END})


@pytest.mark.parametrize("taking", ["all", "none"])
@pytest.mark.parametrize("name", ["my-model", "my-phi3"])
def test_a_written_file_is_cut_as_the_tokenizer_cuts_by_llama_cpp_and_by_us(
    taking: str, name: str, llama_cpp: Callable[[Path], Tokenize], tiny_model: Path, tmp_path: Path
) -> None:
    made = tokenizer(tiny_model, tmp_path / "made", taking=taking)
    checkpoint = saved(tiny_llama(changes={"vocab_size": made.vocab_size}), tmp_path / "base")
    tensors = ((key, checkpoint.read(key, torch.float32)) for key in needed(checkpoint.config))
    file = tmp_path / "model.gguf"
    write_model(file, checkpoint.config, made, tensors, Quant.F32, name=name)
    wanted = [made.encode(text) for text in TEXTS]
    theirs = llama_cpp(file)
    assert [theirs(text) for text in TEXTS] == wanted
    assert [GgufCheckpoint(file).tokenizer().encode(text) for text in TEXTS] == wanted
    assert isinstance(read_header(file).metadata[NAME], str)
