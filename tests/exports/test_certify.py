"""Exports proven and damaged: what is damaged is caught, and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from helpers.models.tiny import run_config, tree, write_rows
from helpers.models.tiny_models import documents, largest_difference, their_logits
from veneer.config import ComputeSection
from veneer.enums import Dtype
from veneer.errors import ConfigError, ModelError
from veneer.exports import certify, merged, run
from veneer.exports.certificate import ParityError
from veneer.exports.inputs import Exporter, ExportInputs
from veneer.exports.record import ExportRecord
from veneer.exports.request import StoredDtype, Target
from veneer.exports.run import export
from veneer.exports.verify import verify
from veneer.training.run import train

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)
Q_PROJ, K_PROJ = (f"model.layers.1.self_attn.{name}_proj.weight" for name in "qk")
UP, GATE = (f"model.layers.0.mlp.{name}_proj.weight" for name in ("up", "gate"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    output = tmp_path_factory.mktemp("parity") / "run"
    settings = ("train.steps=30", "data.held_out=0.2", "train.eval_every=10")
    return train(run_config(tiny_model, tiny_data, output, *settings)).output


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, adapter: Path) -> Path:
    output = tmp_path_factory.mktemp("parity") / "merged"
    record = export(adapter, output, dtype=StoredDtype.FLOAT32, compute=FLOAT32)
    assert record.parity is not None
    assert record.parity.passed
    assert [one.reader for one in record.parity.readers] == ["veneer", "transformers"]
    assert record.parity.prompts == 4
    assert "held out" in record.parity.prompts_from
    return output


def test_what_others_read_names_the_base_without_its_path(
    whole: Path, adapter: Path, tiny_model: Path, tmp_path: Path
) -> None:
    export(adapter, tmp_path / "out", to=Target.PEFT, compute=FLOAT32, limit=1)
    for folder in (adapter, tmp_path / "out"):
        named = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        assert named == tiny_model.name
    for folder in (whole, tmp_path / "out"):
        assert str(tiny_model.parent) not in (folder / "README.md").read_text()


def test_the_certificate_stands_beside_the_model(whole: Path, adapter: Path) -> None:
    parity = json.loads((whole / "parity.json").read_text())
    assert parity["passed"]
    assert parity["tensors"]["compared"] == 20
    for one in parity["readers"]:
        assert one["gap"] < 1e-4
        assert one["top1"] == one["positions"] > 4
        assert one["texts_equal"] == one["texts"] > 10
        assert one["renderings_equal"] == one["renderings"] == 4
        assert one["greedy_equal"] == 4
    assert parity["files"].keys() == {file for file in tree(whole) if file not in ("parity.json", "README.md")}
    card = (whole / "README.md").read_text()
    assert "license:" not in card.split("---")[1]
    for said in ("base_model:", "rank 4", "30 steps", "evaluation loss", "| transformers |", "## License"):
        assert said in card
    before = tree(whole)
    assert verify(whole, compute=FLOAT32).passed
    assert tree(whole) == before


def scaled(tensors: dict[str, torch.Tensor]) -> None:
    tensors[UP] *= 1.01


def swapped(tensors: dict[str, torch.Tensor]) -> None:
    tensors[UP], tensors[GATE] = tensors[GATE].clone(), tensors[UP].clone()


def not_finite(tensors: dict[str, torch.Tensor]) -> None:
    tensors[K_PROJ][3, 1] = float("nan")


def permuted(tensors: dict[str, torch.Tensor]) -> None:
    """q_proj in the order of llama.cpp, as a forgotten way back leaves it."""
    weight = tensors[Q_PROJ]
    tensors[Q_PROJ] = weight.reshape(4, 2, 8, 64).swapaxes(1, 2).reshape(weight.shape).contiguous()


DAMAGE: dict[str, tuple[Callable[[dict[str, torch.Tensor]], None], tuple[str, ...]]] = {
    "scaled": (scaled, (UP,)),
    "swapped": (swapped, (GATE, UP)),
    "not finite": (not_finite, (K_PROJ,)),
    "permuted": (permuted, (Q_PROJ,)),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_tensor_is_named(kind: str, whole: Path, tmp_path: Path) -> None:
    damage, names = DAMAGE[kind]
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    tensors = load_file(copy / "model.safetensors")
    damage(tensors)
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    certificate = verify(copy, compute=FLOAT32, limit=2)
    assert certificate.damaged == ("model.safetensors: has changed",)
    assert certificate.tensors is not None
    assert sorted(problem.split(":")[0] for problem in certificate.tensors.problems) == sorted(names)
    # The outputs alone would have caught it as well, in both programs. veneer opens no weights that are not finite.
    for one in certificate.readers:
        assert any("probabilities" in problem or "reading" in problem for problem in one.problems), one
    with pytest.raises(ParityError, match=names[0]):
        certificate.refuse("copy")


def test_another_template_or_a_missing_token_is_named(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    path = copy / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    templates = [file for file in copy.iterdir() if file.name == "chat_template.jinja"]
    for file in templates:
        file.write_text(file.read_text().replace("|>assistant", "|>model"))
    if "chat_template" in settings:
        settings["chat_template"] = settings["chat_template"].replace("|>assistant", "|>model")
    path.write_text(json.dumps(settings))
    certificate = verify(copy, compute=FLOAT32, limit=2)
    assert not certificate.passed
    for one in certificate.readers:
        assert any(problem.startswith("template: 2 of 2") for problem in one.problems), one
        assert not any("probabilities" in problem for problem in one.problems)

    shutil.rmtree(copy)
    shutil.copytree(whole, copy)
    path = copy / "tokenizer.json"
    backend = json.loads(path.read_text())
    *rest, last = backend["model"]["merges"]
    backend["model"]["merges"] = rest
    backend["model"]["vocab"].pop("".join(last.split(" ") if isinstance(last, str) else last))
    path.write_text(json.dumps(backend))
    certificate = verify(copy, compute=FLOAT32, limit=2)
    assert certificate.damaged == ("tokenizer.json: has changed",)
    for one in certificate.readers:
        assert one.problems[0].startswith("vocabulary: 1 of 300 tokens are missing or have another id"), one
        assert one.problems[1].startswith("token ids:"), one


def test_end_tokens_that_are_wrong_in_every_file_are_named(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    for name, value in (("config.json", 5), ("generation_config.json", 5), ("tokenizer_config.json", "<|im_start|>")):
        settings = json.loads((copy / name).read_text())
        settings["eos_token" if isinstance(value, str) else "eos_token_id"] = value
        (copy / name).write_text(json.dumps(settings))
    by_content = replace(verify(copy, compute=FLOAT32, limit=2), damaged=())
    said = [problem.split(": is ")[0] for problem in by_content.problems]
    assert said[:3] == [
        "setting config.json: eos_token_id", "setting generation_config.json: eos_token_id",
        "setting tokenizer_config.json: eos_token",
    ]  # fmt: skip


def test_a_missing_file_and_a_truncated_one_are_named(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    (copy / "generation_config.json").unlink()
    (copy / "notes.txt").write_text("the user's")
    certificate = verify(copy, compute=FLOAT32, limit=1)
    assert certificate.damaged == ("generation_config.json: missing", "model.safetensors: has changed")
    assert certificate.tensors is not None
    assert "cannot be opened" in certificate.tensors.problems[0]
    assert all(one.problems[0].startswith("reading:") for one in certificate.readers)


def test_an_export_that_fails_is_set_aside_and_says_what_is_to_blame(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(inputs: ExportInputs, folder: Path) -> ExportRecord:
        record = merged.write(inputs, folder)
        tensors = load_file(folder / "model.safetensors")
        scaled(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return record

    monkeypatch.setitem(run.TARGETS, Target.MERGED, Exporter(write, merged.checks))
    for _ in range(2):
        with pytest.raises(ParityError, match=rf"out was not made(.|\n)*out\.failed(.|\n)*tensor {UP}: is off by 1 %"):
            export(adapter, tmp_path / "out", dtype=StoredDtype.FLOAT32, compute=FLOAT32, limit=2)
        assert [entry.name for entry in tmp_path.iterdir()] == ["out.failed"]
    assert json.loads((tmp_path / "out.failed" / "parity.json").read_text())["passed"] is False


@pytest.mark.parametrize("dtype", [StoredDtype.BFLOAT16, StoredDtype.FLOAT16])
def test_rounded_weights_are_within_their_format(dtype: StoredDtype, adapter: Path, tmp_path: Path) -> None:
    record = export(adapter, tmp_path / "out", dtype=dtype, compute=FLOAT32, limit=2)
    assert record.parity is not None
    assert record.parity.format == dtype.value
    # What the rounding costs is said; what a reader makes of the rounded weights is judged, and exact.
    assert all(one.gap > 1e-4 for one in record.parity.readers)
    assert all(one.beside_expected < 1e-6 for one in record.parity.readers)
    assert record.parity.merged is not None
    assert record.parity.merged.gap < record.parity.threshold.gap
    with pytest.raises(ParityError, match="nats from the live adapter's, --gap allows 1e-05"):
        export(adapter, tmp_path / "strict", dtype=dtype, compute=FLOAT32, limit=2, gap=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_peft_folder_is_what_peft_computes(method: str, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    settings = (f"method={method}", "train.steps=10", "lora.init=olora" if method == "lora" else "lora.variant=dora")
    own = train(run_config(tiny_model, tiny_data, tmp_path / "run", *settings)).output
    record = export(own, tmp_path / "out", to=Target.PEFT, compute=FLOAT32)
    assert record.parity is not None
    assert [one.reader for one in record.parity.readers] == ["veneer", "peft"]
    assert all(one.gap < 1e-4 for one in record.parity.readers)
    assert "built-in questions, because the adapter's run kept no rows" in record.parity.notes[0]
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= tree(tmp_path / "out").keys()
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    texts = documents([9, 14], vocab=200)
    with torch.no_grad():
        theirs = their_logits(PeftModel.from_pretrained(base, tmp_path / "out").eval(), texts)
        again = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
        assert largest_difference(theirs, their_logits(PeftModel.from_pretrained(again, own).eval(), texts)) < 1e-5
    damaged = load_file(tmp_path / "out" / "adapter_model.safetensors")
    name = next(name for name in damaged if name.endswith("lora_B.weight"))
    damaged[name] *= 1.5
    save_file(damaged, tmp_path / "out" / "adapter_model.safetensors")
    certificate = verify(tmp_path / "out", compute=FLOAT32)
    assert certificate.tensors is not None
    assert [problem.split(":")[0] for problem in certificate.tensors.problems] == [
        name.removeprefix("base_model.model.")
    ]


def test_four_bits_are_certified_to_the_bit_and_measured(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    settings = ("method=qlora", "train.steps=10", "data.held_out=0.2")
    own = train(run_config(tiny_model, tiny_data, tmp_path / "run", *settings)).output
    record = export(own, tmp_path / "out", to=Target.MERGED_4BIT, compute=FLOAT32)
    assert record.measured is not None
    assert record.measured.requantised is not None
    assert record.parity is not None
    assert record.parity.format == "nf4"
    assert record.parity.tensors is not None
    assert (record.parity.tensors.compared, record.parity.tensors.error) == (20, 0.0)
    assert verify(tmp_path / "out", compute=FLOAT32).passed


def test_a_model_that_does_not_fit_in_float32_is_compared_by_its_tensors(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certify, "free_memory", lambda device: 100_000)
    record = export(adapter, tmp_path / "out", compute=FLOAT32)
    assert record.parity is not None
    assert record.parity.passed
    assert record.parity.readers == ()
    assert record.parity.tensors is not None
    assert record.parity.tensors.compared == 20
    assert "only tensors were compared" in record.parity.notes[-1]


@pytest.mark.parametrize("to", [Target.MERGED, Target.GGUF])
def test_a_model_without_a_template_is_certified(to: Target, tiny_model: Path, tmp_path: Path) -> None:
    if to is Target.GGUF:
        pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (pip install 'veneer[llama-cpp]')")
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings.pop("chat_template")
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"{n} parcels? ", "completion": "late"} for n in range(12)])
    own = train(run_config(base, rows, tmp_path / "run", "train.steps=5", "data.held_out=0.2")).output
    dtype, quant = (StoredDtype.AUTO, "f32") if to is Target.GGUF else (StoredDtype.FLOAT32, None)
    record = export(own, tmp_path / "out", to=to, dtype=dtype, compute=FLOAT32, quant=quant)
    assert record.parity is not None
    assert len(record.parity.readers) == 2
    assert all(one.renderings_equal == one.renderings == 2 for one in record.parity.readers)


def test_tokens_that_the_embedding_has_no_row_for_are_said(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    tensors = load_file(base / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:50].clone()
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "vocab_size": 50}))
    own = train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=1")).output
    with pytest.raises(ModelError, match=r"has ids up to \d+, and the model's embedding has 50 rows"):
        export(own, tmp_path / "out", model=str(base), other_base="allow")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_asked_for_is_refused_before_anything_is_written(adapter: Path, tmp_path: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    copy = tmp_path / "copy"
    shutil.copytree(adapter, copy, ignore=shutil.ignore_patterns("checkpoints", "config.yaml", "run.lock"))
    (copy / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(ConfigError, match="give --model"):
        export(copy, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"--quant Q8_0 is for GGUF files, but --to merged"):
        export(adapter, tmp_path / "out", quant="Q8_0")
    assert not (tmp_path / "out").exists()
