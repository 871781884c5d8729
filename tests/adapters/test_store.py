"""Adapter files are PEFT's in both directions; what veneer does not do is refused by name."""

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
from torch import Tensor

from peft_folders import randomise, their_adapter, write_adapter
from tiny import write_model
from tiny_models import documents, largest_difference, ours, packed_hidden, packed_logits, their_logits, tiny_llama
from veneer import expressions
from veneer.adapters.combine import WeightedAdapter
from veneer.adapters.inject import inject
from veneer.adapters.linear import LoraLinear
from veneer.adapters.modules_to_save import SavedModule
from veneer.adapters.spec import LoraSpec
from veneer.adapters.store import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    check_expressions,
    load_adapter,
    read_config,
    read_tensors,
    save_adapter,
)
from veneer.errors import AdapterError
from veneer.io.checkpoint import open_checkpoint
from veneer.load import WeightForm, load_model
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


def test_an_adapter_goes_on_a_quantised_base(model: CausalLM, folder: Path, tmp_path: Path) -> None:
    write_adapter(folder, model)
    quantised = ours(tiny_llama(), tmp_path / "again", form=WeightForm.QUANTIZED)
    adapter = load_adapter(quantised, folder)
    assert all(torch.equal(t, adapter.tensors()[name]) for name, t in read_tensors(folder).items())


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"no adapter_config\.json there"):
        read_config(tmp_path)


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
        load_adapter(plain(model, tmp_path), folder)


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


@pytest.mark.scenario(number=32)
def test_an_adapter_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    wider = ours(tiny_llama(changes={"hidden_size": 80, "head_dim": 16}), tmp_path / "wider")
    write_adapter(folder, wider)
    with pytest.raises(AdapterError, match="base_model_name_or_path"):
        load_adapter(ours(tiny_llama(), tmp_path / "plain"), folder)


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Write the tensors of a saved adapter again, changed."""
    save_file(change(load_file(folder / WEIGHTS_FILE)), folder / WEIGHTS_FILE)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_tensors_of_no_float_dtype_are_refused(dtype: torch.dtype, model: CausalLM, folder: Path) -> None:
    write_adapter(folder, model, target_modules=("q_proj",))
    rewrite(folder, lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()})
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
    with pytest.raises(AdapterError, match="stands twice in the header"):
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

    rewrite(folder, live)
    assert all(".default" in name for name in load_file(folder / WEIGHTS_FILE))
    found = read_tensors(folder)
    assert found.keys() == expected.keys() == adapter.tensors().keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    rewrite(folder, lambda own: own | {re.sub(r"\.default", "", name): t.clone() for name, t in own.items()})
    with pytest.raises(AdapterError, match="a second time"):
        read_tensors(folder)


@pytest.mark.scenario(number=32)
def test_a_targeted_layer_without_tensors_is_an_error(model: CausalLM, folder: Path, tmp_path: Path) -> None:
    write_adapter(folder, model, target_modules=("q_proj", "up_proj"))
    base = ours(tiny_llama(), tmp_path / "again")
    before = packed_logits(base, TEXTS)
    rewrite(folder, lambda tensors: {name: t for name, t in tensors.items() if "layers.1.mlp.up_proj" not in name})
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


def test_a_module_to_save_without_tensors_is_an_error(model: CausalLM, folder: Path, tmp_path: Path) -> None:
    write_adapter(folder, model, target_modules=("q_proj",), modules_to_save=("norm", "mlp"))
    rewrite(folder, lambda tensors: {name: tensor for name, tensor in tensors.items() if ".mlp." not in name})
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
    rewrite(folder, lambda tensors: {name: t for name, t in tensors.items() if not re.search(lost, name)})
    before = packed_logits(model, TEXTS)
    with pytest.raises(AdapterError, match=rf"lacks .*{named}"):
        load_adapter(model, folder)
    assert torch.equal(packed_logits(model, TEXTS), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": "([a-z._0-9]+)+!"}, "takes too long to match"),
        ({"exclude_modules": "([a-z._0-9]+)+!"}, "takes too long to match"),
        ({"rank_pattern": {"([a-z._0-9]+)+!": 4}}, "takes too long to match"),
        ({"alpha_pattern": {"(": 4}}, r"'\(': no regular expression"),
    ],
)
def test_expressions_that_cannot_be_used_are_refused(
    settings: dict[str, Any], message: str, model: CausalLM, folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write_adapter(folder, model)
    monkeypatch.setattr(expressions, "SECONDS", 1)
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(config | settings))
    with pytest.raises(AdapterError, match=message):
        check_expressions(read_config(folder)[0], plain(model, tmp_path).linear_paths(), folder)


@pytest.mark.parametrize("read", [load_adapter, lambda model, folder: WeightedAdapter.read(folder)])
def test_expressions_are_tried_before_they_are_used(
    read: Callable[[CausalLM, Path], object], model: CausalLM, folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write_adapter(folder, model)
    monkeypatch.setattr(expressions, "SECONDS", 1)
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(config | {"exclude_modules": "([a-z._0-9]+)+!"}))
    with pytest.raises(AdapterError, match="takes too long to match"):
        read(plain(model, tmp_path), folder)


@pytest.mark.scenario(number=32)
@pytest.mark.parametrize("settings", [{"r": 1 << 40}, {"rank_pattern": {"q_proj": 1 << 40}}])
def test_a_rank_that_no_tensor_has_is_refused_before_anything_is_allocated(
    settings: dict[str, Any], model: CausalLM, folder: Path, tmp_path: Path
) -> None:
    write_adapter(folder, model)
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(config | settings))
    with pytest.raises(AdapterError, match=r"q_proj\.lora_A\.weight: shape \[\d+, \d+\], the rank is 1099511627776"):
        load_adapter(plain(model, tmp_path), folder)


def test_embedding_and_head_of_an_untied_model_are_saved_apart_whatever_the_file_says_of_tying(tmp_path: Path) -> None:
    base, folder = write_model(tmp_path / "base", tied=False), tmp_path / "adapter"
    folder.mkdir()
    spec = LoraSpec(rank=2, alpha=2.0, modules_to_save=("embed_tokens", "lm_head"), tied_modules=True)
    trained = inject(load_model(open_checkpoint(base), dtype=torch.float32), spec)
    with torch.no_grad():
        for number, parameter in enumerate(trained.parameters()):
            parameter.add_(0.01 * number)
    save_adapter(folder, trained, base="base")
    assert json.loads((folder / CONFIG_FILE).read_text())["ensure_weight_tying"] is True
    opened = load_adapter(load_model(open_checkpoint(base), dtype=torch.float32), folder).tensors()
    expected = trained.tensors()
    assert opened.keys() == expected.keys() >= {"model.embed_tokens.weight", "lm_head.weight"}
    assert all(torch.equal(opened[name], tensor) for name, tensor in expected.items())
