"""Writes `corpus/`: small inputs of every reader that a fuzzer begins from, damage that was found among them.

Run it after a change here: `python tests/faults/make_corpus.py`. What a fuzzer has found goes into `FOUND`.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
sys.path.insert(0, str(CORPUS.parents[1]))

from helpers.gguf.files import header, tensor, text  # noqa: E402
from helpers.texts import hostile_templates  # noqa: E402

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def safetensors(tree: Any, body: bytes = bytes(8), length: int | None = None) -> bytes:
    head = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    return struct.pack("<Q", len(head) if length is None else length) + head + body


def model(**changes: Any) -> bytes:
    bpe = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], **changes}
    return json.dumps({"version": "1.0", "added_tokens": [], "model": bpe}).encode()


def lora(**changes: Any) -> bytes:
    sound = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    return json.dumps({**sound, **changes}).encode()


SEEDS: dict[str, list[bytes]] = {
    "gguf": [
        header(version=1), header(counts=(1 << 62, 0)),
        header(text(b"k") + struct.pack("<IIQ", 9, 9, 1), counts=(0, 1)),
        header(text(b"general.alignment") + struct.pack("<II", 4, 64), counts=(0, 1)),
        header(text(b"k") + struct.pack("<If", 6, 1), counts=(0, 1)),
        header(b"", tensor(b"t", (32,), kind=8), counts=(1, 0)) + bytes(64),
        header(b"", tensor(b"t", (1 << 62, 4)), counts=(1, 0)),
    ],
    "safetensors": [
        safetensors({"a": ENTRY}), safetensors({}, b"", 1 << 63), safetensors({"a": ENTRY, "b": ENTRY}),
        safetensors({"a": {**ENTRY, "shape": [1 << 62, 1 << 62]}}), safetensors(b'{"a":{},"a":{}}'),
    ],
    "adapter": [safetensors({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": ENTRY})],
    "index": [b'{"weight_map": {"a": "../x.safetensors"}}', b'{"weight_map": {"a": "model.safetensors"}}'],
    "tokenizer": [
        model(), model(byte_fallback=True, unk_token="b"),
        json.dumps({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0], ["▁b", -1.5]]}}).encode(),
        json.dumps({"model": {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##",
                              "max_input_chars_per_word": 9, "vocab": {"a": 0, "##b": 1}}}).encode(),
        json.dumps({"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"},
                    "pre_tokenizer": {"type": "Split", "pattern": {"Regex": " ?[^(\\s|[.,])]+"}, "behavior": "Isolated",
                                      "invert": False}, "model": json.loads(model())["model"]}).encode(),
    ],
    "tokenizer-config": [
        b'{"added_tokens_decoder": {"300": {"content": "<x>", "special": true}}, "eos_token": {"content": "<x>"}}',
        b'{"chat_template": [{"name": "default", "template": "x"}], "additional_special_tokens": ["<y>"]}',
    ],
    "config": [
        b'{"model_type": "qwen2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}',
        b'{"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "layer_types": ["full_attention"]}}',
        b'{"model_type": "llama", "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}}',
        b'{"model_type": "llama", "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}',
    ],
    "template": [source.encode() for source in (*hostile_templates.COUNTED[:6], *hostile_templates.SHOWN[:2])],
    "adapter-config": [
        lora(), lora(target_modules=".*(q|v)_proj", rank_pattern={"q_proj": 2}, use_dora=True),
        lora(modules_to_save=["lm_head"], layers_to_transform=[0], exclude_modules=["v_proj"], bias="lora_only"),
        lora(target_modules=["embed_tokens"], trainable_token_indices={"embed_tokens": [1]}, ensure_weight_tying=True),
    ],
    "jsonl": [
        b'\xef\xbb\xbf{"text": "a"}\r\n{"instruction": "a", "input": "", "output": "b"}',
        b'{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}',
        b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "assistant", '
        b'"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}], "tools": [{"function": {"name": "f"}}]}',
        b'{"text": "\\ud83d"}\n{"text": "\xff"}',
    ],
    "json": [b'{"data": [{"text": "a"}]}', b'[{"prompt": "a", "completion": "b"}]', b"[" * 300],
    "csv": [b'messages\n"[{""role"": ""user""}]"\n', b"text;category\na;b\n", b'prompt,completion\na,"b\n'],
    "run-config": [b"a: &a [*a]\n", b"model: m\nmodel: n\n", b"train: {learning_rate: .nan}\n"],
}  # fmt: skip
"""Inputs of every kind that a reader tells apart."""

FOUND: dict[str, list[bytes]] = {
    "tokenizer": [
        model(vocab={"a": 0, "b": (1 << 32) - 1}), model(continuing_subword_prefix="ByteLevel"),
        json.dumps({**json.loads(model()), "normalizer": {"type": "Replace", "pattern": {"String": "a"},
                                                          "content": "b" * 2000}}).encode(),
        json.dumps({"model": {"type": "Unigram", "unk_id": None, "vocab": [["▁b", -1.5]]}}).encode(),
    ],
    "tokenizer-config": [
        b'{"added_tokens_decoder": {"\\u00b2": {"content": "x"}}}', b'{"eos_token": "\\ud800"}',
        b'{"additional_special_tokens": 5}', b'{"chat_template": [{"name": [], "template": 1}]}',
    ],
    "config": [b'{"model_type": "llama", "rope_scaling": {"rope_type": []}}'],
    "index": [b'{"weight_map": {"a": "' + b"x" * 300 + b'.safetensors"}}'],
    "adapter-config": [
        lora(target_modules="([a-z._0-9]+)+!"), lora(r=1 << 40), lora(exclude_modules=3), lora(modules_to_save=[1]),
        lora(layers_to_transform="1"), lora(rank_pattern=5), lora(alpha_pattern={"(": 1}), b"[" * 2000,
    ],
}  # fmt: skip
"""Inputs that once had another end than a result or the documented error."""


def main() -> None:
    """Write the corpus anew."""
    shutil.rmtree(CORPUS, ignore_errors=True)
    for kind, inputs in (("seed", SEEDS), ("found", FOUND)):
        for reader, contents in inputs.items():
            (CORPUS / reader).mkdir(parents=True, exist_ok=True)
            for number, content in enumerate(contents):
                (CORPUS / reader / f"{kind}-{number:02d}").write_bytes(content)


if __name__ == "__main__":
    main()
