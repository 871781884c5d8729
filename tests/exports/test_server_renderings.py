"""llama.cpp's server sets a switch and writes arguments anew: a healthy file is not blamed, and a changed one is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.models.tiny import TEMPLATE
from veneer.data.encoded.chat import template_of
from veneer.exports.llama_cpp import LlamaCpp, opened
from veneer.exports.prompts import Prompt
from veneer.exports.server_renderings import ARGUMENTS, ServerRendering, server_rendering
from veneer.io.checkpoint import open_checkpoint
from veneer.io.gguf.encode import Quant
from veneer.io.gguf.model import needed, write_model
from veneer.io.tokenizer import Tokenizer

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reader")

EMPTY = "<think>\n\n</think>\n\n"
QWEN3 = f"{TEMPLATE}{{% if enable_thinking is defined and enable_thinking is false %}}{EMPTY}{{% endif %}}"
CALLS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for call in m['tool_calls'] or [] %}{% set asked = call['function']['arguments'] %}"
    "<tool_call>{{ asked if asked is string else asked | tojson }}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTION: dict[str, Any] = {"role": "user", "content": "hi"}
TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]


@contextmanager
def served(template: str, model: Path, folder: Path) -> Iterator[tuple[LlamaCpp, Tokenizer]]:
    checkpoint = open_checkpoint(model)
    tokenizer = replace(checkpoint.tokenizer(), chat_template=template)
    tensors = ((name, checkpoint.read(name, torch.float32)) for name in needed(checkpoint.config))
    write_model(folder / "m.gguf", checkpoint.config, tokenizer, tensors, Quant.F32)
    with opened(folder / "m.gguf", context=256) as server:
        yield server, tokenizer


def reference(tokenizer: Tokenizer, prompt: Prompt) -> str:
    template = template_of(tokenizer)
    assert template is not None
    assert prompt.messages is not None
    return template.render(prompt.messages, add_generation_prompt=True, tools=prompt.tools)


def test_a_template_that_looks_at_thinking_is_asked_for_as_training_left_it(tiny_model: Path, tmp_path: Path) -> None:
    prompt = Prompt("a:1", (1,), (QUESTION,))
    with served(QWEN3, tiny_model, tmp_path) as (server, tokenizer):
        ours = reference(tokenizer, prompt)
        assert server.render([QUESTION]) == ours + EMPTY
        found = server_rendering(server, tokenizer, prompt, ours)
        assert found.text == ours
        assert found.note is not None
        assert found.note.endswith('ask it with "chat_template_kwargs": {"enable_thinking": true}')
        assert server_rendering(server, tokenizer, prompt, ours + EMPTY) == ServerRendering(ours + EMPTY)
        other = server_rendering(server, tokenizer, prompt, f"{ours} ")
        assert other == ServerRendering(ours + EMPTY), "another text of the file's is not passed over"


@pytest.mark.parametrize(("arguments", "note"), [('{"a":"x"}', ARGUMENTS), ({"a": 1.0}, ARGUMENTS), ({"a": "x"}, None)])
def test_arguments_that_the_server_writes_anew_are_no_fault_of_the_file(
    arguments: object, note: str | None, tiny_model: Path, tmp_path: Path
) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    turns = (
        QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "name": "f", "content": "r"},
    )
    prompt = Prompt("a:1", (1,), turns, TOOLS)
    with served(CALLS, tiny_model, tmp_path) as (server, tokenizer):
        ours = reference(tokenizer, prompt)
        assert server_rendering(server, tokenizer, prompt, ours) == ServerRendering(ours, note)
        changed = ours.replace("<tool_call>", "<call>")
        assert server_rendering(server, tokenizer, prompt, changed).text != changed
