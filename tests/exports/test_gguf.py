"""GGUF exports of adapters: llama.cpp computes the live adapter, and what it cannot apply is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import MistralConfig

from gguf_models import SIZES, saved_model
from support import smollm2_gguf
from tiny import TEMPLATE, chat_tokenizer, run_config, write_model, write_rows
from tiny import rows as tiny_rows
from tiny_models import packed_logits
from tiny_tokenizers import metaspace_tokenizer, save_tokenizer
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.adapters.store import save_adapter
from veneer.adapters.targets import EMBEDDING
from veneer.config import ComputeSection
from veneer.enums import Bias, Dtype, Init, Scaling, Variant
from veneer.errors import AdapterError, ConfigError, ModelError
from veneer.exports import gguf_adapter
from veneer.exports.certificate import ParityError
from veneer.exports.gguf import MODEL_FILE, write_gguf_base
from veneer.exports.gguf_adapter import ADAPTER_FILE, AdapterType, read_factors, write_gguf_adapter
from veneer.exports.llama_cpp import opened
from veneer.exports.modelfile import frame_of, go_template, write_modelfile
from veneer.exports.request import Target
from veneer.exports.run import export
from veneer.io.checkpoint import open_checkpoint
from veneer.io.gguf.encode import Quant
from veneer.io.tokenizer import from_directory
from veneer.load import load_model
from veneer.model.decoder import CausalLM
from veneer.training.run import train

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)


def adapter_on(base: Path, folder: Path, seed: int = 0, **settings: Any) -> tuple[CausalLM, Path]:
    """A random adapter: the model with it, live, and its folder."""
    model = load_model(open_checkpoint(base), dtype=torch.float32).eval()
    adapter = inject(model, LoraSpec(**({"rank": 4, "alpha": 8.0} | settings)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    folder.mkdir()
    save_adapter(folder, adapter, base=str(base))
    return model, folder


def gap_to(model: CausalLM, file: Path, prompt: list[int], *, adapter: Path | None = None) -> float:
    """The largest difference of llama.cpp's ten best log-probabilities to ours, along four greedy tokens."""
    with opened(file, context=256, adapter=adapter) as server:
        answer = server.continued(prompt, 4)
    with torch.no_grad():
        own = packed_logits(model, [[*prompt, *answer.tokens]]).double().log_softmax(-1)
    return max(
        abs(float(own[len(prompt) - 1 + at, token]) - value)
        for at, step in enumerate(answer.steps)
        for token, value in zip(step.ids, step.logprobs, strict=True)
    )


# -------------------------------------------------------------------------------------------- exports, with certificate


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    output = tmp_path_factory.mktemp("exports") / "lora"
    return train(run_config(tiny_model, tiny_data, output, "train.steps=40")).output


@pytest.mark.parametrize("quant", ["f32", "f16", "bf16", "q8_0"])
def test_a_model_is_exported_with_its_certificate(quant: str, lora: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    record = export(lora, output, to=Target.GGUF, quant=quant, compute=FLOAT32)
    assert record.parity is not None
    assert record.parity.passed
    assert {file.name for file in output.iterdir()} >= {MODEL_FILE, "Modelfile", "export.json", "parity.json"}
    assert (output / "Modelfile").read_text().startswith(f"FROM ./{MODEL_FILE}\nTEMPLATE ")
    assert record.parity.readers[0].reader == "veneer"


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapter_is_exported_with_its_certificate(
    method: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reader")
    trained = train(run_config(tiny_model, tiny_data, tmp_path / "run", f"method={method}", "train.steps=10")).output
    output = tmp_path / "out"
    record = export(trained, output, to=Target.GGUF_ADAPTER, compute=FLOAT32)
    assert record.parity is not None
    assert [one.reader for one in record.parity.readers] == ["llama.cpp"]
    assert {file.name for file in output.iterdir()} >= {ADAPTER_FILE, "Modelfile", "export.json", "parity.json"}
    lines = (output / "Modelfile").read_text().splitlines()
    assert lines[:2] == [f"FROM {tiny_model}", f"ADAPTER ./{ADAPTER_FILE}"]
    assert not list(tmp_path.glob("tmp*"))


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


def test_a_merged_model_in_llama_cpp_is_the_live_adapter(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reference")
    model, folder = adapter_on(tiny_model, tmp_path / "adapter")
    export(folder, tmp_path / "out", to=Target.GGUF, quant="f32", compute=FLOAT32)
    assert gap_to(model, tmp_path / "out" / MODEL_FILE, [5, 40, 77, 120]) < 1e-4
    base = load_model(open_checkpoint(tiny_model), dtype=torch.float32).eval()
    assert gap_to(base, tmp_path / "out" / MODEL_FILE, [5, 40, 77, 120]) > 0.1


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
    back = load_model(open_checkpoint(tmp_path / "out" / MODEL_FILE), dtype=torch.float32).eval()
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


# --------------------------------------------------------------------------------------------------------- adapters

APPLIED: dict[str, dict[str, Any]] = {
    "plain": {},
    "ranks and alphas of single layers": {
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 8}, "alpha_pattern": {"k_proj": 3.0},
    },
    "rslora": {"scaling": Scaling.RSLORA},
    "a start that is subtracted": {"init": Init.OLORA},
    "the head": {"target_modules": ("lm_head", "k_proj")},
}  # fmt: skip


@pytest.mark.parametrize("kind", APPLIED)
def test_an_adapter_in_llama_cpp_is_the_live_one(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reference")
    base = write_model(tmp_path / "base", tied=False)
    model, folder = adapter_on(base, tmp_path / "adapter", **APPLIED[kind])
    export(folder, tmp_path / "out", to=Target.GGUF_ADAPTER, compute=FLOAT32)
    file = tmp_path / "base.gguf"
    write_gguf_base(file, open_checkpoint(base), Quant.F32)
    prompt = [5, 40, 77, 120]
    assert gap_to(model, file, prompt, adapter=tmp_path / "out" / ADAPTER_FILE) < 1e-4
    assert gap_to(model, file, prompt) > 0.05


def test_without_the_permutation_it_is_another_adapter(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reference")
    model, folder = adapter_on(tiny_model, tmp_path / "adapter")
    checkpoint = open_checkpoint(tiny_model)
    file, damaged = tmp_path / "base.gguf", tmp_path / "damaged.gguf"
    write_gguf_base(file, checkpoint, Quant.F32)

    def unturned(tensor: Tensor, heads: int) -> Tensor:
        return tensor

    monkeypatch.setattr(gguf_adapter, "interleaved", unturned)
    _write(damaged, tiny_model, folder)
    assert gap_to(model, file, [5, 40, 77, 120], adapter=damaged) > 0.01
    with pytest.raises(ParityError, match=r"llama\.cpp"):
        export(folder, tmp_path / "out", to=Target.GGUF_ADAPTER, compute=FLOAT32)


def _write(file: Path, base: Path, folder: Path, kind: AdapterType = AdapterType.F32, **options: Any) -> Any:
    from veneer.adapters.store import load_adapter

    checkpoint = open_checkpoint(base)
    adapter = load_adapter(load_model(checkpoint, dtype=torch.float32), folder)
    return write_gguf_adapter(file, adapter, checkpoint.config, kind, **options)


def test_factors_are_folded_so_that_alpha_over_rank_is_every_scale(tiny_model: Path, tmp_path: Path) -> None:
    """Written out by hand: B's rows in llama.cpp's order, and its scale by the file's alpha and its own rank."""
    settings = {"scaling": Scaling.RSLORA, "alpha_pattern": {"q_proj": 5.0}, "rank_pattern": {"q_proj": 2}}
    model, folder = adapter_on(tiny_model, tmp_path / "adapter", **settings)
    written = _write(tmp_path / "a.gguf", tiny_model, folder)
    assert (written.alpha, written.updates, written.folded) == (8.0, 14, 14)
    reader = gguf.GGUFReader(str(tmp_path / "a.gguf"))
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert fields == {
        "general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 8.0,
    }  # fmt: skip
    found = read_factors(tmp_path / "a.gguf")
    assert len(found) == 28
    for leaf, name, rank, alpha, heads in (("q_proj", "attn_q", 2, 5.0, 4), ("v_proj", "attn_v", 4, 8.0, 0)):
        layer: Any = model.get_submodule(f"model.layers.1.self_attn.{leaf}")
        delta = (alpha / rank**0.5) * (layer.lora_B @ layer.lora_A).detach()
        if heads:
            turned = torch.empty_like(delta)
            size = len(delta) // heads
            for head in range(heads):
                for pair in range(size // 2):
                    turned[head * size + 2 * pair] = delta[head * size + pair]
                    turned[head * size + 2 * pair + 1] = delta[head * size + size // 2 + pair]
            delta = turned
        a, b = found[f"blk.1.{name}.weight.lora_a"], found[f"blk.1.{name}.weight.lora_b"]
        assert b.shape[1] == rank
        assert torch.allclose(8.0 / rank * (b @ a), delta, rtol=1e-5, atol=1e-6)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"variant": Variant.DORA}, "DoRA's magnitudes"),
    "saved modules": ({"modules_to_save": ("norm",)}, "model.norm: a module that was trained whole"),
    "tokens": ({"trainable_tokens": {EMBEDDING: (3,)}}, "trained rows of the embedding"),
    "the embedding": ({"target_modules": ("embed_tokens",)}, "an update of the embedding"),
    "a tied head": ({"target_modules": ("lm_head",)}, "a tied head is the embedding"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_llama_cpp_would_leave_out_is_refused(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    settings, message = REFUSED[kind]
    _, folder = adapter_on(tiny_model, tmp_path / "adapter", **settings)
    with pytest.raises(AdapterError, match=f"(?s){message}.*--to gguf"):
        export(folder, tmp_path / "out", to=Target.GGUF_ADAPTER, compute=FLOAT32)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("settings", [{"bias": Bias.ALL}, {"factor_bias": True}], ids=["biases", "a bias of B"])
def test_biases_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**(config | {"attention_bias": True}))).save_pretrained(base)
    _, folder = adapter_on(base, tmp_path / "adapter", target_modules=("q_proj",), **settings)
    with pytest.raises(AdapterError, match="bias"):
        _write(tmp_path / "a.gguf", base, folder)


def test_new_tokens_and_broken_weights_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    _, folder = adapter_on(tiny_model, tmp_path / "adapter")
    with pytest.raises(AdapterError, match="adds some to the vocabulary"):
        _write(tmp_path / "a.gguf", tiny_model, folder, grown=True)
    checkpoint = open_checkpoint(tiny_model)
    adapter = inject(load_model(checkpoint, dtype=torch.float32), LoraSpec(rank=4, alpha=8.0))
    with torch.no_grad():
        next(iter(adapter.updates().values())).lora_A[0, 0] = float("nan")
    with pytest.raises(AdapterError, match="q_proj: NaN or infinite values"):
        write_gguf_adapter(tmp_path / "b.gguf", adapter, checkpoint.config)


@pytest.mark.parametrize("kind", list(AdapterType), ids=lambda kind: kind.value)
def test_every_type_of_factors(kind: AdapterType, tiny_model: Path, tmp_path: Path) -> None:
    _, folder = adapter_on(tiny_model, tmp_path / "adapter")
    written = _write(tmp_path / "a.gguf", tiny_model, folder, kind)
    _write(tmp_path / "exact.gguf", tiny_model, folder)
    found, exact = read_factors(tmp_path / "a.gguf"), read_factors(tmp_path / "exact.gguf")
    for name, factor in exact.items():
        assert float((found[name].float() - factor).norm()) <= 0.01 * float(factor.norm())
    # B's rows of four are too short for blocks of 32.
    assert set(written.kinds) == ({"Q8_0", "F16"} if kind is AdapterType.Q8_0 else {kind.name})
    assert bool(written.notes) is (kind is AdapterType.Q8_0)


# --------------------------------------------------------------------------------------------------------- Modelfile


def templated(tmp_path: Path, template: str, **settings: Any) -> Any:
    folder = tmp_path / "tokenizer"
    folder.mkdir(exist_ok=True)
    chat_tokenizer().save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return from_directory(folder)


def test_a_template_becomes_a_frame_and_a_go_template(tmp_path: Path) -> None:
    tokenizer = templated(tmp_path, TEMPLATE, eos_token="<|im_end|>")
    frame = frame_of(tokenizer)
    assert frame is not None
    assert go_template(frame) == (
        '{{ range .Messages }}{{ if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n'
        "{{ end }}{{ end }}<|im_start|>assistant\n"
    )
    write_modelfile(tmp_path, tokenizer, "./m.gguf")
    text = (tmp_path / "Modelfile").read_text()
    assert text == f'FROM ./m.gguf\nTEMPLATE """{go_template(frame)}"""\nPARAMETER stop "<|im_end|>"\n'


def test_a_default_system_message_is_kept(tmp_path: Path) -> None:
    template = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + TEMPLATE
    frame = frame_of(templated(tmp_path, template))
    assert frame is not None
    assert frame.opening == "<|im_start|>system\nBe kind.<|im_end|>\n"
    assert '{{ if eq (index .Messages 0).Role "system" }}' in go_template(frame)
    conversation = [{"role": "system", "content": "Hush."}, {"role": "user", "content": "Hi"}]
    assert frame.render(conversation) == (
        "<|im_start|>system\nHush.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ strftime_now('%d') }}" + TEMPLATE,
        "{% for m in messages %}{{ loop.index }}: {{ m['content'] }}\n{% endfor %}",
        "{{ messages | length }}" + TEMPLATE,
        "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}",
        "{{ raise_exception('no') }}",
    ],
)
def test_a_template_that_does_more_is_left_out(template: str, tmp_path: Path) -> None:
    tokenizer = templated(tmp_path, template)
    assert frame_of(tokenizer) is None
    write_modelfile(tmp_path, tokenizer, "base", adapter="./a.gguf")
    assert 'TEMPLATE "' not in (tmp_path / "Modelfile").read_text()
    assert "# The chat template does more" in (tmp_path / "Modelfile").read_text()


# ------------------------------------------------------------------------------------------------------------ SmolLM2


@pytest.mark.slow
def test_smollm2_in_float32_is_the_same_model_and_tokenizer(tmp_path: Path) -> None:
    from tiny_tokenizers import varied_strings

    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reference")
    checkpoint = open_checkpoint(smollm2_gguf())
    file = tmp_path / "model.gguf"
    write_gguf_base(file, checkpoint, Quant.F32)
    tokenizer = checkpoint.tokenizer()
    model = load_model(checkpoint, dtype=torch.float32).eval()
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


@pytest.mark.slow
def test_an_adapter_on_smollm2(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reference")
    base = smollm2_gguf()
    model, folder = adapter_on(
        base, tmp_path / "adapter", rank=8, alpha=16.0, target_modules=("q_proj", "k_proj", "v_proj")
    )
    file = tmp_path / "base.gguf"
    write_gguf_base(file, open_checkpoint(base), Quant.F32)
    _write(tmp_path / "a.gguf", base, folder)
    prompt = open_checkpoint(base).tokenizer().encode("The capital of France is")
    assert gap_to(model, file, prompt, adapter=tmp_path / "a.gguf") <= 1e-3
    assert gap_to(model, file, prompt) > 0.1


def test_rows_are_used(tiny_model: Path, lora: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", tiny_rows(3, seed=9))
    record = export(lora, tmp_path / "out", to=Target.GGUF, quant="f32", data=rows, compute=FLOAT32)
    assert record.parity is not None
    assert record.parity.prompts == 3
    assert np.isfinite([one.gap for one in record.parity.readers]).all()
