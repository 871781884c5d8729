"""The tokens that end an answer are in the file, and llama.cpp ends there and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken
from transformers import LlamaConfig, LlamaForCausalLM

from helpers.gguf.models import SIZES
from helpers.models.tiny import chat_tokenizer
from helpers.texts.tiny_tokenizers import save_tokenizer
from veneer.errors import ModelError
from veneer.exports.llama_cpp import opened
from veneer.io.checkpoint import open_checkpoint
from veneer.io.gguf.encode import Quant
from veneer.io.gguf.ends import read_ends, write_ends
from veneer.io.gguf.metadata import Metadata
from veneer.io.gguf.model import needed, write_model
from veneer.io.gguf.tokenizer import from_gguf
from veneer.io.gguf.vocabulary import write_vocabulary
from veneer.io.tokenizer import Tokenizer, from_directory

DONE, ROWS = "<|done|>", 304
TOKENS = ["a", "b", "c", "d", "<|im_end|>", "e"]


def roles(*ends: int, eos: int | None, unused: int | None = None, written: bool = False) -> dict[str, object]:
    return dict(write_ends(TOKENS, ends, eos=eos, unused=unused, eos_written=written))


def test_ends_beside_eos_get_roles_unless_llama_cpp_knows_their_text() -> None:
    assert roles(0, 4, eos=0) == {"eos_token_id": 0}
    assert roles(0, 3, 1, 99, eos=0) == {"eos_token_id": 0, "eot_token_id": 1, "eom_token_id": 3}
    with pytest.raises(ModelError, match=r"'b' \(1\), 'c' \(2\), 'd' \(3\); GGUF has places for 2"):
        roles(0, 1, 2, 3, eos=0)


def test_a_file_always_names_an_eos() -> None:
    assert roles(3, 4, eos=None) == {"eos_token_id": 3}
    assert roles(4, eos=None) == {"eos_token_id": 4}
    assert roles(3, eos=None, unused=5, written=True) == {"eos_token_id": 5, "eot_token_id": 3}
    assert roles(eos=None, unused=5) == {"eos_token_id": 5}
    assert roles(eos=None) == {"eos_token_id": 4}
    with pytest.raises(ModelError, match="names no end of text"):
        write_ends(["a", "b"], (), eos=None, unused=None, eos_written=False)


@pytest.mark.parametrize(
    ("tokens", "ends"),
    [
        (("a", "<|end|>", "<|return|>"), [1, 2]),
        (("<|call|>", "<|end|>", "<|return|>"), [0, 2]),
        (("<|calls|>", "<|end|>", "<|flush|>"), [0, 2]),
        (("</s>", "<eos>", "<|im_end|>"), [0, 1, 2]),
        (("</s>", "<|tool_response>", "b"), [1]),
    ],
)
def test_ends_known_by_their_text_are_llama_cpps(tokens: tuple[str, ...], ends: list[int]) -> None:
    assert read_ends(Metadata(Path("m.gguf"), {"tokenizer.ggml.tokens": list(tokens)}, "llama")) == ends


def test_roles_of_a_file_are_ends_and_numbers_beyond_its_tokens_are_not() -> None:
    named = {"eos_token_id": 0, "eot_token_id": 2, "eom_token_id": 17}
    values = {f"tokenizer.ggml.{name}": value for name, value in named.items()}
    assert read_ends(Metadata(Path("m.gguf"), values | {"tokenizer.ggml.tokens": TOKENS}, "llama")) == [0, 2, 4]


def tokenizer(folder: Path, template: str, **names: str) -> Tokenizer:
    backend = chat_tokenizer()
    backend.add_special_tokens([AddedToken(DONE, special=True, normalized=False)])
    return from_directory(save_tokenizer(folder, backend, {**names, "chat_template": template}))


def saying(token: int, folder: Path) -> Path:
    """A model that says one token whatever it is asked."""
    model = LlamaForCausalLM(LlamaConfig(**{**SIZES, "vocab_size": ROWS}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(0.0 if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")) else 1.0)
        model.lm_head.weight[token] = 1.0
    model.save_pretrained(folder)
    return folder


def said(token: int, made: Tokenizer, ends: tuple[int, ...], folder: Path) -> tuple[tuple[int, ...], str]:
    """What llama.cpp says before its answer ends, and how it writes a conversation."""
    checkpoint = open_checkpoint(saying(token, folder / str(token)))
    tensors = ((name, checkpoint.read(name, torch.float32)) for name in needed(checkpoint.config))
    file = folder / f"{token}.gguf"
    write_model(file, checkpoint.config, made, tensors, Quant.F32, ends=ends)
    with opened(file, context=256) as server:
        return server.continued([5, 6], 3).tokens, server.render([{"role": "user", "content": "hi"}])


def test_llama_cpp_ends_an_answer_where_the_model_does(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reference")
    made = tokenizer(tmp_path / "tokenizer", "{{ messages[0]['content'] }}", eos_token="<|endoftext|>")
    done = made.backend.token_to_id(DONE)
    assert said(done, made, (0, done), tmp_path / "named")[0] == ()
    assert said(done, made, (0,), tmp_path / "unnamed")[0] == (done,) * 3


def test_llama_cpp_takes_no_ordinary_token_for_a_role_that_the_tokenizer_does_not_have(tmp_path: Path) -> None:
    """It takes token 11 for bos and eos where a file is silent."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reference")
    made = tokenizer(tmp_path / "tokenizer", "{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}")
    done = made.backend.token_to_id(DONE)
    assert said(11, made, (done,), tmp_path) == ((11,) * 3, "hi")
    assert said(done, made, (done,), tmp_path) == ((), "hi")
    back = from_gguf(write_vocabulary(made, ROWS, (done,)).values)
    assert (back.bos_token, back.eos_token) == (None, None)
