"""A tiny chat model as files, rows to train it on, and runs of the command line that can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from helpers.processes.forking import Ended, ForkServer
from veneer.config import RunConfig, parse
from veneer.config.values import override
from veneer.data.encoded.chat import Example
from veneer.data.encoded.encoding import encode_all
from veneer.data.records import read_records

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat_tokenizer() -> Tokenizer:
    """A byte-level BPE of about 300 tokens with ChatML's control tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["user assistant system\nWhat is the parcel number? It is {count}.\n" * 3], trainer)
    return backend


def write_model(path: Path, *, seed: int = 0, hidden: int = 64, tied: bool = True) -> Path:
    """A random Llama with its tokenizer, as a Hugging Face directory."""
    backend = chat_tokenizer()
    config = LlamaConfig(
        vocab_size=backend.get_vocab_size(),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=2,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.08)
    model.save_pretrained(path)
    backend.save(str(path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Different conversations of different length."""
    source = random.Random(seed)
    found = []
    for number in range(count):
        words = " ".join(source.choices(["parcel", "crate", "late", "blue", "the", "of"], k=source.randint(1, 6)))
        answer = json.dumps({"count": number % 7, "word": source.choice(["late", "blue"])})
        found.append(
            {"messages": [{"role": "user", "content": f"{number}: {words}?"}, {"role": "assistant", "content": answer}]}
        )
    return found


def write_rows(path: Path, content: Sequence[Any]) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return path


def run_config(model: Path, data: Path, output: Path, *assignments: str) -> RunConfig:
    """A LoRA run in float32 on one thread, with `key=value` settings laid over it."""
    values = {
        "model": str(model),
        "output": str(output),
        "method": "lora",
        "data": {"file": str(data)},
        "lora": {"rank": 4, "alpha": 8.0},
        "train": {"learning_rate": 0.01},
        "compute": {"device": "cpu", "dtype": "float32", "threads": 1},
    }
    return parse(override(values, assignments), where="the test")


def examples(model: Path, data: Path) -> list[Example]:
    """The rows of a file, encoded by our own path."""
    from veneer.enums import Overlong
    from veneer.io.tokenizer import from_directory

    return encode_all(read_records(data), from_directory(model), max_length=None, overlong=Overlong.DROP).examples


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


class CommandLine:
    """`veneer` in processes of its own, forked from one that has imported everything."""

    def __init__(self, folder: Path, forks: ForkServer):
        self._folder, self._forks, self._runs = folder, forks, 0

    def run(
        self,
        *argv: str,
        after: float | None = None,
        when: Path | None = None,
        holds: str = "",
        sent: int = signal.SIGKILL,
        limits: Mapping[str, int] = MappingProxyType({}),
        screen: str = "",
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> Ended:
        """Run a command; send it a signal `after` so many seconds, or as soon as the file `when` has the text `holds`
        (any by default). A command that has files written to the disk waits there for a kill of the second kind. What
        it prints goes to the terminal `screen` where that is named; `limits` and `environment` are as in
        `ForkServer.start`."""
        self._runs += 1
        out, err = (self._folder / f"{self._runs}.{kind}" for kind in ("out", "err"))
        for file in (out, err):
            file.touch()  # a process that is signalled at once has not opened them yet
        until = (when, holds) if when is not None and sent == signal.SIGKILL else None
        pid = self._forks.start(argv, screen or out, screen or err, environment=environment, limits=limits, until=until)
        if when is not None:
            end = time.monotonic() + 30
            while time.monotonic() < end and not (
                when.is_file() and when.stat().st_size and holds in when.read_text("utf-8", "replace")
            ):
                time.sleep(0.002)
        if after is not None:
            time.sleep(after)
        if after is not None or when is not None:
            # The process cannot be gone and its number taken: the server collects it only afterwards, or it is ours.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sent)
        code = self._forks.wait(pid)
        if screen:
            return Ended(code, "", "")
        return Ended(code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))
