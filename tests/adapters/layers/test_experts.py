"""Adapters on experts: PEFT's `target_parameters`, read, written, trained and merged, with PEFT as the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from helpers.models.tiny_mixtures import EXPERTS, KINDS, tiny_mixture
from helpers.models.tiny_models import documents, largest_difference, packed_hidden, packed_logits, their_logits
from veneer.adapters.adapter_set import AdapterSet
from veneer.adapters.files.store import save_adapter
from veneer.adapters.inject import inject
from veneer.adapters.layers.experts import ExpertsUpdate
from veneer.adapters.load import load_adapter
from veneer.adapters.spec import LoraSpec
from veneer.enums import Bias, Factors, Init, Scaling, Variant
from veneer.errors import AdapterError, ConfigError
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.losses.linear_head import linear_cross_entropy
from veneer.model.decoder import CausalLM, plain_weight
from veneer.model.recompute import Recomputation
from veneer.quant.packed import PackedLinear

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    # PEFT says of every pattern for a parameter that it was ignored, and applies it.
    pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys:RuntimeWarning"),
]
TEXTS = documents([21, 8, 13], seed=8)
BOTH = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
ROUTERS = {"mixtral": "gate", "qwen3_moe": "gate", "gpt_oss": "router"}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def model_and_files(kind: str, folder: Path, seed: int = 0) -> tuple[PreTrainedModel, Checkpoint]:
    model = tiny_mixture(kind, seed)
    model.save_pretrained(folder)
    return model, open_checkpoint(folder)


def load(files: Checkpoint, form: WeightForm = WeightForm.FROZEN) -> CausalLM:
    return load_model(files, Loading(form=form, dtype=torch.float32)).eval()


def stir(parameters: list[nn.Parameter], seed: int = 5) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def loss_of(logits: Tensor) -> Tensor:
    """Of the next token, over all documents."""
    ends = torch.tensor([len(text) for text in TEXTS]).cumsum(0) - 1
    rows = [row for row in range(len(logits)) if row not in ends.tolist()]
    targets = torch.tensor([token for text in TEXTS for token in text[1:]])
    return nn.functional.cross_entropy(logits[rows], targets)


SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # Ours, and what it is in PEFT's words.
    "everything": ({}, {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "target_parameters": BOTH}),
    "experts alone": (
        {"target_modules": ("gate_up_proj", "down_proj")}, {"target_modules": [], "target_parameters": BOTH},
    ),
    "gate and up": (
        {"target_modules": ("q_proj", "gate_up_proj")}, {"target_modules": ["q_proj"], "target_parameters": BOTH[:1]},
    ),
    "down": ({"target_modules": ("experts.down_proj",)}, {"target_modules": [], "target_parameters": BOTH[1:]}),
    "ranks": (
        {"rank_pattern": {"experts.down_proj": 2, "q_proj": 1}, "alpha_pattern": {"gate_up_proj": 3.0}},
        {
            "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "target_parameters": BOTH,
            "rank_pattern": {"experts.down_proj": 2, "q_proj": 1}, "alpha_pattern": {"gate_up_proj": 3.0},
        },
    ),
    "rslora": (
        {"scaling": Scaling.RSLORA},
        {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "target_parameters": BOTH, "use_rslora": True},
    ),
    "one layer": (
        {"layers_to_transform": (1,), "target_modules": ("v_proj", "gate_up_proj")},
        {
            "target_modules": ["model.layers.1.self_attn.v_proj"],
            "target_parameters": ["model.layers.1.mlp.experts.gate_up_proj"],
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_saved_is_the_same_model_in_peft(name: str, kind: str, tmp_path: Path) -> None:
    theirs, files = model_and_files(kind, tmp_path / "base")
    model = load(files)
    adapter = inject(model, LoraSpec(**({"rank": 3, "alpha": 6.0} | SETTINGS[name][0])), seed=1)
    stir(adapter.parameters())
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", adapter, base="base")
    with torch.no_grad():
        expected = packed_logits(model, TEXTS)
        again = load(files)
        loaded = load_adapter(again, tmp_path / "adapter")
        assert torch.equal(packed_logits(again, TEXTS), expected)
        (tmp_path / "twice").mkdir()
        save_adapter(tmp_path / "twice", loaded, base="base")
        for folder in ("adapter", "twice"):
            adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / folder).eval()
            assert largest_difference(their_logits(adapted, TEXTS), expected) < 1e-4
            theirs = adapted.unload()


@pytest.mark.parametrize("name", SETTINGS)
def test_an_adapter_of_peft_starts_equal_and_has_equal_gradients(name: str, kind: str, tmp_path: Path) -> None:
    theirs, files = model_and_files(kind, tmp_path / "base", seed=2)
    ours, settings = SETTINGS[name]
    torch.manual_seed(11)
    adapted = peft.get_peft_model(theirs, peft.LoraConfig(**({"r": 3, "lora_alpha": 6} | settings))).eval()
    model = load(files)
    drawn = inject(model, LoraSpec(**({"rank": 3, "alpha": 6.0} | ours)), seed=11)
    own = {n.replace(".default", ""): p for n, p in adapted.named_parameters() if p.requires_grad}
    named = {f"base_model.model.{n}": tensor for n, tensor in drawn.named_parameters().items()}
    assert own.keys() == named.keys()
    if not name.startswith("one layer"):
        for key, tensor in own.items():
            assert torch.equal(tensor, named[key]), key
    stir(list(own.values()))
    adapted.save_pretrained(tmp_path / "adapter")
    again = load(files)
    adapter = load_adapter(again, tmp_path / "adapter")
    logits = packed_logits(again, TEXTS)
    expected = their_logits(adapted, TEXTS)
    assert largest_difference(logits, expected) < 1e-4
    loss_of(logits).backward()
    loss_of(expected).backward()
    for key, tensor in adapter.named_parameters().items():
        theirs_grad = own[f"base_model.model.{key}"].grad
        assert theirs_grad is not None
        assert tensor.grad is not None
        assert largest_difference(tensor.grad, theirs_grad) < 1e-4, key


def test_a_router_is_adapted_where_it_is_named(kind: str, tmp_path: Path) -> None:
    theirs, files = model_and_files(kind, tmp_path / "base", seed=3)
    model = load(files)
    router = ROUTERS[kind]
    spec = LoraSpec(rank=2, alpha=4.0, target_modules=("v_proj", router), rank_pattern={router: 3})
    adapter = inject(model, spec)
    assert f"model.layers.0.mlp.{router}.lora_A.weight" in adapter.tensors()
    stir(adapter.parameters())
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", adapter, base="base")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert f"model.layers.0.mlp.{router}.weight" in config["target_parameters"]
    again = load(files)
    load_adapter(again, tmp_path / "adapter")
    with torch.no_grad():
        expected = packed_logits(model, TEXTS)
        adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
        assert largest_difference(their_logits(adapted, TEXTS), expected) < 1e-4
        assert torch.equal(packed_logits(again, TEXTS), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ("q_proj", "up_proj")},
        {"target_modules": ("q_proj", "gate_proj", "mlp.up_proj"), "rank_pattern": {"gate_proj": 5}},
        {"target_modules": r".*\.(v|up)_proj", "init": Init.PISSA},
        {"target_modules": ("q_proj", "up_proj"), "exclude_modules": ("mlp.up_proj",)},
        {"layers_to_transform": (0,), "scaling": Scaling.RSLORA},
        {"bias": Bias.ALL, "target_modules": ("gate_proj", "up_proj")},
    ],
)
def test_dense_layers_of_a_mixture_are_adapted_without_its_experts(settings: dict[str, Any], tmp_path: Path) -> None:
    """PEFT takes `up_proj` and its like among `target_modules` for the experts of a Qwen3-MoE."""
    theirs = tiny_mixture("qwen3_moe", seed=3, mlp_only_layers=[0], attention_bias=True)
    theirs.save_pretrained(tmp_path / "base")
    files = open_checkpoint(tmp_path / "base")
    model = load(files)
    adapter = inject(model, LoraSpec(**({"rank": 3, "alpha": 6.0} | settings)))
    stir(adapter.parameters())
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", adapter, base="base")
    again = load(files)
    loaded = load_adapter(again, tmp_path / "adapter")
    (tmp_path / "twice").mkdir()
    save_adapter(tmp_path / "twice", loaded, base="base")
    with torch.no_grad():
        expected = packed_logits(model, TEXTS)
        assert largest_difference(packed_logits(again, TEXTS), expected) < 1e-4
        for folder in ("adapter", "twice"):
            adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / folder).eval()
            assert largest_difference(their_logits(adapted, TEXTS), expected) < 1e-4
            theirs = adapted.unload()


def test_a_router_among_modules_to_save_is_refused_with_the_way_to_train_it(kind: str, tmp_path: Path) -> None:
    theirs, files = model_and_files(kind, tmp_path / "base")
    router = ROUTERS[kind]
    reason = rf"model\.layers\.0\.mlp\.{router}: is a mixture's router, .* name it in target_modules instead"
    with pytest.raises(AdapterError, match=reason):
        inject(load(files), LoraSpec(rank=2, alpha=4.0, target_modules=("q_proj",), modules_to_save=(router,)))
    adapted = peft.get_peft_model(theirs, peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=[router]))
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(AdapterError, match=reason):
        load_adapter(load(files), tmp_path / "adapter")


def test_all_linear_leaves_routers_alone(kind: str, tmp_path: Path) -> None:
    _, files = model_and_files(kind, tmp_path)
    model = load(files)
    names = {name.rpartition(".lora_")[0] for name in inject(model, LoraSpec(rank=2, alpha=4.0)).tensors()}
    assert not any(ROUTERS[kind] in name.split(".") for name in names)
    assert {name.rpartition(".")[2] for name in names} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "experts",
        "base_layer",
    }


def test_a_merged_model_is_the_live_adapter(kind: str, tmp_path: Path) -> None:
    from helpers.texts.tiny_tokenizers import byte_level_tokenizer, save_tokenizer
    from veneer.config import QuantSection
    from veneer.exports.base import MergeBase, TrainingBase, open_source
    from veneer.exports.merge import write_merged

    _, files = model_and_files(kind, tmp_path / "base", seed=4)
    save_tokenizer(tmp_path / "base", byte_level_tokenizer(), {"eos_token": "<|im_end|>"})
    for form, base in ((WeightForm.FROZEN, MergeBase.ORIGINAL), (WeightForm.QUANTIZED, MergeBase.DEQUANTISED)):
        model = load(files, form)
        spec = LoraSpec(rank=3, alpha=6.0, target_modules=("v_proj", "gate_up_proj", "down_proj", ROUTERS[kind]))
        adapter = inject(model, spec)
        stir(adapter.parameters())
        folder, merged = tmp_path / f"adapter-{base.value}", tmp_path / f"merged-{base.value}"
        folder.mkdir()
        merged.mkdir()
        save_adapter(folder, adapter, base="base")
        trained = TrainingBase(form is WeightForm.QUANTIZED, QuantSection(), torch.float32)
        write_merged(merged, open_source(files, folder, base, trained), torch.float32)
        with torch.no_grad():
            expected = packed_logits(model, TEXTS)
            theirs = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
            assert largest_difference(their_logits(theirs, TEXTS), expected) < 1e-4
            assert largest_difference(packed_logits(load(open_checkpoint(merged)), TEXTS), expected) < 1e-5


@pytest.mark.parametrize("form", [WeightForm.FROZEN, WeightForm.QUANTIZED])
def test_a_few_steps_learn_and_peft_has_the_same_model(form: WeightForm, kind: str, tmp_path: Path) -> None:
    theirs, files = model_and_files(kind, tmp_path / "base", seed=5)
    model = load(files, form)
    linear = model.get_submodule("model.layers.1.mlp.experts.2.up_proj")
    assert isinstance(linear, PackedLinear) == (form is WeightForm.QUANTIZED)
    adapter = inject(model, LoraSpec(rank=4, alpha=8.0))
    losses = []
    for _ in range(4):
        hidden = packed_hidden(model, TEXTS)
        weight = plain_weight(model.lm_head)
        assert weight is not None
        rows = [*range(20), *range(21, 28), *range(29, 41)]
        targets = torch.tensor([token for text in TEXTS for token in text[1:]])
        loss = linear_cross_entropy(hidden[rows], weight, targets) / len(rows)
        loss.backward()
        losses.append(float(loss.detach()))
        with torch.no_grad():
            for parameter in adapter.parameters():
                assert parameter.grad is not None
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
    assert losses == sorted(losses, reverse=True)
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", adapter, base="base")
    with torch.no_grad():
        if form is WeightForm.QUANTIZED:
            decode_into(theirs, model)
        adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
        assert largest_difference(their_logits(adapted, TEXTS), packed_logits(model, TEXTS)) < 1e-4


def test_what_is_partly_changed_is_merged_and_4_bit_files_are_refused(kind: str, tmp_path: Path) -> None:
    from helpers.texts.tiny_tokenizers import byte_level_tokenizer, save_tokenizer
    from veneer.config import QuantSection
    from veneer.exports.base import MergeBase, TrainingBase, open_source
    from veneer.exports.merge import write_merged
    from veneer.quantization import quantize

    _, files = model_and_files(kind, tmp_path / "base", seed=4)
    save_tokenizer(tmp_path / "base", byte_level_tokenizer(), {"eos_token": "<|im_end|>"})
    model = load(files, WeightForm.QUANTIZED)
    adapter = inject(model, LoraSpec(rank=3, alpha=6.0, target_modules=("down_proj",)))
    stir(adapter.parameters())
    (tmp_path / "adapter").mkdir()
    (tmp_path / "merged").mkdir()
    save_adapter(tmp_path / "adapter", adapter, base="base")
    source = open_source(
        files, tmp_path / "adapter", MergeBase.DEQUANTISED, TrainingBase(True, QuantSection(), torch.float32)
    )
    with pytest.raises(ConfigError, match="has its weights in experts"):
        write_merged(tmp_path / "merged", source, torch.float32, QuantSection())
    write_merged(tmp_path / "merged", source, torch.float32)
    with torch.no_grad():
        again = load(open_checkpoint(tmp_path / "merged"))
        assert largest_difference(packed_logits(again, TEXTS), packed_logits(model, TEXTS)) < 1e-5
    with pytest.raises(ConfigError, match="has its weights in experts"):
        quantize(str(tmp_path / "base"), tmp_path / "packed")


def decode_into(theirs: PreTrainedModel, model: CausalLM) -> None:
    """Give transformers' model the weights that ours decodes."""
    turned = theirs.config.model_type == "gpt_oss"
    for layer, block in enumerate(theirs.model.layers):
        for leaf in ("q_proj", "k_proj", "v_proj", "o_proj"):
            decoded = base_of(model.get_submodule(f"model.layers.{layer}.self_attn.{leaf}")).dequantize(torch.float32)
            block.self_attn.get_submodule(leaf).weight.copy_(decoded)
        experts = model.get_submodule(f"model.layers.{layer}.mlp.experts")
        assert isinstance(experts, ExpertsUpdate)
        for number in range(EXPERTS):
            own = {
                leaf: module.dequantize(torch.float32) for leaf, module in experts.base.expert(number).named_children()
            }
            both = torch.cat((own["gate_proj"], own["up_proj"]))
            if turned:
                both = torch.stack((own["gate_proj"], own["up_proj"]), 1).flatten(0, 1)
            for name, weight in (("gate_up_proj", both), ("down_proj", own["down_proj"])):
                block.mlp.experts.get_parameter(name)[number].copy_(weight.t() if turned else weight)


def base_of(module: nn.Module) -> Any:
    return module.base if isinstance(module.base, nn.Module) else module


def test_recomputation_gives_the_same_gradients(kind: str, tmp_path: Path) -> None:
    _, files = model_and_files(kind, tmp_path, seed=6)
    grads = []
    for recomputation in (None, Recomputation()):
        model = load(files)
        adapter = inject(model, LoraSpec(rank=3, alpha=6.0))
        stir(adapter.parameters())
        model.model.recomputation = recomputation
        loss_of(packed_logits(model, TEXTS)).backward()
        grads.append({name: parameter.grad for name, parameter in adapter.named_parameters().items()})
    for name, grad in grads[0].items():
        other = grads[1][name]
        assert grad is not None
        assert other is not None
        assert torch.equal(grad, other)


def test_rows_under_different_adapters_in_one_pass(kind: str, tmp_path: Path) -> None:
    _, files = model_and_files(kind, tmp_path / "base", seed=7)
    model = load(files)
    adapters = AdapterSet(model)
    for number, name in enumerate(("one", "two")):
        other = load(files)
        adapter = inject(other, LoraSpec(rank=2 + number, alpha=4.0), seed=number)
        stir(adapter.parameters(), seed=number)
        (tmp_path / name).mkdir()
        save_adapter(tmp_path / name, adapter, base="base")
        adapters.load(name, tmp_path / name)
    names = ("one", None, "two")
    alone = []
    with torch.no_grad():
        for name, text in zip(names, TEXTS, strict=True):
            adapters.use(name)
            alone.append(packed_logits(model, [text]))
        with adapters.by_row(names) as rows:
            rows.lay(range(3), [len(text) for text in TEXTS])
            assert largest_difference(packed_logits(model, TEXTS), torch.cat(alone)) < 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {"dropout": 0.1},
        {"variant": Variant.DORA},
        {"factor_bias": True},
        {"bias": Bias.ALL},
        {"init": Init.PISSA},
        {"init": Init.EVA},
        {"factors": Factors.B},
    ],
)
def test_what_such_an_adapter_cannot_do_is_refused_with_the_reason(settings: dict[str, Any], tmp_path: Path) -> None:
    _, files = model_and_files("mixtral", tmp_path)
    model = load(files)
    before = packed_logits(model, TEXTS)
    with pytest.raises(AdapterError, match=r"target experts.*|.*and target experts"):
        inject(model, LoraSpec(rank=2, alpha=4.0, **settings))
    assert torch.equal(packed_logits(model, TEXTS), before)
    attention = LoraSpec(rank=2, alpha=4.0, target_modules=("q_proj", "v_proj"), dropout=0.1)
    assert inject(model, attention).updates().keys() == {
        f"model.layers.{layer}.self_attn.{leaf}" for layer in (0, 1) for leaf in ("q_proj", "v_proj")
    }


def test_ranks_above_an_experts_smaller_side_are_taken(tmp_path: Path) -> None:
    _, files = model_and_files("mixtral", tmp_path)
    adapter = inject(load(files), LoraSpec(rank=2, alpha=4.0, rank_pattern={"down_proj": 49}))
    assert any(49 * EXPERTS in parameter.shape for parameter in adapter.parameters())


def test_factors_that_no_target_claims_are_refused(tmp_path: Path) -> None:
    _, files = model_and_files("mixtral", tmp_path / "base")
    model = load(files)
    adapter = inject(model, LoraSpec(rank=2, alpha=4.0, target_modules=("down_proj",)))
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", adapter, base="base")
    file = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"target_parameters": None, "target_modules": ["q_proj"]}), encoding="utf-8")
    with pytest.raises(AdapterError, match="target_parameters name none of the experts' parameters"):
        load_adapter(load(files), tmp_path / "adapter")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gpt_oss", {"target_modules": r".*layers\.[01]\..*(v_proj|down_proj)"}),
        ("mixtral", {"target_modules": ".*_proj", "target_parameters": ["gate_up_proj"]}),
        ("qwen3_moe", {"target_modules": "(?i).*_PROJ", "target_parameters": ["mlp.experts.down_proj"]}),
        ("qwen3_moe", {"target_modules": ["q_proj"], "target_parameters": ["down_proj"]}),
        ("qwen3_moe", {"target_modules": "all-linear", "target_parameters": ["gate_up_proj"]}),
    ],
)
def test_modules_and_parameters_are_named_apart_as_in_peft(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """An expression means modules, a parameter's name no module of a dense layer, of which Qwen3-MoE has one here."""
    theirs = tiny_mixture(kind, **({"mlp_only_layers": [1]} if kind == "qwen3_moe" else {}))
    theirs.save_pretrained(tmp_path / "base")
    files = open_checkpoint(tmp_path / "base")
    adapted = peft.get_peft_model(theirs, peft.LoraConfig(r=3, lora_alpha=6, **settings)).eval()
    stir([parameter for parameter in adapted.parameters() if parameter.requires_grad])
    adapted.save_pretrained(tmp_path / "adapter")
    model = load(files)
    load_adapter(model, tmp_path / "adapter")
    with torch.no_grad():
        assert largest_difference(packed_logits(model, TEXTS), their_logits(adapted, TEXTS)) < 1e-4


def test_factors_for_each_expert_are_refused_until_peft_has_joined_them(tmp_path: Path) -> None:
    """PEFT makes one pair of factors of those that it wrote beside transformers 4, when it opens them."""
    theirs, files = model_and_files("qwen3_moe", tmp_path / "base")
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(2):
        for expert in range(EXPERTS):
            for leaf, sizes in {"gate_proj": (40, 64), "up_proj": (40, 64), "down_proj": (64, 40)}.items():
                name = f"base_model.model.model.layers.{layer}.mlp.experts.{expert}.{leaf}"
                tensors[f"{name}.lora_A.weight"] = 0.1 * torch.randn(2, sizes[1], generator=generator)
                tensors[f"{name}.lora_B.weight"] = 0.1 * torch.randn(sizes[0], 2, generator=generator)
    (tmp_path / "old").mkdir()
    save_file(tensors, tmp_path / "old" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["gate_proj", "up_proj", "down_proj"]}
    config |= {"task_type": "CAUSAL_LM", "base_model_name_or_path": str(tmp_path / "base")}
    (tmp_path / "old" / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(
        AdapterError, match=r"separate factors for each expert(?s:.)*experts\.0\.down_proj(?s:.)*save it again"
    ):
        load_adapter(load(files), tmp_path / "old")
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "old").eval()
    adapted.save_pretrained(tmp_path / "joined")
    model = load(files)
    load_adapter(model, tmp_path / "joined")
    with torch.no_grad():
        assert largest_difference(packed_logits(model, TEXTS), their_logits(adapted, TEXTS)) < 1e-4


def test_trained_biases_of_routers_are_refused_as_what_they_are(tmp_path: Path) -> None:
    """PEFT's `bias: all` means whatever has `bias` in its name; a router's is none of a linear layer."""
    theirs, files = model_and_files("gpt_oss", tmp_path / "base")
    for bias in ("all", "lora_only"):
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], bias=bias, task_type="CAUSAL_LM")
        adapted = peft.get_peft_model(theirs, config)
        adapted.save_pretrained(tmp_path / bias)
        theirs = adapted.unload()
    load_adapter(load(files), tmp_path / "lora_only")
    named = r"biases of routers(?s:.)*\n  - model\.layers\.0\.mlp\.router\.bias\n(?s:.)*bias: lora_only"
    with pytest.raises(AdapterError, match=named):
        load_adapter(load(files), tmp_path / "all")
