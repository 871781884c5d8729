"""Saved adapters go on a model; one that does not fit is refused by name, and the model stays as it was."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.adapters.peft_folders import TARGETS, rewrite_tensors, their_adapter, write_adapter
from helpers.models.tiny import write_model
from helpers.models.tiny_models import documents, largest_difference, ours, packed_logits, their_logits, tiny_llama
from helpers.tensors import assert_same_tensors
from veneer.adapters.combine import WeightedAdapter
from veneer.adapters.files.store import CONFIG_FILE, config_warnings, read_spec, read_tensors, save_adapter
from veneer.adapters.inject import inject
from veneer.adapters.layers.linear import LoraLinear
from veneer.adapters.layers.modules_to_save import SavedModule
from veneer.adapters.load import load_adapter
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import EMBEDDING
from veneer.errors import AdapterError
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM
from veneer.text import expressions

TEXTS = documents([21, 8, 1], seed=8)


def plain(tmp_path: Path) -> CausalLM:
    return ours(tiny_llama(), tmp_path / "plain")


@pytest.mark.parametrize("targets", [name for name in TARGETS if name != "everything"])
def test_we_read_what_peft_writes(targets: str, model: CausalLM, folder: Path) -> None:
    chosen = TARGETS[targets]
    theirs = their_adapter(target_modules=chosen if isinstance(chosen, str) else list(chosen), lora_dropout=0.25)
    theirs.save_pretrained(folder)
    adapter = load_adapter(model, folder)
    with torch.no_grad():
        assert largest_difference(packed_logits(model, TEXTS), their_logits(theirs, TEXTS)) < 1e-5
    assert (adapter.spec.rank, adapter.spec.alpha, adapter.spec.dropout) == (4, 6.0, 0.25)
    assert len(adapter.outermost) == sum("lora_A" in name for name, _ in theirs.named_parameters())


@pytest.mark.parametrize("targets", TARGETS)
def test_we_read_what_we_write_to_the_bit(targets: str, model: CausalLM, folder: Path, tmp_path: Path) -> None:
    adapter = write_adapter(folder, model, target_modules=TARGETS[targets], alpha=5.5)
    another = ours(tiny_llama(), tmp_path / "again")
    loaded = load_adapter(another, folder)
    assert loaded.spec.scale == adapter.spec.scale == 5.5 / 4
    assert list(loaded.tensors()) == list(adapter.tensors())
    assert_same_tensors(adapter.tensors(), loaded.tensors())
    assert torch.equal(packed_logits(another, TEXTS), packed_logits(model, TEXTS))


def test_an_adapter_goes_on_a_quantised_base(model: CausalLM, folder: Path, tmp_path: Path) -> None:
    write_adapter(folder, model)
    quantised = ours(tiny_llama(), tmp_path / "again", form=WeightForm.QUANTIZED)
    adapter = load_adapter(quantised, folder)
    assert_same_tensors(adapter.tensors(), read_tensors(folder))


@pytest.mark.scenario(number=31)
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
        load_adapter(plain(tmp_path), folder)


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
    fresh = plain(tmp_path)
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


@pytest.mark.scenario(number=32)
def test_an_adapter_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    wider = ours(tiny_llama(changes={"hidden_size": 80, "head_dim": 16}), tmp_path / "wider")
    write_adapter(folder, wider)
    with pytest.raises(AdapterError, match="base_model_name_or_path"):
        load_adapter(plain(tmp_path), folder)


@pytest.mark.scenario(number=32)
def test_a_targeted_layer_without_tensors_is_an_error(model: CausalLM, folder: Path, tmp_path: Path) -> None:
    write_adapter(folder, model, target_modules=("q_proj", "up_proj"))
    base = ours(tiny_llama(), tmp_path / "again")
    before = packed_logits(base, TEXTS)
    rewrite_tensors(
        folder, lambda tensors: {name: t for name, t in tensors.items() if "layers.1.mlp.up_proj" not in name}
    )
    with pytest.raises(AdapterError, match=r"lacks the updates of layers.*\n  - model\.layers\.1\.mlp\.up_proj\n"):
        load_adapter(base, folder)
    assert torch.equal(packed_logits(base, TEXTS), before)
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(config | {"exclude_modules": r".*\.1\.mlp\.up_proj"}))
    load_adapter(base, folder)


def test_a_whole_submodule_is_saved_and_read_by_both(folder: Path, tmp_path: Path) -> None:
    """`modules_to_save: [mlp]` stands for all modules in every `mlp`, as in PEFT."""
    theirs = their_adapter(target_modules=["q_proj"], modules_to_save=["mlp"])
    theirs.save_pretrained(tmp_path / "theirs")
    read = ours(tiny_llama(), tmp_path / "a")
    adapter = load_adapter(read, tmp_path / "theirs")
    assert len([path for path, module in adapter.modules if isinstance(module, SavedModule)]) == 2 * 3
    assert largest_difference(packed_logits(read, TEXTS), their_logits(theirs, TEXTS)) < 1e-5
    own = ours(tiny_llama(), tmp_path / "b")
    written = write_adapter(folder, own, target_modules=("q_proj",), modules_to_save=("mlp",))
    assert {path for path, _ in written.modules} >= {"model.layers.0.mlp.gate_proj", "model.layers.1.mlp.down_proj"}
    loaded = peft.PeftModel.from_pretrained(tiny_llama(), folder).eval()
    assert largest_difference(packed_logits(own, TEXTS), their_logits(loaded, TEXTS)) < 1e-5


def test_a_module_to_save_that_the_model_lacks_is_passed_over_as_in_peft_and_told_of(tmp_path: Path) -> None:
    theirs = their_adapter(target_modules=["q_proj"], modules_to_save=["norm", "lm_haed", "classifier"])
    theirs.save_pretrained(tmp_path / "theirs")
    read = ours(tiny_llama(), tmp_path / "a")
    load_adapter(read, tmp_path / "theirs")
    assert largest_difference(packed_logits(read, TEXTS), their_logits(theirs, TEXTS)) < 1e-5
    (warning,) = config_warnings(tmp_path / "theirs", read_spec(tmp_path / "theirs"))
    assert "modules_to_save" in warning
    assert sorted(re.findall(r"\n  - (\w+)", warning)) == ["classifier", "lm_haed"]


def test_a_module_to_save_without_tensors_is_an_error(model: CausalLM, folder: Path, tmp_path: Path) -> None:
    write_adapter(folder, model, target_modules=("q_proj",), modules_to_save=("norm", "mlp"))
    rewrite_tensors(folder, lambda tensors: {name: tensor for name, tensor in tensors.items() if ".mlp." not in name})
    with pytest.raises(
        AdapterError, match=r"lacks the weights of modules .* modules_to_save:(\n  - model\.layers\.\d\.mlp.*){6}\nSave"
    ):
        load_adapter(ours(tiny_llama(), tmp_path / "again"), folder)


@pytest.mark.scenario(number=32)
@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, of adapted embeddings
@pytest.mark.parametrize(
    ("settings", "lost", "named"),
    [
        (
            {"modules_to_save": ["mlp"]},
            r"layers\.1\.mlp\.",
            r"modules_to_save:(\n  - model\.layers\.1\.mlp\.\w+){3}\nS",
        ),
        ({"modules_to_save": ["norm"]}, r"layers\.0\.input", r"modules_to_save:\n  - model\.layers\.0\.input_\w+\nS"),
        ({"modules_to_save": ["norm", "lm_head"]}, "lm_head", r"modules_to_save:\n  - lm_head\nSave"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head", r"targets:\n  - lm_head\nSave"),
        ({"target_modules": ["v_proj", "embed_tokens"]}, "embed_tokens", r"targets:\n  - model\.embed_tokens\nSave"),
    ],
)
def test_what_is_missing_in_some_layers_of_an_adapter_of_peft_is_named(
    settings: dict[str, Any], lost: str, named: str, model: CausalLM, folder: Path
) -> None:
    their_adapter(**({"target_modules": ["q_proj"]} | settings)).save_pretrained(folder)
    rewrite_tensors(folder, lambda tensors: {name: t for name, t in tensors.items() if not re.search(lost, name)})
    before = packed_logits(model, TEXTS)
    with pytest.raises(AdapterError, match=rf"lacks .*{named}"):
        load_adapter(model, folder)
    assert torch.equal(packed_logits(model, TEXTS), before)


@pytest.mark.parametrize("read", [load_adapter, lambda model, folder: WeightedAdapter.read(folder)])
def test_expressions_are_tried_before_they_are_used(
    read: Callable[[CausalLM, Path], object], model: CausalLM, folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write_adapter(folder, model)
    monkeypatch.setattr(expressions, "SECONDS", 1)
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(config | {"exclude_modules": "([a-z._0-9]+)+!"}))
    with pytest.raises(AdapterError, match=r"takes more than [0-9]+ seconds to match"):
        read(plain(tmp_path), folder)


@pytest.mark.scenario(number=32)
@pytest.mark.parametrize("settings", [{"r": 1 << 40}, {"rank_pattern": {"q_proj": 1 << 40}}])
def test_a_rank_that_no_tensor_has_is_refused_before_anything_is_allocated(
    settings: dict[str, Any], model: CausalLM, folder: Path, tmp_path: Path
) -> None:
    write_adapter(folder, model)
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(config | settings))
    with pytest.raises(AdapterError, match=r"q_proj\.lora_A\.weight: shape \[\d+, \d+\], the rank is 1099511627776"):
        load_adapter(plain(tmp_path), folder)


@pytest.mark.scenario(number=32)
@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        ([-1], r"trainable_token_indices: -1, must be at least 0 and below 16,777,216"),
        ([1 << 24], r"trainable_token_indices: 16777216, must be at least 0 and below 16,777,216"),
        ([96 + 1000], r"embed_tokens: token 1096 makes 1,001 new rows, of which 1 are trained; .* has 96 tokens"),
        ([3, 4], r"delta: shape \[1, \d+\], adapter_config.json names 2 tokens"),
        (list(range(96, 1096)), r"delta: shape \[1, \d+\], adapter_config.json names 1,000 tokens"),
    ],
)
def test_trained_tokens_that_no_row_is_saved_for_are_refused_before_anything_is_allocated(
    ids: list[int], problem: str, model: CausalLM, folder: Path, tmp_path: Path
) -> None:
    write_adapter(folder, model, trainable_tokens={EMBEDDING: (3,)})
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(config | {"trainable_token_indices": ids}))
    base = plain(tmp_path)
    embedding, rows = base.embedding, base.spec.vocab_size
    with pytest.raises(AdapterError, match=problem):
        load_adapter(base, folder)
    assert base.embedding is embedding
    assert base.spec.vocab_size == rows == 96


def test_a_whole_path_outside_of_the_chosen_layers_may_be_without_an_update(
    model: CausalLM, folder: Path, tmp_path: Path
) -> None:
    """Earlier versions trained none there."""
    written = write_adapter(folder, model, target_modules=("q_proj",), layers_to_transform=(1,)).tensors()
    config = json.loads((folder / CONFIG_FILE).read_text())
    names = ["q_proj", "model.layers.0.self_attn.o_proj"]
    (folder / CONFIG_FILE).write_text(json.dumps(config | {"target_modules": names}))
    assert load_adapter(plain(tmp_path), folder).tensors().keys() == written.keys()


def test_embedding_and_head_of_an_untied_model_are_saved_apart_whatever_the_file_says_of_tying(tmp_path: Path) -> None:
    base, folder = write_model(tmp_path / "base", tied=False), tmp_path / "adapter"
    folder.mkdir()
    spec = LoraSpec(rank=2, alpha=2.0, modules_to_save=("embed_tokens", "lm_head"), tied_modules=True)
    trained = inject(load_model(open_checkpoint(base), Loading(dtype=torch.float32)), spec)
    with torch.no_grad():
        for number, parameter in enumerate(trained.parameters()):
            parameter.add_(0.01 * number)
    save_adapter(folder, trained, base="base")
    assert json.loads((folder / CONFIG_FILE).read_text())["ensure_weight_tying"] is True
    opened = load_adapter(load_model(open_checkpoint(base), Loading(dtype=torch.float32)), folder).tensors()
    expected = trained.tensors()
    assert expected.keys() >= {"model.embed_tokens.weight", "lm_head.weight"}
    assert_same_tensors(opened, expected)
