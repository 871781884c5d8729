"""Adapters exported as GGUF: llama.cpp computes the live adapter, and what it cannot apply is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import peft
import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from helpers.gguf.exports import FLOAT32, adapter_on, gap_to
from helpers.models.tiny import run_config, write_model, write_rows
from helpers.models.tiny_models import tiny
from helpers.rows.preference_rows import pair_rows, pairs
from helpers.support import smollm2_gguf
from veneer.adapters.inject import inject
from veneer.adapters.load import load_adapter
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import EMBEDDING
from veneer.data.micro_batches.prompt_groups import prompt_length
from veneer.enums import Bias, Init, Scaling, Variant
from veneer.errors import AdapterError, ModelError
from veneer.exports import gguf_adapter
from veneer.exports.certificate import ParityError
from veneer.exports.gguf import write_gguf_base
from veneer.exports.gguf_adapter import ADAPTER_FILE, FORMATS, read_factors, write_gguf_adapter
from veneer.exports.request import Target
from veneer.exports.run import export
from veneer.io.checkpoint import open_checkpoint
from veneer.io.gguf.encode import Quant
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.training.run import train


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


def test_an_adapter_that_is_multiplied_by_0_is_exported_in_16_bits(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reader")
    _, folder = adapter_on(tiny_model, tmp_path / "adapter", alpha=0.0)
    record = export(
        folder, tmp_path / "out", model=tiny_model, to=Target.GGUF_ADAPTER, quant="f16", compute=FLOAT32,
        data=tiny_data, limit=1,
    )  # fmt: skip
    assert record.parity is not None
    assert record.parity.passed


APPLIED: dict[str, dict[str, Any]] = {
    "plain": {},
    "ranks and alphas of single layers": {
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 8}, "alpha_pattern": {"k_proj": 3.0},
    },
    "rslora": {"scaling": Scaling.RSLORA},
    "a start that is subtracted": {"init": Init.OLORA},
    "the head": {"target_modules": ("lm_head", "k_proj")},
}  # fmt: skip


@pytest.mark.scenario(number=34)
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


def test_an_adapter_of_preferences_in_llama_cpp_is_the_live_one(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reference")
    rows = write_rows(tmp_path / "pairs.jsonl", pairs(8))
    trained = train(run_config(tiny_model, rows, tmp_path / "run", "objective=dpo", "train.steps=4")).output
    export(trained, tmp_path / "out", to=Target.GGUF_ADAPTER, compute=FLOAT32)
    file, (chosen, *_) = tmp_path / "base.gguf", pair_rows(tiny_model, rows).train
    write_gguf_base(file, open_checkpoint(tiny_model), Quant.F32)
    model = load_model(open_checkpoint(tiny_model), Loading(dtype=torch.float32)).eval()
    load_adapter(model, trained)
    prompt = chosen.tokens[: prompt_length(chosen)].tolist()
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


def _write(file: Path, base: Path, folder: Path, kind: Quant = Quant.F32, **options: Any) -> Any:
    checkpoint = open_checkpoint(base)
    adapter = load_adapter(load_model(checkpoint, Loading(dtype=torch.float32)), folder)
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


@pytest.mark.scenario(number=32)
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
    remedy = "--to peft" if "factor_bias" in settings else "--to gguf"
    with pytest.raises(AdapterError, match=f"(?s)bias.*{remedy}"):
        _write(tmp_path / "a.gguf", base, folder)


def test_a_base_that_gguf_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    vocab = json.loads((base / "config.json").read_text())["vocab_size"]
    tiny("cohere", changes={"vocab_size": vocab, "attention_bias": True}).save_pretrained(base)
    _, folder = adapter_on(base, tmp_path / "adapter", target_modules=("q_proj",))
    with pytest.raises(ModelError, match=r"(?s)cannot be written to GGUF.*attention_bias: True.*--to merged"):
        export(folder, tmp_path / "out", to=Target.GGUF_ADAPTER, compute=FLOAT32)
    assert {entry.name for entry in tmp_path.iterdir()} == {"base", "adapter"}


@pytest.mark.scenario(number=31)
def test_new_tokens_and_broken_weights_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    _, folder = adapter_on(tiny_model, tmp_path / "adapter")
    with pytest.raises(AdapterError, match="adds some to the vocabulary"):
        _write(tmp_path / "a.gguf", tiny_model, folder, grown=True)
    checkpoint = open_checkpoint(tiny_model)
    adapter = inject(load_model(checkpoint, Loading(dtype=torch.float32)), LoraSpec(rank=4, alpha=8.0))
    with torch.no_grad():
        next(iter(adapter.updates().values())).lora_A[0, 0] = float("nan")
    with pytest.raises(AdapterError, match="q_proj: NaN or infinite values"):
        write_gguf_adapter(tmp_path / "b.gguf", adapter, checkpoint.config)


def test_a_vocabulary_that_peft_resized_is_refused_before_anything_is_written(tiny_model: Path, tmp_path: Path) -> None:
    base = LlamaForCausalLM.from_pretrained(tiny_model)
    base.resize_token_embeddings(base.config.vocab_size + 2, mean_resizing=False)
    adapted = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    with pytest.raises(AdapterError, match="adds some to the vocabulary"):
        export(tmp_path / "adapter", tmp_path / "out", model=tiny_model, to=Target.GGUF_ADAPTER, compute=FLOAT32)


@pytest.mark.parametrize("kind", list(FORMATS), ids=lambda kind: kind.value)
def test_every_type_of_factors(kind: Quant, tiny_model: Path, tmp_path: Path) -> None:
    _, folder = adapter_on(tiny_model, tmp_path / "adapter")
    written = _write(tmp_path / "a.gguf", tiny_model, folder, kind)
    _write(tmp_path / "exact.gguf", tiny_model, folder)
    found, exact = read_factors(tmp_path / "a.gguf"), read_factors(tmp_path / "exact.gguf")
    for name, factor in exact.items():
        assert float((found[name].float() - factor).norm()) <= 0.01 * float(factor.norm())
    # B's rows of four are too short for blocks of 32.
    assert set(written.kinds) == ({"Q8_0", "F16"} if kind is Quant.Q8_0 else {kind.name})
    assert bool(written.notes) is (kind is Quant.Q8_0)


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
