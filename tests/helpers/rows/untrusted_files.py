"""Every reader of files that strangers make, as one function of bytes; and sound files to begin damage from.

The property-based tests of `tests/faults` and the fuzzer (`make fuzz`) share them.
"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from helpers.models.tiny import rows, write_model
from helpers.texts.tiny_tokenizers import write_vocabulary_gguf
from veneer.adapters.files.store import save_adapter
from veneer.adapters.inject import inject
from veneer.adapters.load import load_adapter
from veneer.adapters.spec import LoraSpec
from veneer.backends.describe import describe_model
from veneer.config import parse
from veneer.config.values import read_yaml
from veneer.data.records import read_file
from veneer.data.templates.bounded_template import BoundedTemplate
from veneer.data.templates.template import ChatTemplate
from veneer.enums import Backend
from veneer.errors import AdapterError, ConfigError, DataError, ModelError, VeneerError
from veneer.io.checkpoint import open_checkpoint, read_model_config
from veneer.io.gguf.reader import GgufCheckpoint
from veneer.io.tokenizer import from_directory
from veneer.loading.how import Loading
from veneer.loading.load import load_model

CHAT = ({"role": "user", "content": "How? <|im_end|>"}, {"role": "assistant", "content": "So."})
TEXTS = ("abc <s> cab", "a <|im_end|>é 漢\n", "", "a" * 60 + "!")


@dataclass(frozen=True)
class Reader:
    """One kind of file, and how veneer reads it."""

    file: str
    """Its name in the folder."""
    read: Callable[[Path], object]
    """A function of the folder, which reads the file as the commands do."""
    refusal: type[VeneerError] | tuple[type[VeneerError], ...]
    """The errors by which it may refuse the file."""


def read_gguf(folder: Path) -> None:
    checkpoint = GgufCheckpoint(folder / "model.gguf")
    for name in checkpoint.names():
        checkpoint.read(name, torch.float32)
    use(checkpoint.tokenizer())


def read_safetensors(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    for name in checkpoint.names():
        checkpoint.shape(name)
        checkpoint.read(name, torch.float32)


def read_tokenizer(folder: Path) -> None:
    use(from_directory(folder))


def use(tokenizer: Any) -> None:
    for text in TEXTS:
        tokenizer.decode(tokenizer.encode(text))
        tokenizer.encode_with_offsets(text)
        tokenizer.encode_aliased(text)
    assert isinstance(tokenizer.opening, str)


def read_config(folder: Path) -> None:
    describe_model(read_model_config(folder), Backend.VENEER)
    load_model(open_checkpoint(folder), Loading(dtype=torch.float32))


def read_adapter(folder: Path) -> None:
    load_adapter(load_model(open_checkpoint(folder / "base"), Loading(dtype=torch.float32)), folder / "adapter")


def read_template(folder: Path) -> None:
    """In this process, where a fuzzer sees what it covers; `read_template_apart` is what veneer does."""
    source = (folder / "template.jinja").read_bytes().decode("utf-8", errors="replace")
    ChatTemplate(source, bos_token="<s>").render(CHAT)


def read_template_apart(folder: Path) -> None:
    source = (folder / "template.jinja").read_bytes().decode("utf-8", errors="replace")
    BoundedTemplate(source, tokens={"bos_token": "<s>"}, specials=["<s>"]).render(CHAT)


def data(suffix: str) -> Reader:
    return Reader(f"rows.{suffix}", lambda folder: read_file(folder / f"rows.{suffix}"), DataError)


def read_run_config(folder: Path) -> None:
    parse(read_yaml(folder / "run.yaml"), where="run.yaml")


READERS = {
    "gguf": Reader("model.gguf", read_gguf, ModelError),
    "safetensors": Reader("model.safetensors", read_safetensors, ModelError),
    "index": Reader("sharded/model.safetensors.index.json", lambda f: read_safetensors(f / "sharded"), ModelError),
    "tokenizer": Reader("tokenizer.json", read_tokenizer, ModelError),
    "tokenizer-config": Reader("tokenizer_config.json", read_tokenizer, ModelError),
    "config": Reader("config.json", read_config, ModelError),
    "template": Reader("template.jinja", read_template, DataError),
    "adapter": Reader("adapter/adapter_model.safetensors", read_adapter, AdapterError),
    "adapter-config": Reader("adapter/adapter_config.json", read_adapter, AdapterError),
    "jsonl": data("jsonl"),
    "json": data("json"),
    "csv": data("csv"),
    "parquet": data("parquet"),
    "run-config": Reader("run.yaml", read_run_config, ConfigError),
}


def write_sound_files(folder: Path) -> Path:
    """A folder in which every reader finds a sound file, and what the file needs beside it."""
    write_model(folder, hidden=16)
    _write_gguf(folder / "model.gguf")
    _write_sharded(folder, folder / "sharded")
    _write_adapter(folder)
    _write_rows(folder)
    (folder / "template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{{ m['role'] | upper }}: {{ m.content | trim }}\n"
        "{% if loop.last and not m.tool_calls is defined %}{% set x = namespace(n=1) %}{{ x.n * 2 }}{% endif %}"
        "{% endfor %}"
    )
    (folder / "run.yaml").write_text(
        "model: m\noutput: o\nmethod: lora\ndata: {file: rows.jsonl, held_out: 0.1}\n"
        "lora: {rank: 8, alpha: 16, target_modules: [q_proj]}\ntrain: {learning_rate: 1.0e-4, epochs: 2}\n"
    )
    return folder


def _write_gguf(file: Path) -> None:
    tokens = ["<s>", "</s>", "a", "b", "c", "ab", "abc", "Ġ"]
    kinds = [3, 3, 1, 1, 1, 1, 1, 1]
    write_vocabulary_gguf(
        file, tokens, kinds, model="gpt2", pre="gpt-2", merges=["a b", "ab c"], bos_token_id=0, eos_token_id=1
    )


def _write_sharded(model: Path, folder: Path) -> None:
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(model / name, folder / name)
    shutil.copy(model / "model.safetensors", folder / "model-00001-of-00001.safetensors")
    names = open_checkpoint(model).names()
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _write_adapter(folder: Path) -> None:
    (folder / "base").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        shutil.copy(folder / name, folder / "base" / name)
    (folder / "adapter").mkdir()
    model = load_model(open_checkpoint(folder / "base"), Loading(dtype=torch.float32))
    save_adapter(
        folder / "adapter", inject(model, LoraSpec(rank=2, alpha=4.0, target_modules=("q_proj",))), base="base"
    )


def _write_rows(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = [*rows(3), {"prompt": "a é", "completion": "b"}, {"text": "c"}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    (folder / "rows.json").write_text(json.dumps(content[:3]))
    (folder / "rows.csv").write_text('prompt,completion,n\n"two\nlines","a ""b"", c",1\nHi,Yo,\n')
    pq.write_table(pa.Table.from_pylist(rows(3)), folder / "rows.parquet")


# --------------------------------------------------------------------------------------------------------------- damage

NUMBERS = (0, 1, -1, 2, 255, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1, 10**30)
GONE = object()
"""In place of a value: the entry is taken away."""
ODD = (
    *NUMBERS, GONE, None, True, False, 0.5, -0.0, math.inf, -math.inf, math.nan, 1e308, "", "x", "\ud800", "\0",
    "../../x", "/etc/passwd", "²", "9" * 5000, "a" * 10_000, "(a+)+$", "(a|a)*b", "[", "\x1b[2J", [], [[]], [None],
    [2], {}, {"a": {}}, {"": []}, [{}] * 3, json.loads("[" * 200 + "]" * 200),
)  # fmt: skip
"""Values that a field does not have, or that no one has thought of."""


def replaced(tree: Any, turns: Sequence[int], value: Any) -> Any:
    """A copy of a JSON value with another value at a place.

    Args:
        tree: any JSON value.
        turns: the way from the root to the place: at each level one number, which entry is taken.
        value: what stands there afterwards; `GONE` takes the entry away.
    """
    if not turns or not isinstance(tree, dict | list) or not tree:
        return value
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = keys[turns[0] % len(keys)]
    new = replaced(tree[key], turns[1:], value)
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    left = [(k, new if k == key else v) for k, v in pairs if k != key or new is not GONE]
    return dict(left) if isinstance(tree, dict) else [v for _, v in left]


def at(tree: Any, turns: Sequence[int]) -> Any:
    """The value at a place of a JSON value (see `replaced`)."""
    if not turns or not isinstance(tree, dict | list) or not tree:
        return tree
    return at(list(tree.values() if isinstance(tree, dict) else tree)[turns[0] % len(tree)], turns[1:])


def edited(content: bytes, kind: int, place: int, value: int) -> bytes:
    """Bytes with one edit: another byte or bit, a number of eight bytes, bytes away, cut short, or a stretch twice."""
    if not content:
        return bytes([value % 256])
    at = place % len(content)
    match kind % 7:
        case 0:
            return content[:at] + bytes([value % 256]) + content[at + 1 :]
        case 1:
            return content[:at] + bytes([content[at] ^ (1 << value % 8)]) + content[at + 1 :]
        case 2:
            return content[:at] + struct.pack("<Q", NUMBERS[value % 11] % (1 << 64)) + content[at + 8 :]
        case 3:
            return content[:at] + content[at + 1 + value % 16 :]
        case 4:
            return content[:at]
        case 5:
            return content[: at + 1 + value % 64] + content[at:]
        case _:
            return content[:at] + b"[" * (value % 3000) + content[at:]


@contextmanager
def at_most(megabytes: int) -> Iterator[None]:
    """Within the block this process may reserve so many megabytes more than it has; more is a MemoryError."""
    if not os.path.exists("/proc/self/statm"):
        yield
        return
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + (megabytes << 20), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
