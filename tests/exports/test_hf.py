from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from helpers.models.damaged_checkpoints import packed
from helpers.models.hf_models import SHAPES, write_hf_model
from helpers.models.tiny_models import documents, largest_difference, their_logits
from veneer.adapters.files.store import save_adapter
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.backends.load import load_hf
from veneer.config import QuantSection
from veneer.errors import AdapterError, ModelError
from veneer.exports.base import MergeBase, TrainingBase
from veneer.exports.hf import HfSource, merged_files, open_hf_source, write_merged_hf
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.model.hf import HfModel
from veneer.quant.four_bit import QuantLinear

TEXTS = documents([9, 17], seed=4)


def adapted(kind: str, folder: Path, *, form: WeightForm = WeightForm.FROZEN) -> tuple[HfModel, HfSource]:
    """A live adapter with random factors, and what its merge reads. The model may stand in `base` already."""
    base = folder / "base"
    checkpoint = open_checkpoint(base if base.is_dir() else write_hf_model(base, kind))
    model = load_hf(checkpoint, Loading(form=form, dtype=torch.float32))
    adapter = inject(model, LoraSpec(rank=4, alpha=8.0))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    (folder / "adapter").mkdir()
    save_adapter(folder / "adapter", adapter, base="base")
    quantised = form is WeightForm.QUANTIZED
    into = MergeBase.DEQUANTISED if quantised else MergeBase.ORIGINAL
    trained = TrainingBase(quantised, QuantSection(), torch.float32)
    return model, open_hf_source(checkpoint, folder / "adapter", into, trained)


@pytest.mark.parametrize("form", [WeightForm.FROZEN, WeightForm.QUANTIZED])
@pytest.mark.parametrize("kind", SHAPES)
@torch.no_grad()
def test_transformers_computes_the_live_adapter_from_the_merged_files(
    kind: str, form: WeightForm, tmp_path: Path
) -> None:
    model, source = adapted(kind, tmp_path, form=form)
    (tmp_path / "merged").mkdir()
    written = write_merged_hf(tmp_path / "merged", source, torch.float32)
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "merged"))
    assert after.keys() == before.keys(), "the names of the base's files are kept"
    assert {name: tensor.shape for name, tensor in after.items()} == {name: t.shape for name, t in before.items()}
    assert written.tensors == len(after)
    if form is WeightForm.FROZEN:
        changed = {name for name in after if not torch.equal(after[name], before[name])}
        assert changed == {source.files.file_name(f"{path}.weight") for path in source.adapter.outermost}
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    tokens = torch.tensor([token for text in TEXTS for token in text])
    positions = torch.cat([torch.arange(len(text)) for text in TEXTS])
    live = model.logits(model.documents(tokens, positions, [len(text) for text in TEXTS]))
    assert largest_difference(their_logits(theirs, TEXTS), live) < 5e-5


@torch.no_grad()
def test_a_head_that_the_files_hold_quantised_is_decoded(tmp_path: Path) -> None:
    model = write_hf_model(tmp_path / "base", "gpt_neox")
    head = load_file(model / "model.safetensors")["embed_out.weight"]
    packed(model, "embed_out.weight", "gpt_neox.layers.0.mlp.dense_4h_to_h.weight")
    _, source = adapted("gpt_neox", tmp_path, form=WeightForm.QUANTIZED)
    merged = {name: tensor for name, tensor, _, _ in merged_files(source)}
    assert torch.equal(merged["embed_out.weight"], QuantLinear.from_weight(head).dequantize(torch.float32))


def test_updates_are_added_to_the_weights_the_way_round_that_the_files_have_them(tmp_path: Path) -> None:
    """GPT-2's Conv1D holds `[in, out]`."""
    _, source = adapted("gpt2", tmp_path)
    before = load_file(tmp_path / "base" / "model.safetensors")
    path, update = next(iter(source.adapter.updates().items()))
    a, b = (factor.detach().double() for factor in update.pairs())
    found = {name: tensor for name, tensor, _, new in merged_files(source) if new}
    name = source.files.file_name(f"{path}.weight")
    assert largest_difference(found[name], before[name].double() + update.scale * (b @ a).t()) < 1e-12


def test_what_the_architecture_has_no_place_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, source = adapted("gpt_neox", tmp_path)

    def added(*_: Any) -> Any:
        return iter([("gpt_neox.extra.bias", torch.zeros(3))])

    monkeypatch.setattr(type(source.adapter), "merged", added)
    with pytest.raises(AdapterError, match=r"adds gpt_neox\.extra\.bias, for which the architecture has no place"):
        list(merged_files(source))


def test_a_value_that_the_dtype_does_not_hold_is_refused_by_name(tmp_path: Path) -> None:
    _, source = adapted("gpt_neox", tmp_path)
    with torch.no_grad():
        next(iter(source.adapter.updates().values())).lora_B.mul_(1e8)
    (tmp_path / "merged").mkdir()
    with pytest.raises(ModelError, match="does not fit into float16"):
        write_merged_hf(tmp_path / "merged", source, torch.float16)
