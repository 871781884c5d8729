"""Models exported as GGUF: llama.cpp computes the live adapter, and what cannot be written is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from tokenizers import Tokenizer
from transformers import LlamaConfig, MistralConfig

from helpers.gguf.exports import FLOAT32, adapter_on, gap_to
from helpers.gguf.models import CASES, SIZES, saved_model
from helpers.models import tiny
from helpers.models.tiny import rows as tiny_rows
from helpers.models.tiny import run_config, write_rows
from helpers.models.tiny_models import packed_logits
from helpers.support import smollm2_gguf
from helpers.texts.tiny_tokenizers import byte_level_tokenizer, metaspace_tokenizer, save_tokenizer
from veneer.adapters.targets import EMBEDDING
from veneer.enums import Variant
from veneer.errors import ConfigError, ModelError
from veneer.events import ignore
from veneer.exports import gguf as gguf_export
from veneer.exports.gguf import MODEL_FILE, write_gguf_base
from veneer.exports.llama_cpp import opened
from veneer.exports.request import ExportRequest, Target
from veneer.exports.run import export, open_inputs
from veneer.io.checkpoint import open_checkpoint
from veneer.io.gguf.encode import Quant
from veneer.io.post_processor import surround
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.training.run import train


@pytest.mark.parametrize("quant", ["f32", "f16", "bf16", "q8_0"])
def test_a_model_is_exported_with_its_certificate(quant: str, lora: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    record = export(lora, output, to=Target.GGUF, quant=quant, compute=FLOAT32)
    assert record.parity is not None
    assert record.parity.passed
    assert {file.name for file in output.iterdir()} >= {MODEL_FILE, "Modelfile", "export.json", "parity.json"}
    assert (output / "Modelfile").read_text().startswith(f"FROM ./{MODEL_FILE}\nTEMPLATE ")
    assert record.parity.readers[0].reader == "veneer"


def test_a_control_token_that_the_model_has_no_row_for_is_left_out(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = open_checkpoint(folder).config["vocab_size"]
    backend.add_special_tokens([f"<|image {number}|>" for number in range(rows - backend.get_vocab_size() + 1)])
    backend.save(str(folder / "tokenizer.json"))
    trained = train(run_config(folder, tiny_data, tmp_path / "run", "train.steps=1")).output
    record = export(trained, tmp_path / "out", to=Target.GGUF, quant="f32", compute=FLOAT32)
    assert record.parity is not None
    assert record.parity.passed


def test_a_qlora_adapter_is_merged_into_what_it_was_trained_beside(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    trained = train(run_config(tiny_model, tiny_data, tmp_path / "run", "method=qlora", "train.steps=10")).output
    record = export(trained, tmp_path / "out", to=Target.GGUF, quant="f32", compute=FLOAT32)
    assert record.parity is not None
    assert record.merged_into == "dequantised"
    assert any("merged into the dequantised base" in note for note in record.notes)


INSTRUCTED = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "[INST] {{ message['content'] }} [/INST]{% else %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("target", [Target.GGUF, Target.GGUF_ADAPTER])
def test_a_tokenizer_that_spaces_the_start_of_a_text_alone_is_exported(target: Target, tmp_path: Path) -> None:
    """Mistral's kind. Conversations begin with a control token, and get the same ids."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reader")
    base = tmp_path / "base"
    saved_model(MistralConfig(**{**SIZES, "vocab_size": 600}, sliding_window=None), base)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": INSTRUCTED}
    save_tokenizer(base, metaspace_tokenizer(), special)
    _, adapter = adapter_on(base, tmp_path / "adapter")
    rows = write_rows(tmp_path / "rows.jsonl", tiny_rows(4))
    record = export(adapter, tmp_path / "out", to=target, quant="f32", data=rows, compute=FLOAT32)
    assert record.parity is not None
    assert record.parity.readers[-1].reader == "llama.cpp"
    assert target is Target.GGUF_ADAPTER or any("begins with no control token" in note for note in record.notes)


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_template_that_writes_what_the_tokenizer_puts_before_texts_is_exported(written: int, tmp_path: Path) -> None:
    """Llama 3 and Gemma: llama.cpp leaves off the template's bos, and puts it back in tokenizing. Zephyr's template
    writes none, and llama.cpp puts it there: a note says so."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reader")
    base, backend = tmp_path / "base", byte_level_tokenizer()
    saved_model(LlamaConfig(**{**SIZES, "vocab_size": 504}), base)
    surround(backend, "<|im_start|>", None)
    template = "{{ bos_token }}" * written + INSTRUCTED.removeprefix("{{ bos_token }}")
    special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": template}
    save_tokenizer(base, backend, special)
    _, adapter = adapter_on(base, tmp_path / "adapter")
    rows = write_rows(tmp_path / "rows.jsonl", tiny_rows(4))
    record = export(adapter, tmp_path / "out", to=Target.GGUF, quant="f32", data=rows, compute=FLOAT32)
    assert record.parity is not None
    assert [one.renderings_equal for one in record.parity.readers] == [4, 4]
    assert any("begins conversations without <|im_start|>" in note for note in record.notes) is (written == 0)


def test_a_merged_model_in_llama_cpp_is_the_live_adapter(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reference")
    model, folder = adapter_on(tiny_model, tmp_path / "adapter")
    export(folder, tmp_path / "out", to=Target.GGUF, quant="f32", compute=FLOAT32)
    assert gap_to(model, tmp_path / "out" / MODEL_FILE, [5, 40, 77, 120]) < 1e-4
    base = load_model(open_checkpoint(tiny_model), Loading(dtype=torch.float32)).eval()
    assert gap_to(base, tmp_path / "out" / MODEL_FILE, [5, 40, 77, 120]) > 0.1


@pytest.mark.parametrize("target", [Target.GGUF, Target.GGUF_ADAPTER])
def test_what_ends_an_answer_beside_eos_ends_it_in_the_file(target: Target, tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reader")
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    (base / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    _, adapter = adapter_on(base, tmp_path / "adapter")
    record = export(adapter, tmp_path / "out", to=target, quant="f32", compute=FLOAT32)
    assert record.parity is not None
    assert record.parity.readers[-1].reader == "llama.cpp"
    if target is Target.GGUF:
        assert open_checkpoint(tmp_path / "out" / MODEL_FILE).generation_config == {"eos_token_id": [0, 2, 7]}


MERGED: dict[str, dict[str, Any]] = {
    "dora": {"variant": Variant.DORA},
    "a head apart": {"target_modules": ("lm_head", "q_proj")},
    "tokens": {"trainable_tokens": {EMBEDDING: (5, 40)}},
    "saved norms": {"modules_to_save": ("norm", "input_layernorm")},
}


@pytest.mark.parametrize("kind", MERGED)
def test_every_kind_of_adapter_is_merged(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    model, folder = adapter_on(tiny_model, tmp_path / "adapter", **MERGED[kind])
    export(folder, tmp_path / "out", to=Target.GGUF, quant="f32", compute=FLOAT32)
    back = load_model(open_checkpoint(tmp_path / "out" / MODEL_FILE), Loading(dtype=torch.float32)).eval()
    with torch.no_grad():
        difference = packed_logits(back, [[5, 40, 77, 120]]) - packed_logits(model, [[5, 40, 77, 120]])
    assert float(difference.abs().max()) < 1e-4


def test_a_type_that_does_not_exist_is_refused(lora: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--quant q8.*q8_0.*f32, f16, bf16, q8_0, q4_0, q4_k_m"):
        export(lora, tmp_path / "out", to=Target.GGUF, quant="q8", compute=FLOAT32)
    with pytest.raises(ConfigError, match="GGUF adapters are written in f32, f16, bf16, q8_0"):
        export(lora, tmp_path / "out", to=Target.GGUF_ADAPTER, quant="q4_k_m", compute=FLOAT32)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_refused_half_way_leaves_nothing(tiny_model: Path, tmp_path: Path) -> None:
    """A merged value that float16 does not hold is met when most of the file is written."""
    _, folder = adapter_on(tiny_model, tmp_path / "adapter", alpha=8e7)
    with pytest.raises(ModelError, match="bf16 or f32"):
        export(folder, tmp_path / "out", to=Target.GGUF, quant="f16", compute=FLOAT32)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["adapter"]


@pytest.mark.slow
def test_smollm2_in_float32_is_the_same_model_and_tokenizer(tmp_path: Path) -> None:
    from helpers.texts.tiny_tokenizers import varied_strings

    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reference")
    checkpoint = open_checkpoint(smollm2_gguf())
    file = tmp_path / "model.gguf"
    write_gguf_base(file, checkpoint, Quant.F32)
    tokenizer = checkpoint.tokenizer()
    model = load_model(checkpoint, Loading(dtype=torch.float32)).eval()
    prompts = [tokenizer.encode(text) for text in varied_strings(200, seed=3)[80:100]]
    gaps = []
    with opened(file, context=512) as server:
        for text in varied_strings(200):
            assert server.tokenize(text) == tokenizer.encode(text), text
        for prompt in prompts:
            answer = server.logprobs(prompt)
            with torch.no_grad():
                own = packed_logits(model, [prompt])[-1].double().log_softmax(-1)
            gaps += [abs(float(own[token]) - value) for token, value in zip(answer.ids, answer.logprobs, strict=True)]
    assert len(prompts) == 20
    assert max(gaps) <= 1e-3


def test_the_prompts_of_the_given_rows_are_compared(tiny_model: Path, lora: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", tiny_rows(3, seed=9))
    record = export(lora, tmp_path / "out", to=Target.GGUF, quant="f32", data=rows, compute=FLOAT32)
    assert record.parity is not None
    assert record.parity.prompts == 3
    assert np.isfinite([one.gap for one in record.parity.readers]).all()


@pytest.mark.parametrize("case", ["llama3 rope", "phi3 longrope"])
def test_rope_divisors_and_the_modelfile_are_compared_although_no_answer_shows_them(case: str, tmp_path: Path) -> None:
    """The divisors are tensors of the file and none of the model; the long ones act behind the first 256 tokens."""
    base = tmp_path / "base"
    saved_model(CASES[case](), base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny.write_model(tmp_path / "tiny") / name, base / name)
    _, adapter = adapter_on(base, tmp_path / "adapter")
    output = tmp_path / "out"
    inputs = open_inputs(ExportRequest(adapter=adapter, output=output, model=str(base), to=Target.GGUF), ignore)
    output.mkdir()
    record = gguf_export.write(inputs, output)

    def problems() -> list[str]:
        return list(gguf_export.checks(inputs, output, record).settings())

    assert problems() == []
    reader = GGUFReader(str(output / MODEL_FILE), "r+")
    last = [tensor for tensor in reader.tensors if tensor.name.startswith("rope_")][-1]
    last.data[-1] *= 1.001
    reader.data.flush()
    (line,) = problems()
    assert line.startswith(f"{last.name}[{len(last.data) - 1}]: is ")
    last.data[-1] /= 1.001
    reader.data.flush()
    file = output / "Modelfile"
    file.write_text(file.read_text().replace('stop "<|im_end|>"', 'stop "<|im_and|>"'))
    (line,) = problems()
    assert line.startswith("Modelfile")
    assert "im_and" in line or "and|>" in line
