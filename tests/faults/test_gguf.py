"""A GGUF file of a stranger: read, or refused as a ModelError, within two seconds."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path

import pytest
import torch

from helpers.gguf.files import header, tensor, text
from helpers.texts.tiny_tokenizers import write_vocabulary_gguf
from veneer.errors import ModelError
from veneer.io.gguf.header import read_header
from veneer.io.gguf.reader import GgufCheckpoint

BAD = {
    "empty": (b"", "empty"),
    "short magic": (b"GG", "magic number needs"),
    "other magic": (b"GGML" + b"\0" * 40, "does not start"),
    "version 1": (header(version=1), "version is 1"),
    "version 4": (header(version=4), "version is 4"),
    "big-endian": (header(version=3 << 24), "big-endian"),
    "no counts": (header()[:12], "tensor count needs"),
    "many tensors": (header(counts=(1 << 62, 0)), "at most 65536"),
    "many keys": (header(counts=(0, 1 << 62)), "at most 65536"),
    "missing keys": (header(counts=(0, 3)), "needs 8 bytes, but 0 are left"),
    "long key": (header(struct.pack("<Q", 1 << 63), counts=(0, 1)), "at most 65536"),
    "key beyond": (header(struct.pack("<Q", 60000), counts=(0, 1)), "needs 60000 bytes"),
    "key not text": (header(text(b"\xff") + struct.pack("<IB", 0, 1), counts=(0, 1)), "not UTF-8"),
    "key twice": (header((text(b"k") + struct.pack("<IB", 0, 1)) * 2, counts=(0, 2)), "appears twice"),
    "type of value": (header(text(b"k") + struct.pack("<I", 99), counts=(0, 1)), "unknown type 99"),
    "value beyond": (header(text(b"k") + struct.pack("<I", 12), counts=(0, 1)), "needs 8 bytes"),
    "string beyond": (header(text(b"k") + struct.pack("<IQ", 8, (1 << 64) - 1), counts=(0, 1)), "needs 1844674407"),
    "array huge": (header(text(b"k") + struct.pack("<IIQ", 9, 0, 1 << 60), counts=(0, 1)), "at most 4194304"),
    "array beyond": (header(text(b"k") + struct.pack("<IIQ", 9, 10, 1 << 20), counts=(0, 1)), "needs 8388608 bytes"),
    "strings beyond": (header(text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 20), counts=(0, 1)), "ends after 0 of"),
    "nested array": (header(text(b"k") + struct.pack("<IIQ", 9, 9, 1), counts=(0, 1)), "nested"),
    "alignment 3": (header(text(b"general.alignment") + struct.pack("<II", 4, 3), counts=(0, 1)), "power of two"),
    "alignment 0": (header(text(b"general.alignment") + struct.pack("<II", 4, 0), counts=(0, 1)), "power of two"),
    "alignment real": (header(text(b"general.alignment") + struct.pack("<If", 6, 32), counts=(0, 1)), "power of two"),
    "rank 0": (header(b"", tensor(b"t", ()), counts=(1, 0)), "0 dimensions"),
    "rank 9": (header(b"", tensor(b"t", (1,), rank=9), counts=(1, 0)), "9 dimensions"),
    "extent 0": (header(b"", tensor(b"t", (0, 4)), counts=(1, 0)), "cannot fill"),
    "kind": (header(b"", tensor(b"t", (4,), kind=77), counts=(1, 0)), "unknown type 77"),
    "part of a block": (header(b"", tensor(b"t", (33,), kind=8), counts=(1, 0)), "cannot fill"),
    "product overflows": (header(b"", tensor(b"t", (1 << 62, 1 << 62, 4)), counts=(1, 0)), "beyond the end"),
    "offset unaligned": (header(b"", tensor(b"t", (4,), offset=5), counts=(1, 0)), "not a multiple"),
    "offset beyond": (header(b"", tensor(b"t", (4,), offset=1 << 40), counts=(1, 0)), "beyond the end"),
    "size beyond": (header(b"", tensor(b"t", (64,)), counts=(1, 0)) + b"\0" * 64, "beyond the end"),
    "tensor twice": (header(b"", tensor(b"t", (4,)) * 2, counts=(2, 0)) + b"\0" * 96, "appears twice"),
    "long name": (header(b"", tensor(b"t" * 300, (4,)), counts=(1, 0)), "at most 256"),
    "overlap": (
        header(b"", tensor(b"t", (16,)) + tensor(b"u", (8,), offset=32), counts=(2, 0)) + b"\0" * 128, "overlap",
    ),
    "no architecture": (header(), "architecture None"),
}  # fmt: skip


@pytest.mark.scenario(number=30)
@pytest.mark.parametrize("kind", list(BAD))
def test_bad_files_are_refused(kind: str, tmp_path: Path) -> None:
    content, message = BAD[kind]
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        GgufCheckpoint(tmp_path / "m.gguf")


@pytest.mark.scenario(number=30)
@pytest.mark.repeated
def test_random_mutations_raise_only_model_errors(tmp_path: Path, rounds: int) -> None:
    file = tmp_path / "m.gguf"
    merges = ["a b", "ab c"]
    tokens = ["<s>", "</s>", "a", "b", "c", "ab", "abc", "Ġ"]
    write_vocabulary_gguf(
        file, tokens, [3, 3, 1, 1, 1, 1, 1, 1], model="gpt2", pre="gpt-2", merges=merges, bos_token_id=0, eos_token_id=1
    )
    whole = file.read_bytes()
    end = min(info.offset for info in read_header(file).tensors.values())
    source = random.Random(rounds)
    refused = 0
    slowest = 0.0
    for _ in range(500 * rounds):
        content = bytearray(whole)
        for _ in range(source.randint(1, 4)):
            at = source.randrange(end)
            action = source.randrange(5)
            if action == 0:
                content[at] = source.randrange(256)
            elif action == 1:
                content[at] ^= 1 << source.randrange(8)
            elif action == 2:
                content[at : at + 8] = struct.pack(
                    "<Q", source.choice([0, 1, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1])
                )
            elif action == 3:
                del content[at : at + source.randint(1, 16)]
            else:
                del content[source.randrange(len(content)) :]
                break
            if len(content) <= end:
                break
        file.write_bytes(content)
        start = time.process_time()
        try:
            model = GgufCheckpoint(file)
            for name in model.names():
                model.read(name, torch.float32)
            model.tokenizer().encode("abc <s> cab")
        except ModelError:
            refused += 1
        slowest = max(slowest, time.process_time() - start)
    assert refused > 250 * rounds
    assert slowest < 2.0
