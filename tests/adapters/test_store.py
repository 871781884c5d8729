"""Adapter files are PEFT's in both directions; what veneer does not do is refused by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tiny_models import documents, largest_difference, ours, packed_hidden, packed_logits, their_logits, tiny_llama
from veneer.adapters import peft_config
from veneer.adapters.adapter import Adapter
from veneer.adapters.inject import inject
from veneer.adapters.linear import LoraLinear
from veneer.adapters.spec import LoraSpec
from veneer.adapters.store import load_adapter, read_config, read_tensors, save_adapter
from veneer.errors import AdapterError
from veneer.load import WeightForm
from veneer.losses import linear_cross_entropy
from veneer.model.decoder import CausalLM

TARGETS: dict[str, str | tuple[str, ...]] = {
    "all": "all-linear",
    "subset": ("q_proj", "v_proj"),
    "paths": ("layers.1.mlp.up_proj", "self_attn.o_proj"),
    "expression": r".*\.layers\.[01]\.(self_attn|mlp)\.(k|gate)_proj",
    "everything": ".*_proj",
}
TEXTS = documents([21, 8, 1], seed=8)


@pytest.fixture
def model(tmp_path: Path) -> CausalLM:
    return ours(tiny_llama(), tmp_path / "base")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "adapter"
    path.mkdir()
    return path


def randomise(parameters: list[Tensor], seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def write_adapter(folder: Path, model: CausalLM, **settings: Any) -> Adapter:
    adapter = inject(model, LoraSpec(**({"rank": 4, "alpha": 6.0} | settings)))
    randomise(list(adapter.parameters()))
    save_adapter(folder, adapter, base="owner/base", revision="main")
    return adapter


def change_config(folder: Path, changes: dict[str, Any]) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def their_adapter(**settings: Any) -> peft.PeftModel:
    config = peft.LoraConfig(**({"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM"} | settings))
    theirs = peft.get_peft_model(tiny_llama(), config)
    randomise([p for name, p in theirs.named_parameters() if "lora_" in name], seed=5)
    return theirs.eval()


# ------------------------------------------------------------------------------------------------- with PEFT, both ways


@pytest.mark.parametrize("targets", TARGETS)
def test_peft_reads_what_we_write(targets: str, model: CausalLM, folder: Path) -> None:
    with torch.no_grad():
        base = packed_logits(model, TEXTS)
        adapter = write_adapter(folder, model, target_modules=TARGETS[targets], dropout=0.1)
        expected = packed_logits(model, TEXTS)
        theirs = peft.PeftModel.from_pretrained(tiny_llama(), folder).eval()
        assert largest_difference(their_logits(theirs, TEXTS), expected) < 1e-5
        assert largest_difference(base, expected) > 0.1
    assert sum("lora_A" in name for name, _ in theirs.named_parameters()) == len(adapter.layers)
    config = theirs.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 6, 0.1)
    assert (config.base_model_name_or_path, config.revision) == ("owner/base", "main")
    assert config.task_type == "CAUSAL_LM"


@pytest.mark.parametrize("targets", [name for name in TARGETS if name != "everything"])
def test_we_read_what_peft_writes(targets: str, model: CausalLM, folder: Path) -> None:
    chosen = TARGETS[targets]
    theirs = their_adapter(target_modules=chosen if isinstance(chosen, str) else list(chosen), lora_dropout=0.25)
    theirs.save_pretrained(folder)
    adapter = load_adapter(model, folder)
    with torch.no_grad():
        assert largest_difference(packed_logits(model, TEXTS), their_logits(theirs, TEXTS)) < 1e-5
    assert (adapter.spec.rank, adapter.spec.alpha, adapter.spec.dropout) == (4, 6.0, 0.25)
    assert len(adapter.layers) == sum("lora_A" in name for name, _ in theirs.named_parameters())


@pytest.mark.parametrize("targets", TARGETS)
def test_we_read_what_we_write_to_the_bit(targets: str, model: CausalLM, folder: Path, tmp_path: Path) -> None:
    adapter = write_adapter(folder, model, target_modules=TARGETS[targets], alpha=5.5)
    another = ours(tiny_llama(), tmp_path / "again")
    loaded = load_adapter(another, folder)
    assert loaded.spec.scale == adapter.spec.scale == 5.5 / 4
    assert list(loaded.tensors()) == list(adapter.tensors())
    assert all(torch.equal(tensor, loaded.tensors()[name]) for name, tensor in adapter.tensors().items())
    assert torch.equal(packed_logits(another, TEXTS), packed_logits(model, TEXTS))


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
    for index, (path, layer) in enumerate(adapter.layers.items()):
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
    for path, layer in adapter.layers.items():
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


@pytest.mark.parametrize("init", [False, "gaussian", "orthogonal", "eva"])
def test_starts_that_leave_the_base_alone_are_read(init: bool | str, model: CausalLM, folder: Path) -> None:
    write_adapter(folder, model)
    change_config(folder, {"init_lora_weights": init})
    assert read_config(folder)[0].rank == 4


def test_an_adapter_goes_on_a_quantised_base(model: CausalLM, folder: Path, tmp_path: Path) -> None:
    write_adapter(folder, model)
    quantised = ours(tiny_llama(), tmp_path / "again", form=WeightForm.QUANTIZED)
    adapter = load_adapter(quantised, folder)
    assert all(torch.equal(t, adapter.tensors()[name]) for name, t in read_tensors(folder).items())


# ------------------------------------------------------------------------------------------------------ what is refused

USED: dict[str, Any] = {
    "alora_invocation_tokens": [1, 2],
    "arrow_config": {"arrow_top_k": 3},
    "init_lora_weights": "pissa_niter_4",
    "kasa_config": {},
    "layer_replication": [[0, 2], [1, 2]],
    "monteclora_config": {"n": 1},
    "use_bdlora": {"nblocks": 2},
    "use_qalora": True,
    "velora_config": {"num_groups": 2},
    "use_something_new": True,
}


@pytest.mark.parametrize("key", USED)
def test_each_feature_that_is_not_supported_is_refused_by_name(key: str, model: CausalLM, folder: Path) -> None:
    write_adapter(folder, model)
    change_config(folder, {key: USED[key]})
    with pytest.raises(AdapterError, match=f"- {key}: "):
        load_adapter(model, folder)


@pytest.mark.parametrize("init", ["pissa_niter_4", "corda", "loftq", "lora_ga", "unheard_of"])
def test_starts_that_change_the_base_are_refused(init: str, model: CausalLM, folder: Path) -> None:
    write_adapter(folder, model)
    change_config(folder, {"init_lora_weights": init})
    with pytest.raises(AdapterError, match=f"init_lora_weights: '{init}'"):
        load_adapter(model, folder)


def test_several_features_are_all_named(model: CausalLM, folder: Path) -> None:
    write_adapter(folder, model)
    change_config(folder, {"use_qalora": True, "layer_replication": [[0, 2]], "init_lora_weights": "loftq"})
    with pytest.raises(AdapterError) as caught:
        load_adapter(model, folder)
    assert str(caught.value).count("  - ") == 3


def test_every_setting_of_peft_is_accounted_for() -> None:
    """A new version of PEFT that brings another switch fails here, before it is left out silently."""
    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    known = set(peft_config._NEUTRAL) | peft_config._READ
    assert fields - known == set()


def test_settings_of_peft_that_are_off_are_accepted(model: CausalLM, folder: Path) -> None:
    theirs = their_adapter(target_modules=["q_proj"])
    theirs.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert len(config) > 25
    change_config(folder, {"some_later_switch": False, "another": None, "a_table": {}, "a_list": []})
    load_adapter(model, folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"r": 0, "lora_alpha": "16"}, ["r: 0", "lora_alpha: '16'"]),
        ({"r": 4.5, "target_modules": None}, ["r: 4.5", "target_modules: None"]),
        ({"r": True, "lora_alpha": True}, ["r: True", "lora_alpha: True"]),
        ({"lora_alpha": float("nan")}, ["lora_alpha: nan"]),
        ({"lora_alpha": float("inf")}, ["lora_alpha: inf"]),
        ({"lora_dropout": 1.0, "target_modules": [1]}, ["lora_dropout: 1.0", "target_modules: [1]"]),
        ({"peft_type": "IA3"}, ["'IA3'"]),
        ({"peft_type": None}, ["None"]),
    ],
)
def test_unusable_values_are_all_named(
    changes: dict[str, Any], words: list[str], model: CausalLM, folder: Path
) -> None:
    write_adapter(folder, model)
    change_config(folder, changes)
    with pytest.raises(AdapterError) as caught:
        read_config(folder)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\xff", '"LORA"', "null"])
def test_a_broken_configuration_is_refused(text: str, model: CausalLM, folder: Path) -> None:
    write_adapter(folder, model)
    (folder / "adapter_config.json").write_text(text, encoding="latin-1")
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        read_config(folder)


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"no adapter_config\.json there"):
        read_config(tmp_path)


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
        load_adapter(model, folder)
    assert not marker.exists()


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_cut_file_is_refused(keep: int, model: CausalLM, folder: Path) -> None:
    write_adapter(folder, model)
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(AdapterError, match="not a readable safetensors file"):
        read_tensors(folder)


def plain(model: CausalLM, tmp_path: Path) -> CausalLM:
    return ours(tiny_llama(), tmp_path / "plain")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_at_load(
    bad: float, model: CausalLM, folder: Path, tmp_path: Path
) -> None:
    write_adapter(folder, model)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    tensors[name][3, 1] = bad
    save_file(tensors, file)
    with pytest.raises(AdapterError, match=r"layers\.1\.mlp\.up_proj\.lora_B\.weight: holds NaN or infinite"):
        load_adapter(plain(model, tmp_path), folder)


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


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("model.layers.9.self_attn.q_proj.lora_A.weight", (4, 64), r"layers\.9\.self_attn\.q_proj"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", (5, 64), r"shape \[5, 64\], the model needs \[4, 64\]"),
        ("model.layers.0.self_attn.q_proj.lora_magnitude_vector", (64,), "lora_magnitude_vector"),
        ("model.embed_tokens.lora_embedding_A", (4, 96), r"embed_tokens\.lora_embedding_B: missing"),
        ("lm_head.weight", (96, 64), r"- lm_head\.weight"),
        ("model.layers.0.self_attn.q_proj.lora_B.bias", (64,), r"lora_B\.bias"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_and_the_model_stays_as_it_was(
    name: str, shape: tuple[int, ...], message: str, model: CausalLM, folder: Path, tmp_path: Path
) -> None:
    write_adapter(folder, model)
    file = folder / "adapter_model.safetensors"
    save_file(load_file(file) | {f"base_model.model.{name}": torch.zeros(shape)}, file)
    fresh = plain(model, tmp_path)
    before = packed_logits(fresh, TEXTS)
    with pytest.raises(AdapterError, match=message):
        load_adapter(fresh, folder)
    assert not any(isinstance(module, LoraLinear) for module in fresh.modules())
    assert torch.equal(packed_logits(fresh, TEXTS), before)


def test_a_file_without_tensors_is_refused(model: CausalLM, folder: Path) -> None:
    write_adapter(folder, model)
    save_file({}, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="holds no tensors"):
        load_adapter(model, folder)


def test_an_adapter_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    wider = ours(tiny_llama(changes={"hidden_size": 80, "head_dim": 16}), tmp_path / "wider")
    write_adapter(folder, wider)
    with pytest.raises(AdapterError, match="base_model_name_or_path"):
        load_adapter(ours(tiny_llama(), tmp_path / "plain"), folder)
