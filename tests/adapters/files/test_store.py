"""Adapter files are PEFT's; what is damaged, a pickle or not supported is refused by name."""

from __future__ import annotations

import gc
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.adapters.peft_folders import TARGETS, randomise, rewrite_tensors, write_adapter
from helpers.models.tiny_models import (
    documents,
    largest_difference,
    packed_hidden,
    packed_logits,
    their_logits,
    tiny_llama,
)
from helpers.tensors import assert_same_tensors
from veneer.adapters.files.store import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    check_expressions,
    read_spec,
    read_tensors,
    save_adapter,
)
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.errors import AdapterError
from veneer.losses.linear_head import linear_cross_entropy
from veneer.model.decoder import CausalLM
from veneer.text import expressions

TEXTS = documents([21, 8, 1], seed=8)


@pytest.mark.parametrize("targets", TARGETS)
def test_peft_reads_what_we_write(targets: str, model: CausalLM, folder: Path) -> None:
    with torch.no_grad():
        base = packed_logits(model, TEXTS)
        adapter = write_adapter(folder, model, target_modules=TARGETS[targets], dropout=0.1)
        expected = packed_logits(model, TEXTS)
        theirs = peft.PeftModel.from_pretrained(tiny_llama(), folder).eval()
        assert largest_difference(their_logits(theirs, TEXTS), expected) < 1e-5
        assert largest_difference(base, expected) > 0.1
    assert sum("lora_A" in name for name, _ in theirs.named_parameters()) == len(adapter.outermost)
    config = theirs.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 6, 0.1)
    assert (config.base_model_name_or_path, config.revision) == ("owner/base", "main")
    assert config.task_type == "CAUSAL_LM"


def test_a_saved_adapter_is_the_same_bytes_again(model: CausalLM, folder: Path, tmp_path: Path) -> None:
    adapter = write_adapter(folder, model)
    again = tmp_path / "again"
    again.mkdir()
    save_adapter(again, adapter, base="owner/base", revision="main")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (folder / file).read_bytes() == (again / file).read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


@pytest.mark.parametrize(("targets", "rank"), [("all", 4), ("subset", 4), ("all", 70)])
def test_gradients_equal_those_of_peft(targets: str, rank: int, model: CausalLM) -> None:
    """The same seed and the same batch: PEFT through transformers' loss, ours as the engine computes it."""
    chosen = TARGETS[targets]
    config = peft.LoraConfig(r=rank, lora_alpha=6, target_modules=chosen if isinstance(chosen, str) else list(chosen))
    reference_base = tiny_llama()
    torch.manual_seed(3)
    theirs = peft.get_peft_model(reference_base, config)
    adapter = inject(model, LoraSpec(rank=rank, alpha=6, target_modules=chosen), seed=3)
    parameters = dict(theirs.named_parameters())
    for index, (path, layer) in enumerate(adapter.outermost.items()):
        b = parameters[f"base_model.model.{path}.lora_B.default.weight"]
        randomise([b], seed=index)
        layer.lora_B.data.copy_(b.data)
    texts = [TEXTS[0], TEXTS[1]]
    count = sum(len(text) - 1 for text in texts)
    losses = [theirs(torch.tensor([text]), labels=torch.tensor([text])).loss * (len(text) - 1) for text in texts]
    (torch.stack(losses).sum() / count).backward()
    supervised = [row for row in range(29) if row not in (20, 28)]
    targets_ = torch.tensor([token for text in texts for token in text[1:]])
    loss = linear_cross_entropy(packed_hidden(model, texts)[supervised], model.lm_head.weight, targets_) / count
    loss.backward()
    for path, layer in adapter.outermost.items():
        for part, parameter in (("A", layer.lora_A), ("B", layer.lora_B)):
            reference = parameters[f"base_model.model.{path}.lora_{part}.default.weight"].grad
            assert parameter.grad is not None
            assert reference is not None
            assert float(reference.abs().max()) > 1e-4
            assert largest_difference(parameter.grad, reference) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_a_narrower_dtype_are_read_exactly(dtype: torch.dtype, model: CausalLM, folder: Path) -> None:
    write_adapter(folder, model)
    file = folder / "adapter_model.safetensors"
    narrow = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
    save_file(narrow, file)
    read = read_tensors(folder)
    assert all(torch.equal(read[name.removeprefix("base_model.model.")], t.float()) for name, t in narrow.items())


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"no adapter_config\.json there"):
        read_spec(tmp_path)


def test_a_file_is_no_folder_of_an_adapter(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AdapterError, match=f"{tmp_path}/file: no adapter_config.json there; give the folder of a run"):
        read_spec(tmp_path / "file")


def test_settings_may_begin_with_a_byte_order_mark(model: CausalLM, folder: Path) -> None:
    write_adapter(folder, model)
    plain, file = read_spec(folder), folder / CONFIG_FILE
    file.write_text(file.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert read_spec(folder) == plain


@pytest.mark.scenario(number=28)
def test_a_pickle_is_refused_and_not_opened(model: CausalLM, folder: Path, tmp_path: Path) -> None:
    write_adapter(folder, model)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"no adapter_model\.safetensors there$"):
        read_tensors(folder)
    marker = tmp_path / "opened"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (marker,))

    torch.save(Trap(), folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match=r"adapter_model\.bin is a pickle"):
        read_tensors(folder)
    assert not marker.exists()


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_cut_file_is_refused(keep: int, model: CausalLM, folder: Path) -> None:
    write_adapter(folder, model)
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(AdapterError, match="not a readable safetensors file"):
        read_tensors(folder)


@pytest.mark.scenario(number=31)
def test_values_that_are_not_finite_are_refused_at_save(model: CausalLM, folder: Path) -> None:
    adapter = inject(model, LoraSpec(rank=4, alpha=6))
    with torch.no_grad():
        adapter.parameters()[3][0, 0] = float("nan")
        adapter.parameters()[6][0, 0] = float("-inf")
    with pytest.raises(AdapterError) as caught:
        save_adapter(folder, adapter, base="base")
    assert "self_attn.k_proj.lora_B.weight" in str(caught.value)
    assert "self_attn.o_proj.lora_A.weight" in str(caught.value)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_tensors_of_no_float_dtype_are_refused(dtype: torch.dtype, model: CausalLM, folder: Path) -> None:
    write_adapter(folder, model, target_modules=("q_proj",))
    rewrite_tensors(folder, lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()})
    with pytest.raises(AdapterError, match=rf"lora_A\.weight: stored as {dtype}"):
        read_tensors(folder)


def test_a_name_that_stands_twice_is_refused(model: CausalLM, folder: Path) -> None:
    write_adapter(folder, model, target_modules=("q_proj",))
    path = folder / WEIGHTS_FILE
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + length].decode().rstrip()
    name = next(iter(load_file(path)))
    entry = json.dumps({name: json.loads(text)[name]})[1:-1]
    again = (text[:-1] + "," + entry + "}").encode()
    path.write_bytes(len(again).to_bytes(8, "little") + again + content[8 + length :])
    assert load_file(path)  # the library does not mind
    with pytest.raises(AdapterError, match="is twice in the header"):
        read_tensors(folder)


def test_the_names_of_a_live_peft_model_are_read(model: CausalLM, folder: Path) -> None:
    """`lora_A.default.weight`: what a state dict of PEFT's model has, and `save_pretrained` takes out."""
    settings = {"target_modules": ("q_proj", "embed_tokens"), "modules_to_save": ("norm",)}
    adapter = write_adapter(folder, model, **settings)
    expected = {name: tensor.clone() for name, tensor in read_tensors(folder).items()}

    def live(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        renamed = {}
        for name, tensor in tensors.items():
            own = re.sub(r"(lora_embedding_[AB]|lora_[AB])", r"\1.default", name)
            if ".norm." in name:
                own = name.replace(".norm.", ".norm.modules_to_save.default.")
            renamed[own] = tensor
        return renamed

    rewrite_tensors(folder, live)
    assert all(".default" in name for name in load_file(folder / WEIGHTS_FILE))
    found = read_tensors(folder)
    assert found.keys() == adapter.tensors().keys()
    assert_same_tensors(found, expected)
    rewrite_tensors(folder, lambda own: own | {re.sub(r"\.default", "", name): t.clone() for name, t in own.items()})
    with pytest.raises(AdapterError, match="a second time"):
        read_tensors(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": "([a-z._0-9]+)+!"}, "takes more than 2 seconds"),
        ({"exclude_modules": "([a-z._0-9]+)+!"}, "takes more than 2 seconds"),
        ({"rank_pattern": {"([a-z._0-9]+)+!": 4}}, "takes more than 2 seconds"),
        ({"alpha_pattern": {"(": 4}}, r"'\(': not a regular expression"),
    ],
)
def test_expressions_that_cannot_be_used_are_refused(
    settings: dict[str, Any], message: str, model: CausalLM, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_adapter(folder, model)
    monkeypatch.setattr(expressions, "SECONDS", 1)
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(config | settings))
    with pytest.raises(AdapterError, match=message):
        check_expressions(read_spec(folder), model.linear_paths(), folder)


def test_an_adapter_that_is_read_often_leaves_nothing_in_memory(tmp_path: Path) -> None:
    names = [f"layer.{number}.lora_A.weight" for number in range(5)]
    save_file({f"base_model.model.{name}": torch.zeros(300, 400) for name in names}, tmp_path / WEIGHTS_FILE)
    assert read_tensors(tmp_path).keys() == set(names)
    tracemalloc.start()
    try:
        # What the first reads leave is kept once, and Python keeps some freed objects for later ones.
        left = []
        for reads in (100, 400):
            for _ in range(reads):
                read_tensors(tmp_path)
            gc.collect()
            left.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert left[1] - left[0] < 400 * 5 * 28  # two integers that stay for each tensor are twice as much
