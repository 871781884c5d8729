"""Each tensor is read once and takes its final form before the next one is read."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.models.damaged_checkpoints import LINEAR, Watched, linears, sixteen_bits
from helpers.models.tiny import run_config
from helpers.models.tiny_models import SHAPES, saved, tiny_llama
from veneer.assistant.assistant import make_assistant
from veneer.assistant.prompts import turns
from veneer.generation.sampling import Sampling
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.expected import expected_tensors
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.loading.streams import narrowed
from veneer.machine.large_pages import LARGE_PAGE
from veneer.model.families.choose import spec_from_hf
from veneer.model.leaves import DenseLinear
from veneer.native.library import kernels
from veneer.quant.four_bit import QuantLinear
from veneer.training.run import train


@pytest.mark.parametrize("form", WeightForm)
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}])
def test_every_tensor_is_read_once_in_order(changes: dict[str, Any], form: WeightForm, tmp_path: Path) -> None:
    watched = Watched(saved(tiny_llama(changes=changes), tmp_path))
    progress: list[str] = []
    load_model(watched, Loading(form=form, progress=progress.append))
    expected = list(expected_tensors(spec_from_hf(watched.config)))
    assert watched.reads == progress == expected
    assert sorted(expected) == watched.names()


def test_quantising_never_holds_two_full_matrices_of_the_layers(tmp_path: Path) -> None:
    """What is alive at each read: embedding (and head), which stay, and the one matrix that is being quantised."""
    watched = Watched(saved(tiny_llama(changes={"num_hidden_layers": 6, "tie_word_embeddings": True}), tmp_path))
    load_model(watched, Loading(form=WeightForm.QUANTIZED, dtype=torch.float32))
    embedding = SHAPES["vocab_size"] * SHAPES["hidden_size"] * 4
    largest = SHAPES["intermediate_size"] * SHAPES["hidden_size"] * 4
    assert max(watched.alive_bytes) <= embedding + largest
    whole = sum(torch.Size(watched.shape(name)).numel() * 4 for name in watched.names())
    assert max(watched.alive_bytes) < whole / 4


@pytest.mark.skipif(sys.platform != "linux", reason="large pages are asked for on Linux alone")
@pytest.mark.parametrize("form", [WeightForm.FROZEN, WeightForm.QUANTIZED])
def test_frozen_layers_stand_in_one_piece_of_memory(form: WeightForm, tmp_path: Path) -> None:
    checkpoint = saved(tiny_llama(changes={"hidden_size": 128, "intermediate_size": 192}), tmp_path)
    model = load_model(checkpoint, Loading(form=form, dtype=torch.bfloat16))
    layers = linears(model).values()
    places = sorted((layer.codes if isinstance(layer, QuantLinear) else layer.weight).data_ptr() for layer in layers)  # type: ignore[union-attr]
    size = sum(tensor.nbytes for layer in layers for tensor in (*layer.buffers(), *layer.parameters()))
    assert places[0] % LARGE_PAGE == 0
    assert places[-1] - places[0] < size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_frozen_base_in_float32_keeps_the_16_bits_of_its_files(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = saved(tiny_llama().to(dtype), tmp_path)
    monkeypatch.setattr("veneer.loading.load.reads_stored", lambda *_: True)
    model = load_model(checkpoint, Loading(dtype=torch.float32))
    kept = {path: m.weight.dtype for path, m in model.named_modules() if isinstance(m, DenseLinear)}
    assert set(kept.values()) == {dtype, torch.float32}
    assert {path for path, held in kept.items() if held is torch.float32} == {"lm_head"}
    assert torch.equal(model.get_submodule(LINEAR).weight.float(), checkpoint.read(f"{LINEAR}.weight", torch.float32))
    trained = load_model(checkpoint, Loading(form=WeightForm.TRAINABLE, dtype=torch.float32))
    assert {parameter.dtype for parameter in trained.parameters()} == {torch.float32}
    monkeypatch.setattr("veneer.loading.load.reads_stored", lambda *_: False)
    wide = load_model(checkpoint, Loading(dtype=torch.float32))
    assert {parameter.dtype for parameter in wide.parameters()} == {torch.float32}


def test_a_weight_that_16_bits_do_not_hold_stays_as_it_is() -> None:
    torch.manual_seed(3)
    weight = torch.randn(8, 8)
    assert narrowed(weight) is weight
    for dtype in (torch.bfloat16, torch.float16):
        exact = weight.to(dtype).float()
        exact[0, 0], exact[1, 1] = -0.0, 2.0**-24  # a number that float16 has below its normal ones
        held = narrowed(exact)
        assert held.dtype == dtype
        assert torch.equal(held.float().view(torch.int32), exact.view(torch.int32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_in_16_bits_trains_and_answers_as_a_widened_one(
    dtype: torch.dtype, tiny_model: Path, tiny_data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if kernels() is None:
        pytest.skip("this machine has no compiled kernels")
    folder = sixteen_bits(shutil.copytree(tiny_model, tmp_path / "model"), dtype)
    settings = ("method=lora", "train.steps=4", "lora.dropout=0.1", "compute.dtype=float32")
    with monkeypatch.context() as patch:
        patch.setattr("veneer.loading.load.reads_stored", lambda *_: False)
        wide = train(run_config(folder, tiny_data, tmp_path / "wide", *settings))
    kept = train(run_config(folder, tiny_data, tmp_path / "kept", *settings))
    assert kept.model.get_parameter(f"{LINEAR}.base.weight").dtype == dtype
    assert wide.model.get_parameter(f"{LINEAR}.base.weight").dtype == torch.float32
    name = "adapter_model.safetensors"
    assert (tmp_path / "kept" / name).read_bytes() == (tmp_path / "wide" / name).read_bytes()
    # One token a pass is made by other kernels than a text.
    answers = [
        make_assistant(run.model, open_checkpoint(folder), run.trainable.adapter).answers(  # type: ignore[attr-defined]
            [turns(None, "What is the parcel number?"), turns(None, "late")], Sampling(max_new_tokens=12)
        )
        for run in (kept, wide)
    ]
    assert answers[0] == answers[1]
