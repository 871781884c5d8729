"""Experts by one name each: every spelling of the files is read, and written back as transformers loads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from helpers.models.tiny_mixtures import EXPERTS, KINDS, tiny_mixture
from helpers.texts.tiny_tokenizers import byte_level_tokenizer, save_tokenizer
from veneer.errors import ModelError
from veneer.io.checkpoint import Checkpoint, SafetensorsCheckpoint, open_checkpoint
from veneer.io.experts import MixtureCheckpoint
from veneer.io.model_files import save_model, stream_model
from veneer.io.prequantised import parts_of
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.quant.four_bit import QuantLinear
from veneer.quantization import stored_weight


def by_expert(model: PreTrainedModel) -> dict[str, Tensor]:
    """The model's tensors under the names that are used inside."""
    turned = model.config.model_type == "gpt_oss"
    found: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        path, _, leaf = name.rpartition(".")
        if not path.endswith("mlp.experts"):
            found[name] = tensor
            continue
        kind = "bias" if leaf.endswith("_bias") else "weight"
        for expert in range(EXPERTS):
            own = tensor[expert].t() if turned and kind == "weight" else tensor[expert]
            if leaf.startswith("down_proj"):
                found[f"{path}.{expert}.down_proj.{kind}"] = own
                continue
            gate, up = (own[0::2], own[1::2]) if turned else own.chunk(2)
            found[f"{path}.{expert}.gate_proj.{kind}"] = gate
            found[f"{path}.{expert}.up_proj.{kind}"] = up
    return found


def assert_same(found: Checkpoint, expected: dict[str, Tensor]) -> None:
    assert found.names() == sorted(expected)
    for name, tensor in expected.items():
        assert found.shape(name) == tuple(tensor.shape), name
        assert torch.equal(found.read(name, torch.float32), tensor.contiguous()), name
        assert torch.equal(found.read(name, torch.bfloat16), tensor.bfloat16()), name


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_transformers_are_read_expert_by_expert(kind: str, tmp_path: Path) -> None:
    model = tiny_mixture(kind)
    model.save_pretrained(tmp_path)
    assert_same(open_checkpoint(tmp_path), by_expert(model))


@pytest.mark.parametrize("kind", KINDS)
def test_files_with_all_experts_of_a_layer_in_one_tensor(kind: str, tmp_path: Path) -> None:
    model = tiny_mixture(kind, seed=1)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "model.safetensors"
    )
    assert_same(open_checkpoint(tmp_path), by_expert(model))


def test_gpt_oss_as_it_is_published_in_mxfp4(tmp_path: Path) -> None:
    model = tiny_mixture("gpt_oss", seed=2, hidden_size=64, intermediate_size=96)
    model.save_pretrained(tmp_path)
    tensors, generator = dict(model.state_dict()), torch.Generator().manual_seed(3)
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, inner, outer = tensors[name].shape
        blocks = torch.randint(0, 256, (experts, outer, inner // 32, 16), generator=generator, dtype=torch.uint8)
        scales = torch.randint(115, 125, (experts, outer, inner // 32), generator=generator, dtype=torch.uint8)
        tensors[name].copy_(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32))
        del tensors[name]
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    (tmp_path / "model.safetensors").unlink()
    save_file(tensors, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert_same(open_checkpoint(tmp_path), by_expert(model))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("streamed", [True, False])
def test_what_is_written_is_what_transformers_loads(kind: str, streamed: bool, tmp_path: Path) -> None:
    model = tiny_mixture(kind, seed=4)
    model.save_pretrained(tmp_path / "theirs")
    save_tokenizer(tmp_path / "theirs", byte_level_tokenizer(), {"eos_token": "<|im_end|>"})
    origin = open_checkpoint(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    tensors = {name: origin.read(name, torch.float32) for name in reversed(origin.names())}
    tensors = {"model.embed_tokens.weight": tensors["model.embed_tokens.weight"]} | tensors
    if streamed:
        stream_model(tmp_path / "ours", tensors, tensors.items(), origin)
    else:
        save_model(tmp_path / "ours", tensors, origin)
    files = [SafetensorsCheckpoint(tmp_path / side) for side in ("theirs", "ours")]
    assert files[0].names() == files[1].names()
    for name in files[0].names():
        assert torch.equal(files[0].read(name, torch.float32), files[1].read(name, torch.float32)), name
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_experts_that_bitsandbytes_quantised_one_by_one_stay_as_they_are(tmp_path: Path) -> None:
    """As models were written before transformers held a layer's experts as one parameter: the router too."""
    tiny_mixture("mixtral", seed=6).save_pretrained(tmp_path)
    plain = SafetensorsCheckpoint(tmp_path)
    tensors: dict[str, Tensor] = {}
    decoded = {}
    for name in plain.names():
        weight = plain.read(name, torch.float32)
        if "block_sparse_moe" not in name:
            tensors[name] = weight
            continue
        packed = QuantLinear.from_weight(weight)
        decoded[name] = packed.dequantize(torch.float32)
        tensors |= parts_of(name, stored_weight(packed), torch.float32)
    (tmp_path / "model.safetensors").unlink()
    save_file(tensors, tmp_path / "model.safetensors")
    model = load_model(open_checkpoint(tmp_path), Loading(dtype=torch.float32))
    layer = "model.layers.1.mlp"
    for number in range(EXPERTS):
        for leaf, spelled in (("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")):
            held = model.get_submodule(f"{layer}.experts.{number}.{leaf}")
            assert isinstance(held, QuantLinear)
            expected = decoded[f"model.layers.1.block_sparse_moe.experts.{number}.{spelled}.weight"]
            assert torch.equal(held.dequantize(torch.float32), expected)
    router = model.get_submodule(f"{layer}.gate").get_parameter("weight")
    assert torch.equal(router, decoded["model.layers.1.block_sparse_moe.gate.weight"])


class CountingReads(SafetensorsCheckpoint):
    """Files that remember which experts' entries were read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.entries: list[tuple[str, int]] = []

    def read_entry(self, name: str, index: int, dtype: torch.dtype) -> Tensor:
        self.entries.append((name, index))
        return super().read_entry(name, index, dtype)


@pytest.mark.parametrize("kind", ["gpt_oss", "qwen3_moe"])
def test_gate_and_up_of_one_tensor_are_read_together_once(kind: str, tmp_path: Path) -> None:
    model = tiny_mixture(kind, seed=7)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "model.safetensors"
    )
    files = CountingReads(tmp_path)
    found = MixtureCheckpoint(files)
    names = found.names()
    for name in names:
        found.read(name, torch.float32)
    assert len(files.entries) == len(set(files.entries)) > 0
    gate, up = (f"model.layers.0.mlp.experts.1.{leaf}_proj.weight" for leaf in ("gate", "up"))
    first = found.read(gate, torch.float32)
    first.zero_()
    assert not torch.equal(found.read(gate, torch.float32), first)
    ups = [found.read(up, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float32)]
    assert torch.equal(ups[0], ups[2])
    assert torch.equal(ups[0].bfloat16(), ups[1])
    assert ups[0].is_contiguous()
    assert ups[0].untyped_storage().nbytes() == ups[0].nbytes


def test_experts_that_bitsandbytes_quantised_as_one_tensor_are_refused_by_name(tmp_path: Path) -> None:
    tiny_mixture("qwen3_moe").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    name = "model.layers.0.mlp.experts.gate_up_proj"
    parts = parts_of(name, stored_weight(QuantLinear.from_weight(torch.ones(64, 16))), torch.float32)
    state = next(part for part in parts if "quant_state" in part)
    described = json.loads(bytes(parts[state].tolist())) | {"shape": [2, 32, 16]}
    parts[state] = torch.tensor(list(json.dumps(described).encode()), dtype=torch.uint8)
    save_file(parts, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=rf"quantised as one tensor, which are not read:\n  - {name}\nUse"):
        open_checkpoint(tmp_path)


def test_a_tensor_that_no_experts_can_have_is_refused(tmp_path: Path) -> None:
    tiny_mixture("mixtral").save_pretrained(tmp_path / "m")
    shutil.copytree(tmp_path / "m", tmp_path / "n")
    (tmp_path / "n" / "model.safetensors").unlink()
    save_file({"model.layers.0.mlp.experts.gate_up_proj": torch.ones(4, 4)}, tmp_path / "n" / "model.safetensors")
    with pytest.raises(ModelError, match=r"gate_up_proj has shape \[4, 4\]"):
        open_checkpoint(tmp_path / "n")
    # Without elements a header of some bytes may name any number of experts.
    empty = {"model.layers.0.mlp.experts.gate_up_proj": torch.ones(10**9, 0, 4)}
    save_file(empty, tmp_path / "n" / "model.safetensors")
    with pytest.raises(ModelError, match=r"gate_up_proj has 1,000,000,000 experts; at most 8,192"):
        open_checkpoint(tmp_path / "n")
    with pytest.raises(ModelError, match="has no tensor 'x'"):
        open_checkpoint(tmp_path / "m").shape("x")
