from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.models.damaged_checkpoints import packed
from helpers.models.tiny import write_model
from helpers.models.tiny_models import largest_difference
from veneer.adapters.files.store import save_adapter
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.config import QuantSection
from veneer.errors import AdapterError
from veneer.exports.base import FileLinear, MergeBase, TrainingBase, open_source
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.products import LowRank
from veneer.quant.four_bit import QuantLinear

PATH = "model.layers.1.self_attn.k_proj"
TRAINED = {
    MergeBase.ORIGINAL: TrainingBase(False, QuantSection(), torch.float32),
    MergeBase.DEQUANTISED: TrainingBase(True, QuantSection(), torch.float32),
}


@pytest.mark.parametrize("base", MergeBase)
def test_every_tensor_of_the_base_is_the_one_that_the_adapter_stands_on(
    base: MergeBase, tiny_model: Path, qlora: Path
) -> None:
    source = open_source(open_checkpoint(tiny_model), qlora, base, TRAINED[base])
    for name, tensor in load_file(tiny_model / "model.safetensors").items():
        expected = tensor
        if base is MergeBase.DEQUANTISED and name.endswith("_proj.weight"):
            expected = QuantLinear.from_weight(tensor).dequantize(torch.float32)
        assert torch.equal(source.base(name), expected), name


def test_a_head_that_the_files_hold_quantised_is_decoded(qlora: Path, tmp_path: Path) -> None:
    names = ("lm_head.weight", f"{PATH}.weight")
    model = write_model(tmp_path / "model", tied=False)
    dense = load_file(model / "model.safetensors")
    in_16_bits = TrainingBase(True, QuantSection(), torch.bfloat16)
    source = open_source(packed(model, *names), qlora, MergeBase.DEQUANTISED, in_16_bits)
    for name in names:
        assert torch.equal(source.base(name), QuantLinear.from_weight(dense[name]).dequantize(torch.float32)), name


def test_an_adapter_on_a_head_that_the_files_hold_quantised_is_merged_into_the_decoded_one(tmp_path: Path) -> None:
    checkpoint = packed(write_model(tmp_path / "model", tied=False), "lm_head.weight", f"{PATH}.weight")
    model = load_model(checkpoint, Loading(form=WeightForm.QUANTIZED, dtype=torch.bfloat16))
    adapter = inject(model, LoraSpec(rank=2, alpha=4.0, target_modules=("lm_head",)))
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", adapter, base="model")
    in_16_bits = TrainingBase(True, QuantSection(), torch.bfloat16)
    source = open_source(checkpoint, tmp_path / "adapter", MergeBase.DEQUANTISED, in_16_bits)
    a, b = (factor.detach().double() for factor in source.adapter.updates()["lm_head"].pairs())
    expected = source.base("lm_head.weight").double() + 2.0 * b @ a
    assert largest_difference(dict(source.merged())["lm_head.weight"], expected) < 1e-12


@pytest.mark.parametrize("base", MergeBase)
def test_merged_tensors_are_the_base_and_its_updates_in_float64(base: MergeBase, tiny_model: Path, qlora: Path) -> None:
    source = open_source(open_checkpoint(tiny_model), qlora, base, TRAINED[base])
    merged = dict(source.merged())
    assert set(merged) == {f"{path}.weight" for path in source.adapter.outermost}
    for path, update in source.adapter.updates().items():
        name = f"{path}.weight"
        a, b = (factor.detach().double() for factor in update.pairs())
        assert merged[name].dtype == torch.float64
        assert largest_difference(merged[name], source.base(name).double() + update.scale * b @ a) < 1e-12


def test_matrices_stay_in_their_files_and_tables_that_no_adapter_needs_have_no_values(
    tiny_model: Path, lora: Path
) -> None:
    source = open_source(open_checkpoint(tiny_model), lora, MergeBase.ORIGINAL, TRAINED[MergeBase.ORIGINAL])
    assert isinstance(source.adapter.base_of(PATH), FileLinear)
    assert source.model.model.embed_tokens.weight.is_meta
    held = sum(p.numel() for p in source.model.parameters() if not p.is_meta and not p.requires_grad)
    factors = sum(p.numel() for p in source.adapter.parameters())
    assert held <= factors + 64 * (2 * 2 + 1), "norms alone"


def test_a_layer_in_its_file_multiplies_as_its_weight_does(tiny_model: Path) -> None:
    weight = load_file(tiny_model / "model.safetensors")[f"{PATH}.weight"].double()
    layer = FileLinear(open_checkpoint(tiny_model), PATH, weight.shape[1], weight.shape[0], bias=False)
    generator = torch.Generator().manual_seed(3)
    x, grad = (torch.randn(5, n, generator=generator, dtype=torch.float64) for n in (weight.shape[1], weight.shape[0]))
    a, b = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((2, weight.shape[1]), (len(weight), 2)))
    assert largest_difference(layer(x), x @ weight.t()) < 1e-12
    assert largest_difference(layer.product(x, LowRank(x @ a.t(), b, 0.5)), x @ (weight + 0.5 * b @ a).t()) < 1e-12
    assert largest_difference(layer.input_gradient(grad), grad @ weight) < 1e-12


def test_a_folder_without_an_adapter_is_said_to_be_one_before_a_model_is_read(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"no adapter_config\.json there"):
        open_source(open_checkpoint(tiny_model), tmp_path, MergeBase.DEQUANTISED, TRAINED[MergeBase.DEQUANTISED])
