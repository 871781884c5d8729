"""The llama.cpp runner: the numbers of a clean server for every prompt, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from helpers.models.tiny import write_model
from helpers.models.tiny_models import packed_logits
from helpers.support import smollm2_gguf
from veneer.errors import ConfigError, ModelError
from veneer.exports import llama_cpp
from veneer.exports.gguf import write_gguf_base
from veneer.exports.llama_cpp import opened
from veneer.io.checkpoint import open_checkpoint
from veneer.io.gguf.encode import Quant
from veneer.loading.how import Loading
from veneer.loading.load import load_model

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (pip install 'veneer[llama-cpp]')")
TEXT = "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n"


def lora_gguf(path: Path, model: Path, seed: int) -> Path:
    """A random adapter on the first layer's value projection."""
    source = np.random.default_rng(seed)
    reader = gguf.GGUFReader(str(model))
    (weight,) = [tensor for tensor in reader.tensors if tensor.name == "blk.0.attn_v.weight"]
    wide, out = (int(size) for size in weight.shape)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for leaf, shape in (("a", (4, wide)), ("b", (out, 4))):
        writer.add_tensor(f"{weight.name}.lora_{leaf}", source.standard_normal(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_its_answers_are_those_of_our_own_reader() -> None:
    file = smollm2_gguf()
    checkpoint = open_checkpoint(file)
    tokenizer = checkpoint.tokenizer()
    with opened(file, context=512) as server:
        ids = server.tokenize(TEXT)
        assert ids == tokenizer.encode(TEXT)
        assert server.tokenize(TEXT, special=False) != ids
        assert server.render([{"role": "user", "content": "How many?"}]).endswith(TEXT)
        first = server.logprobs(ids)
        made = server.continued(ids, 6, top=12)
    assert len(made.steps) >= len(made.tokens) > 0
    assert all(len(step.ids) == 12 for step in made.steps)
    assert tokenizer.decode(made.tokens) == made.text
    assert made.steps[0].ids[:10] == first.ids
    assert first.ids[0] == made.tokens[0]
    model = load_model(checkpoint, Loading(dtype=torch.float32)).eval()
    with torch.no_grad():
        ours = packed_logits(model, [ids])[-1].log_softmax(-1)
    # llama.cpp rounds what it multiplies with quantised weights to 8 bits, which costs up to 0.4 nats here.
    assert abs(float(ours[first.ids[0]]) - first.logprobs[0]) < 0.5


@pytest.fixture
def tiny(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model as a GGUF file."""
    write_gguf_base(tmp_path / "tiny.gguf", open_checkpoint(tiny_model), Quant.F32)
    return tmp_path / "tiny.gguf"


def test_nothing_is_left_of_one_prompt_or_adapter_in_the_next(tiny: Path, tmp_path: Path) -> None:
    file = tiny
    adapters = [lora_gguf(tmp_path / f"{seed}.gguf", file, seed) for seed in (1, 2)]
    with opened(file, context=512) as server:
        ids = server.tokenize(TEXT)
        clean = server.logprobs(ids)
        server.continued([*ids[:9], 40, 41, 42], 4)
        assert server.logprobs(ids) == clean
    found = []
    for adapter in (*adapters, adapters[0]):
        with opened(file, adapter=adapter, context=512) as server:
            found.append(server.logprobs(ids))
    assert found[0] == found[2]
    assert len({found[0], found[1], clean}) == 3
    with opened(file, context=512) as server:
        assert server.logprobs(ids) == clean


def test_the_server_is_gone_and_the_terminal_is_clean_whatever_happens(
    tiny: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    children = []

    def use() -> None:
        with opened(tiny, context=64) as server:
            children.append(server._child)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert children[0].poll() is not None
    with opened(tiny, context=64) as server:
        server._child.kill()
        server._child.wait()
        with pytest.raises(ModelError, match=r"does not answer and has ended with code -9"):
            server.tokenize("a")
    assert capfd.readouterr() == ("", "")


def test_what_llama_cpp_cannot_open_is_an_error_that_names_the_file(tiny: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny.read_bytes()[:5000])
    # Its reason is in its messages, which a busy machine may lose: they are written by a thread that starts late.
    with pytest.raises(ModelError, match=r"broken\.gguf: llama\.cpp cannot open it: Failed to init"), opened(broken):
        pass
    with (
        pytest.raises(ModelError, match=r"llama\.cpp refuses /completion(.|\n)*context"),
        opened(tiny, context=64) as server,
    ):
        server.continued([5] * 500, 1)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "installed", lambda name: False)
    with pytest.raises(ConfigError, match=r"pip install 'veneer\[llama-cpp\]'"), opened("model.gguf"):
        pass


def test_tokens_that_end_within_a_character_have_their_distribution_too(tmp_path: Path) -> None:
    """A random model of bytes: the server keeps such probabilities back, and shifts the others."""
    checkpoint = open_checkpoint(write_model(tmp_path / "model"))
    file = tmp_path / "model.gguf"
    write_gguf_base(file, checkpoint, Quant.F32)
    model = load_model(checkpoint, Loading(dtype=torch.float32)).eval()
    parts = 0
    with opened(file, context=256) as server:
        for prompt in ([5, 40, 77], [1, 55, 60, 2, 1], [100, 120, 90], [70, 3]):
            answer = server.continued(prompt, 8)
            parts += "�" in answer.text
            with torch.no_grad():
                own = packed_logits(model, [[*prompt, *answer.tokens]]).log_softmax(-1)[len(prompt) - 1 :]
            assert len(answer.steps) in (len(answer.tokens), len(answer.tokens) + 1)
            for row, step in zip(own, answer.steps, strict=False):
                assert max(abs(float(row[i]) - p) for i, p in zip(step.ids, step.logprobs, strict=True)) < 1e-4
    assert parts
