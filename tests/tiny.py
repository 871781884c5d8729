"""A tiny chat model as files, rows to train it on, and runs of the command line that can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from forking import ForkServer
from veneer.config import RunConfig, parse
from veneer.config.values import override
from veneer.data.chat import Example
from veneer.data.encoding import encode_all
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


@dataclass
class Ended:
    """How a run of the command line ended."""

    code: int
    """Exit status; minus the signal's number where one ended it."""
    out: str
    err: str


_FORKER = """
import json, os, resource, sys
import torch
import torch._dynamo  # what torch.optim imports at its first use: 1.3 of the 1.8 seconds of a first run
import veneer.cli, veneer.screens.train, veneer.training.run
from veneer.signals import end_by_signals
torch.set_num_threads(1)
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.environ.update(order["environment"])
        for name, value in order["limits"].items():
            resource.setrlimit(getattr(resource, name), (value, value))
        for number, path in ((0, os.devnull), (1, order["out"]), (2, order["err"])):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
        code = 1
        try:
            end_by_signals(lambda: veneer.cli.main(order["argv"]))
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(pid, flush=True)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class CommandLine:
    """`veneer` in processes of its own, forked from one that has imported everything, so that a run takes a second."""

    def __init__(self, folder: Path):
        self._folder, self._runs = folder, 0
        self._server = ForkServer(_FORKER)

    def close(self) -> None:
        self._server.close()

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
        (any by default). `limits` are those of the system, such as `RLIMIT_FSIZE`, in bytes. What it writes goes to the
        terminal `screen` where that is named; `environment` is laid over its own."""
        self._runs += 1
        out, err = (self._folder / f"{self._runs}.{kind}" for kind in ("out", "err"))
        order = {
            "argv": list(argv), "out": screen or str(out), "err": screen or str(err), "limits": dict(limits),
            "environment": dict(environment),
        }  # fmt: skip
        pid = self._server.ask(order)
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
        code = self._server.answer()
        if screen:
            return Ended(code, "", "")
        return Ended(code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))
