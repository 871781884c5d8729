"""Tokenizers written into GGUF metadata: llama.cpp cuts texts as they do, or they are not written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors

from helpers.gguf.models import SIZES, saved_model
from helpers.models.tiny import chat_tokenizer, write_model
from helpers.texts.tiny_tokenizers import byte_level_tokenizer, metaspace_tokenizer, save_tokenizer, varied_strings
from veneer.data.encoded.chat import template_of
from veneer.errors import ModelError
from veneer.exports.llama_cpp import opened
from veneer.io.checkpoint import open_checkpoint
from veneer.io.gguf.encode import Quant
from veneer.io.gguf.model import needed
from veneer.io.gguf.model import write_model as write_gguf
from veneer.io.gguf.tokenizer import CONTROL, UNUSED, USER_DEFINED, from_gguf
from veneer.io.gguf.vocabulary import PUBLISHED, write_vocabulary
from veneer.io.tokenizer import from_directory

SPM = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def read(folder: Path, backend: Tokenizer, **config: Any) -> Any:
    return from_directory(save_tokenizer(folder, backend, config))


def cut_by(expressions: tuple[str, ...], whole_words: bool) -> Tokenizer:
    """A byte-level tokenizer as published ones are: expressions, then bytes."""
    backend = byte_level_tokenizer(cut=False)
    steps: list[Any] = [pre_tokenizers.Split(Regex(one), "isolated") for one in expressions]
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tree = json.loads(backend.to_str())
    tree["model"]["ignore_merges"] = whole_words
    return Tokenizer.from_str(json.dumps(tree))


CUTS = [(expressions, name) for expressions, names in PUBLISHED.items() for name in names]


@pytest.mark.parametrize(("expressions", "name"), CUTS, ids=[name for _, name in CUTS])
def test_published_expressions_have_their_name(expressions: tuple[str, ...], name: str, tmp_path: Path) -> None:
    tokenizer = read(tmp_path, cut_by(expressions, name in ("llama-bpe", "tekken")))
    written = write_vocabulary(tokenizer, 600)
    values = written.values
    assert values["tokenizer.ggml.pre"] == name
    assert any("combining marks" in note for note in written.notes) is (name in ("tekken", "gpt-4o"))
    back = from_gguf(values)
    # llama.cpp knows the case of ASCII letters alone.
    cased = name in ("tekken", "gpt-4o")
    strings = [text for text in varied_strings(200) if text.isascii() or not cased]
    # A token of this text is a control token to llama.cpp, whatever its type.
    for text in (text for text in strings if "</s>" not in text):
        assert back.encode(text) == tokenizer.encode(text), text


def test_byte_level_steps_are_written_out(tmp_path: Path) -> None:
    plain = byte_level_tokenizer()
    assert write_vocabulary(read(tmp_path / "a", plain), 600).values["tokenizer.ggml.pre"] == "gpt-2"
    plain.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    assert write_vocabulary(read(tmp_path / "b", plain), 600).values["tokenizer.ggml.pre"] == "smollm"


def test_tokens_have_their_types_and_roles(tmp_path: Path) -> None:
    backend = byte_level_tokenizer()
    names = ("<|im_start|>", "<|im_end|>")
    ids = [backend.token_to_id(name) for name in names]
    backend.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=list(zip(names, ids, strict=True))
    )
    tokenizer = read(tmp_path, backend, bos_token=names[0], eos_token=names[1], chat_template="{{ messages }}")
    size = backend.get_vocab_size()
    values = write_vocabulary(tokenizer, size + 3).values
    types = values["tokenizer.ggml.token_type"]
    tokens = values["tokenizer.ggml.tokens"]
    assert isinstance(types, list)
    assert isinstance(tokens, list)
    assert (types[ids[0]], types[backend.token_to_id("<tool>")]) == (CONTROL, USER_DEFINED)
    assert types[size:] == [UNUSED] * 3
    assert tokens[size:] == [f"[PAD{size + more}]" for more in range(3)]
    assert (values["tokenizer.ggml.bos_token_id"], values["tokenizer.ggml.eos_token_id"]) == tuple(ids)
    assert values["tokenizer.ggml.add_bos_token"] is True
    assert values["tokenizer.ggml.add_eos_token"] is True
    assert values["tokenizer.chat_template"] == "{{ messages }}"
    back = from_gguf(values)
    assert back.encode("Hi", add_special_tokens=True) == tokenizer.encode("Hi", add_special_tokens=True)


def test_sentence_piece_is_what_llama_cpp_reads(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reference")
    tokenizer = read(tmp_path / "tokenizer", metaspace_tokenizer(legacy=True), **SPM)
    _, checkpoint = saved_model(hf.LlamaConfig(**{**SIZES, "vocab_size": 608}), tmp_path / "model")
    tensors = ((name, checkpoint.read(name, torch.float32)) for name in needed(checkpoint.config))
    write_gguf(tmp_path / "m.gguf", checkpoint.config, tokenizer, tensors, Quant.F16)
    with opened(tmp_path / "m.gguf", context=256) as server:
        for text in varied_strings(200):
            assert server.tokenize(text) == tokenizer.encode(text), text


def test_sentence_piece_without_a_leading_space_is_kept(tmp_path: Path) -> None:
    """Gemma's kind."""
    backend = metaspace_tokenizer(legacy=True)
    backend.normalizer = normalizers.Replace(" ", "▁")
    tokenizer = read(tmp_path, backend, **SPM)
    values = write_vocabulary(tokenizer, 600).values
    assert values["tokenizer.ggml.add_space_prefix"] is False
    back = from_gguf(values)
    for text in varied_strings(120):
        assert back.encode(text) == tokenizer.encode(text), text


def test_a_space_at_the_start_of_the_whole_text_alone_is_left_to_the_text(tmp_path: Path) -> None:
    """llama.cpp puts one behind every control token too, or nowhere; conversations need nowhere."""
    _, checkpoint = saved_model(hf.LlamaConfig(**{**SIZES, "vocab_size": 600}), tmp_path / "model")
    tokenizer = read(tmp_path / "model", metaspace_tokenizer(), **SPM)
    assert tokenizer.opening == "<s>"
    written = write_vocabulary(tokenizer, 600)
    assert written.values["tokenizer.ggml.add_space_prefix"] is False
    assert any("begins with no control token" in note for note in written.notes)
    tensors = ((name, checkpoint.read(name, torch.float32)) for name in needed(checkpoint.config))
    write_gguf(tmp_path / "m.gguf", checkpoint.config, tokenizer, tensors, Quant.F16)
    back = from_gguf(written.values)
    with opened(tmp_path / "m.gguf", context=256) as server:
        for text in varied_strings(120):
            conversation = f"<s>{text}</s> {text}<s>"
            assert back.encode(conversation) == tokenizer.encode(conversation), text
            assert server.tokenize(conversation) == tokenizer.encode(conversation), text
        # What the note says: the user's space stands for the tokenizer's.
        assert server.tokenize(" late parcel") == tokenizer.encode("late parcel")


def test_a_space_behind_control_tokens_too_is_kept(tmp_path: Path) -> None:
    """Llama 2's kind."""
    tokenizer = read(tmp_path, metaspace_tokenizer(legacy=True), **SPM)
    assert tokenizer.opening == ""
    assert write_vocabulary(tokenizer, 600).values["tokenizer.ggml.add_space_prefix"] is True


def test_what_gguf_cannot_say_is_refused(tmp_path: Path) -> None:
    backend = byte_level_tokenizer()
    backend.normalizer = normalizers.Lowercase()
    with pytest.raises(ModelError, match="normalises texts by Lowercase"):
        write_vocabulary(read(tmp_path / "a", backend), 600)
    backend = byte_level_tokenizer()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(ModelError, match="puts a space before every text"):
        write_vocabulary(read(tmp_path / "b", backend), 600)
    backend = byte_level_tokenizer()
    ids = backend.token_to_id("<|im_start|>")
    backend.post_processor = processors.TemplateProcessing(
        single="<|im_start|> <|im_start|> $A", special_tokens=[("<|im_start|>", ids)]
    )
    with pytest.raises(ModelError, match="puts more than bos and eos"):
        write_vocabulary(read(tmp_path / "c", backend, bos_token="<|im_start|>"), 600)
    composed = byte_level_tokenizer()
    composed.normalizer = normalizers.NFC()
    assert "composes characters" in write_vocabulary(read(tmp_path / "d", composed), 600).notes[0]


def test_a_pre_tokenizer_that_llama_cpp_lacks_is_refused(tmp_path: Path) -> None:
    backend = chat_tokenizer()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[aeiou]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    folder = write_model(tmp_path / "model")
    backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"\[aeiou\](.|\n)*llama-bpe(.|\n)*--to merged"):
        write_vocabulary(from_directory(folder), 304)


def test_a_vocabulary_that_does_not_fit_is_refused(tokenizer: Path) -> None:
    with pytest.raises(ModelError, match="the embedding 299 rows"):
        write_vocabulary(from_directory(tokenizer), 299)


def test_control_tokens_without_a_row_are_left_out(tmp_path: Path) -> None:
    plain = chat_tokenizer()
    size, tree = plain.get_vocab_size(), json.loads(plain.to_str())
    tree["model"]["vocab"]["<image>"] = size
    longer = Tokenizer.from_str(json.dumps(tree))
    longer.add_special_tokens(["<image>", "<sound>"])
    named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    expected = write_vocabulary(read(tmp_path / "plain", plain, **named), size)
    assert write_vocabulary(read(tmp_path / "longer", longer, **named, pad_token="<image>"), size) == expected


def test_chat_templates_beside_the_default_are_in_the_file_as_llama_cpp_reads_them(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reference")
    loop = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    templates = {"default": loop, "tool_use": "TOOLS {{ tools[0]['function']['name'] }}\n" + loop, "rag": "R"}
    listed = [{"name": name, "template": template} for name, template in templates.items()]
    tokenizer = read(tmp_path / "tokenizer", byte_level_tokenizer(), eos_token="<|im_end|>", chat_template=listed)
    _, checkpoint = saved_model(hf.LlamaConfig(**{**SIZES, "vocab_size": 608}), tmp_path / "model")
    tensors = ((name, checkpoint.read(name, torch.float32)) for name in needed(checkpoint.config))
    write_gguf(tmp_path / "m.gguf", checkpoint.config, tokenizer, tensors, Quant.F16)
    back = open_checkpoint(tmp_path / "m.gguf").tokenizer()
    assert {"default": back.chat_template, **back.named_templates} == templates
    asked: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
    tools = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]
    written = template_of(back)
    assert written is not None
    with opened(tmp_path / "m.gguf", context=256) as server:
        assert server.render(asked) == written.render(asked) == "user: hi\n"
        assert server.render(asked, tools) == written.render(asked, tools=tools) == "TOOLS f\nuser: hi\n"
