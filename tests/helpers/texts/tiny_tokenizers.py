"""Texts and tiny tokenizers for the tests of veneer.io, and GGUF files that hold one."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog, doesn't it? I'll say: they've 12 dogs and 345 cats.",
    "def main(args):\n    for i in range(10):\n\treturn {'a': [1, 2, 3]}  # done\n",
    "Der schnelle braune Fuchs springt über den faulen Hund – große Straße.",
    "Привет, мир! Это проверка. 你好，世界。 こんにちは世界 안녕하세요 שלום עולם مرحبا بالعالم",
    "THE LOUD ONE SHOUTS; CamelCase and snake_case and kebab-case, e.g. x += 1; y = x ** 2 / 3.14",
    "    indented\n\n\n\ttabs and   spaces   everywhere   \r\n",
] * 4

PIECES = [
    "hello", " world", "don't", "WE'LL", "I'd've", "123", "4567890", " 3.14", "1e-5", "½ ² ①", "Ⅷ", "٣٤", "१२३",
    "你好，世界", "こんにちは", "안녕", "שלום", "مرحبا بك", "Привет", "ñandú", "e\u0301a\u0308", "नमस्ते", "ก็ไทย",
    "👨‍👩‍👧‍👦", "🇩🇪", "🏳️‍🌈", "😀", " ", "  ", "     ", "\t", "\t\t", "\n", "\n\n", "\n\n\n ", "\r\n", "\r",
    "\u00a0", "\u3000",
    "\u2028", "\u200b", "\ufeff", "\x00", "\x01", "\x1b[0m", "\x7f", "\x85", "def f(x):\n\treturn x**2", "{'a': [1,2]}",
    "<|im_end|>", "<|im_start|>user\n", "<|endoftext|>", "</s>", "<s>", "<unk>", "<|im_", "end|>", "▁", "$100", "a+b=c",
    "__init__", "`code`", "~^|", "...", "?!", "—“”’", "ǅ", "ﬁ", "Straße", "ſ", "'ſ", "𝔘𝔫𝔦", "\U0010ffff", "�",
    "ab" * 20,
    "CamelCaseWord", "HTTPServer", "iPhone", "xY", "/", "//\n", "http://a.b/c?d=e&f", "\\n", "%", "'", '"', "''s",
]  # fmt: skip
"""What test strings are put together from: every kind of text that tokenizers are known to treat differently."""


def varied_strings(count: int, seed: int = 0) -> list[str]:
    """The pieces one by one, then random sequences of them, `count` strings in all."""
    source = random.Random(seed)
    mixed = ["".join(source.choices(PIECES, k=source.randint(2, 9))) for _ in range(count - len(PIECES))]
    return [*PIECES, *mixed][:count]


# -------------------------------------------------------------------------------------------------- tiny tokenizers


def byte_level_tokenizer(*, vocab_size: int = 500, cut: bool = True) -> Tokenizer:
    """GPT-2's kind, trained on the corpus, with ChatML control tokens and one user-defined token.

    Without `cut` the text is trained on, and encoded, uncut.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS if cut else [*CORPUS, *varied_strings(120, seed=9)], trainer)
    backend.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    return backend


def metaspace_tokenizer(*, vocab_size: int = 600, legacy: bool = False) -> Tokenizer:
    """Llama's kind: spaces become ▁, unknown characters fall back to byte tokens."""
    byte_tokens = [f"<0x{value:02X}>" for value in range(256)]
    trained = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<unk>", "<s>", "</s>", *byte_tokens], show_progress=False
    )
    trained.train_from_iterator(CORPUS, trainer)
    tree = json.loads(trained.to_str())
    tree["added_tokens"] = [token for token in tree["added_tokens"] if not token["content"].startswith("<0x")]
    backend = Tokenizer.from_str(json.dumps(tree))
    if legacy:
        backend.pre_tokenizer = pre_tokenizers.Sequence([])
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend


def save_tokenizer(directory: Path, backend: Tokenizer, config: dict[str, Any]) -> Path:
    """Write a Hugging Face tokenizer directory."""
    directory.mkdir(parents=True, exist_ok=True)
    backend.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config}
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


# ------------------------------------------------------------------------------------------------------- tiny GGUFs


def write_vocabulary_gguf(path: Path, tokens: Sequence[str], types: Sequence[int], **keys: Any) -> Path:
    """A one-layer llama GGUF whose point is its tokenizer; `keys` are metadata keys after ``tokenizer.ggml.``."""
    source = np.random.default_rng(0)
    hidden, inner = 32, 32
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(len(tokens))
    writer.add_token_list(list(tokens))
    writer.add_token_types(list(types))
    for key, value in keys.items():
        name = f"tokenizer.ggml.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        else:
            writer.add_array(name, value)
    shapes = {"token_embd": (len(tokens), hidden), "output_norm": (hidden,)}
    for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        shapes[f"blk.0.{part}"] = (hidden, hidden)
    for part in ("attn_norm", "ffn_norm"):
        shapes[f"blk.0.{part}"] = (hidden,)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", source.standard_normal(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


Tokenize = Callable[[str], list[int]]
