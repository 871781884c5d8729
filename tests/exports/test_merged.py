"""Merging: the exported model is the adapter's, to one rounding, and the base is what it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM

from helpers.models.tiny import chat_tokenizer, run_config, tree, write_model
from helpers.models.tiny_mixtures import tiny_mixture
from helpers.models.tiny_models import documents, largest_difference, packed_logits
from veneer.adapters.files.store import read_tensors
from veneer.assistant.load import open_assistant
from veneer.config import ComputeSection, QuantSection
from veneer.enums import Dtype, Method
from veneer.evaluation.report import Report
from veneer.evaluation.run import evaluate
from veneer.exports.base import MergeBase, TrainingBase, open_source
from veneer.exports.merge import write_merged
from veneer.exports.merged import STORED, UNMEASURED
from veneer.exports.record import CARD_FILE, PARITY_FILE, RECORD_FILE
from veneer.exports.request import StoredDtype, Target
from veneer.exports.run import export
from veneer.io.checkpoint import open_checkpoint
from veneer.quant.four_bit import QuantLinear
from veneer.quantization import quantize
from veneer.training.run import train

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)
KINDS = {
    StoredDtype.FLOAT32: torch.float32,
    StoredDtype.BFLOAT16: torch.bfloat16,
    StoredDtype.FLOAT16: torch.float16,
}


def exact(model: Path, adapter: Path, base: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """W + (alpha / rank) B A of every adapted layer in float64."""
    weights = base or load_file(model / "model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    factors = read_tensors(adapter)
    scale = config["lora_alpha"] / config["r"]
    sums = {}
    for name in factors:
        if name.endswith(".lora_A.weight"):
            path = name.removesuffix(".lora_A.weight")
            update = factors[f"{path}.lora_B.weight"].double() @ factors[name].double()
            sums[f"{path}.weight"] = weights[f"{path}.weight"].double() + scale * update
    return sums


@pytest.mark.parametrize("dtype", KINDS)
def test_every_weight_is_the_exact_sum_rounded_once(
    dtype: StoredDtype, tiny_model: Path, lora: Path, tmp_path: Path
) -> None:
    record = export(lora, tmp_path / "out", model=str(tiny_model), dtype=dtype)
    found = load_file(tmp_path / "out" / "model.safetensors")
    base = load_file(tiny_model / "model.safetensors")
    sums = exact(tiny_model, lora)
    assert found.keys() == base.keys() - {"lm_head.weight"}
    assert record.written.changed == len(sums) == 14
    for name, tensor in found.items():
        assert tensor.dtype == KINDS[dtype]
        if name in sums:
            # The order of float64 sums cannot be seen in float32.
            assert torch.equal(tensor, sums[name].float().to(KINDS[dtype])), name
            half_step = torch.finfo(KINDS[dtype]).eps / 2
            # Below the smallest normal number of float16 the steps stop shrinking.
            bound = half_step * (1 + 1e-3) * sums[name].abs().clamp(min=torch.finfo(KINDS[dtype]).tiny)
            assert bool(((tensor.double() - sums[name]).abs() <= bound).all()), name
        else:
            assert torch.equal(tensor, base[name].to(KINDS[dtype])), name


def test_transformers_computes_what_the_live_adapter_does(tiny_model: Path, lora: Path, tmp_path: Path) -> None:
    export(lora, tmp_path / "out", model=str(tiny_model), dtype=StoredDtype.FLOAT32)
    merged = LlamaForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    base = LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    texts = [torch.tensor([text]) for text in documents([7, 33, 12], vocab=200)]
    with torch.no_grad():
        plain = [base(input_ids=text).logits for text in texts]
        live = PeftModel.from_pretrained(base, lora).eval()
        for text, before in zip(texts, plain, strict=True):
            ours = merged(input_ids=text).logits
            assert largest_difference(ours, live(input_ids=text).logits) < 2e-5
            assert largest_difference(ours, before) > 1e-2
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    asked = [{"role": "user", "content": "where?"}]
    assert tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>user\nwhere?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_without_rows_a_qlora_adapter_goes_into_the_base_that_it_saw(
    tiny_model: Path, qlora: Path, tiny_data: Path, tmp_path: Path
) -> None:
    record = export(qlora, tmp_path / "out", model=str(tiny_model), dtype=StoredDtype.FLOAT32)
    assert record.merged_into == "dequantised"
    assert record.notes == [UNMEASURED]
    assert record.measured is None
    base = load_file(tiny_model / "model.safetensors")
    for name, tensor in base.items():
        if name.startswith("model.layers.") and tensor.dim() == 2:
            base[name] = QuantLinear.from_weight(tensor).dequantize(torch.float32)
    found = load_file(tmp_path / "out" / "model.safetensors")
    sums = exact(tiny_model, qlora, base)
    for name, tensor in found.items():
        assert torch.equal(tensor, sums[name].float() if name in sums else base[name]), name
    # What was measured live is what the file computes, to rounding.
    live = evaluate(str(tiny_model), tiny_data, adapter=qlora, compute=FLOAT32, max_new_tokens=1)
    again = evaluate(str(tmp_path / "out"), tiny_data, compute=FLOAT32, max_new_tokens=1)
    losses = [next(one.value for one in found if one.name == "loss") for found in (live.adapter, again.base)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_layers_that_a_qlora_adapter_leaves_alone_are_the_decoded_ones_too(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    settings = ("method=qlora", "train.steps=2", "lora.target_modules=[q_proj]")
    adapter = train(run_config(tiny_model, tiny_data, tmp_path / "run", *settings)).output
    export(adapter, tmp_path / "out", model=str(tiny_model), dtype=StoredDtype.FLOAT32)
    name = "model.layers.1.mlp.up_proj.weight"
    found = load_file(tmp_path / "out" / "model.safetensors")[name]
    original = load_file(tiny_model / "model.safetensors")[name]
    assert torch.equal(found, QuantLinear.from_weight(original).dequantize(torch.float32))
    assert not torch.equal(found, original)


def test_with_rows_both_bases_are_measured_and_the_better_is_kept(
    tiny_model: Path, qlora: Path, tiny_data: Path, tmp_path: Path
) -> None:
    record = export(
        qlora, tmp_path / "out", model=str(tiny_model), dtype=StoredDtype.FLOAT32, data=tiny_data, compute=FLOAT32
    )
    measured = record.measured
    assert measured is not None
    assert measured.rows == 20
    losses = {name: one.loss for name, one in measured.merged.items()}
    assert losses.keys() == {"original", "dequantised"}
    assert record.merged_into == min(losses, key=lambda name: losses[name])
    report = evaluate(str(tiny_model), tiny_data, adapter=qlora, compute=FLOAT32, max_new_tokens=1)
    loss = next(one for one in report.comparison if one.name == "loss")
    assert (measured.base, measured.adapter) == pytest.approx((loss.base, loss.adapter), abs=1e-6)
    assert losses["dequantised"] == pytest.approx(measured.adapter, abs=1e-5)
    for base in MergeBase:
        folder = tmp_path / base.value
        folder.mkdir()
        trained = TrainingBase(True, QuantSection(), torch.float32)
        write_merged(folder, open_source(open_checkpoint(tiny_model), qlora, base, trained), torch.float32)
        again = evaluate(str(folder), tiny_data, compute=FLOAT32, max_new_tokens=1).base
        assert next(one.value for one in again if one.name == "loss") == pytest.approx(losses[base.value], abs=1e-6)
    kept = tree(tmp_path / record.merged_into)
    found = tree(tmp_path / "out")
    assert found.keys() == {*kept, RECORD_FILE, PARITY_FILE, CARD_FILE}
    assert {name: found[name] for name in kept} == kept
    assert measured.between is not None
    assert (measured.between.base, measured.between.adapter) == (losses["dequantised"], losses["original"])


def loss_of(report: Report) -> float:
    return next(one.value for one in report.adapter or report.base if one.name == "loss")


def test_what_quantising_would_leave_is_measured_beside(
    tiny_model: Path, qlora: Path, tiny_data: Path, tmp_path: Path
) -> None:
    record = export(
        qlora, tmp_path / "out", model=str(tiny_model), dtype=StoredDtype.FLOAT32, data=tiny_data, compute=FLOAT32
    )
    assert record.measured is not None
    found = record.measured.requantised
    assert found is not None
    again = evaluate(str(tmp_path / "out"), tiny_data, method=Method.QLORA, compute=FLOAT32, max_new_tokens=1)
    assert found.loss.loss == pytest.approx(loss_of(again), abs=1e-6)
    assert found.loss.difference == pytest.approx(loss_of(again) - record.measured.adapter, abs=1e-6)
    assert found.loss.low <= found.loss.difference <= found.loss.high
    written = json.loads((tmp_path / "out" / RECORD_FILE).read_text())
    assert written == {key: value for key, value in json.loads(json.dumps(record.to_json())).items() if key != "parity"}


def test_nothing_is_measured_in_4_bits_of_a_mixture_whose_files_have_none(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    base, backend = tmp_path / "base", chat_tokenizer()
    tiny_mixture("qwen3_moe", vocab_size=backend.get_vocab_size()).save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).write_bytes((tiny_model / name).read_bytes())
    train(run_config(base, tiny_data, tmp_path / "run", "method=qlora", "train.steps=1"))
    record = export(tmp_path / "run", tmp_path / "out", data=tiny_data, limit=2, compute=FLOAT32)
    assert record.measured is not None
    assert record.measured.requantised is None
    assert len(record.measured.merged) == 2


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_a_mixture_that_transformers_computes_is_merged(
    kind: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    tiny_mixture(kind, vocab_size=chat_tokenizer().get_vocab_size()).save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).write_bytes((tiny_model / name).read_bytes())
    train(run_config(base, tiny_data, tmp_path / "run", "backend=hf", "train.steps=2"))
    record = export(tmp_path / "run", tmp_path / "out", limit=2, compute=FLOAT32)
    assert record.parity.passed
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()


@pytest.mark.parametrize("made", ["lora", "qlora"])
def test_4_bits_are_the_exact_sums_packed_as_transformers_reads_them(
    made: str, request: pytest.FixtureRequest, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    adapter: Path = request.getfixturevalue(made)
    record = export(
        adapter, tmp_path / "out", model=str(tiny_model), to=Target.MERGED_4BIT, data=tiny_data, compute=FLOAT32
    )
    base = load_file(tiny_model / "model.safetensors")
    if record.merged_into == "dequantised":
        decoded = {path: QuantLinear.from_weight(base[f"{path}.weight"]) for path in linear_paths(tiny_model)}
        base |= {f"{path}.weight": layer.dequantize(torch.float32) for path, layer in decoded.items()}
    sums = exact(tiny_model, adapter, base)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    for name, wide in sums.items():
        expected = QuantLinear.from_weight(wide.float())
        module = theirs.get_submodule(name.removesuffix(".weight"))
        assert torch.equal(module.weight.data.flatten(), expected.codes), name
        # bitsandbytes decodes nested scales in another order of operations.
        values = dequantize_4bit(module.weight.data, module.weight.quant_state)
        assert largest_difference(values, expected.dequantize(torch.float32)) < 1e-5
    measured = record.measured
    assert measured is not None
    assert measured.requantised is not None
    kept = measured.merged[record.merged_into]
    assert measured.requantised.loss == kept
    report = evaluate(str(tmp_path / "out"), tiny_data, compute=FLOAT32, max_new_tokens=1)
    assert loss_of(report) == pytest.approx(kept.loss, abs=1e-6)
    assert kept.loss == min(one.loss for one in measured.merged.values())
    assert measured.requantised.survival.share > 0


def linear_paths(model: Path) -> list[str]:
    checkpoint = open_checkpoint(model)
    return [name.removesuffix(".weight") for name in checkpoint.names() if name.endswith("_proj.weight")]


def test_a_base_whose_files_are_quantised_is_the_only_one(
    tiny_model: Path, qlora: Path, tiny_data: Path, tmp_path: Path
) -> None:
    quantize(str(tiny_model), tmp_path / "packed")
    record = export(
        qlora,
        tmp_path / "a",
        model=str(tmp_path / "packed"),
        dtype=StoredDtype.FLOAT32,
        data=tiny_data,
        compute=FLOAT32,
        other_base="allow",  # the same weights in other files
    )
    assert record.notes == [STORED]
    assert record.measured is not None
    assert record.measured.merged.keys() == {"dequantised"}
    export(qlora, tmp_path / "b", model=str(tiny_model), dtype=StoredDtype.FLOAT32)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert "quantization_config" not in json.loads((tmp_path / "a" / "config.json").read_text())


def test_a_lora_adapter_has_one_base_and_no_4_bits(
    tiny_model: Path, lora: Path, tiny_data: Path, tmp_path: Path
) -> None:
    record = export(lora, tmp_path / "out", model=str(tiny_model), data=tiny_data, compute=FLOAT32)
    assert record.dtype == "float32"  # as the tiny model is stored
    assert record.merged_into == "original"
    assert record.measured is not None
    assert record.measured.merged.keys() == {"original"}
    assert record.measured.merged["original"].loss == pytest.approx(record.measured.adapter, abs=1e-5)
    assert record.measured.base > record.measured.adapter + 0.1
    assert record.measured.requantised is None
    assert record.measured.between is None


def test_an_untied_model_stays_untied(tiny_data: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", tied=False)
    adapter = train(run_config(model, tiny_data, tmp_path / "run", "train.steps=3")).output
    record = export(adapter, tmp_path / "out", model=str(model))
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert not record.written.tied
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert torch.equal(found["lm_head.weight"], load_file(model / "model.safetensors")["lm_head.weight"])


@pytest.mark.parametrize("changed", ["model.embed_tokens.weight", "lm_head.weight"])
def test_a_tied_model_is_untied_when_the_adapter_changes_one_end(
    changed: str, tiny_model: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(
        open_checkpoint(tiny_model), lora, MergeBase.ORIGINAL, TrainingBase(False, QuantSection(), torch.float32)
    )
    embedding = load_file(tiny_model / "model.safetensors")["model.embed_tokens.weight"]
    grown = torch.cat([embedding + 1, torch.ones(3, embedding.shape[1])]) if "embed" in changed else embedding + 1
    monkeypatch.setattr(type(source), "merged", lambda self: iter([(changed, grown)]))
    written = write_merged(tmp_path, source, torch.float32)
    found = load_file(tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    assert (written.tied, written.changed, config["tie_word_embeddings"]) == (False, 1, False)
    other = ({"model.embed_tokens.weight", "lm_head.weight"} - {changed}).pop()
    assert torch.equal(found[changed], grown)
    assert torch.equal(found[other], embedding)
    assert config["vocab_size"] == len(found["model.embed_tokens.weight"])


def test_the_merged_model_is_the_live_adapter_in_our_decoder_too(tiny_model: Path, lora: Path, tmp_path: Path) -> None:
    export(lora, tmp_path / "out", model=str(tiny_model), dtype=StoredDtype.FLOAT32)
    live = open_assistant(str(tiny_model), adapter=lora, compute=FLOAT32).model
    merged = open_assistant(str(tmp_path / "out"), compute=FLOAT32).model
    texts = documents([9, 40], vocab=200)
    with torch.no_grad():
        assert largest_difference(packed_logits(live, texts), packed_logits(merged, texts)) < 2e-5
