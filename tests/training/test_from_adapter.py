"""A run that starts from an adapter is that adapter, trained further."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.models.tiny import rows as some_rows
from helpers.models.tiny import run_config, write_model, write_rows
from veneer.adapters.files.store import read_tensors
from veneer.backends.describe import describe_model
from veneer.config import RunConfig
from veneer.data.records import read_records
from veneer.data.trained_rows import trained_among
from veneer.enums import Method
from veneer.errors import AdapterError, CheckpointError, ConfigError, Interrupted
from veneer.events import Event, Level, Note
from veneer.io.checkpoint import open_checkpoint
from veneer.quantization import quantize
from veneer.reproduction.run import reproduce
from veneer.run_folder import RunFolder
from veneer.training.from_adapter import StartAdapter
from veneer.training.run import train

KINDS = {
    "lora": (),
    "dora": ("lora.variant=dora",),
    "rslora": ("lora.scaling=rslora", "lora.rank_pattern={q_proj: 2}"),
    "pissa": ("lora.init=pissa",),
    "saved, in a layer that is updated elsewhere": ("lora.modules_to_save=[layers.0.self_attn.o_proj]",),
    "saved": ("lora.modules_to_save=[norm]", "lora.target_modules=[q_proj, down_proj]"),
}


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def further(model: Path, data: Path, output: Path, adapter: Path, *more: str) -> RunConfig:
    config = run_config(model, data, output, f"train.from_adapter={adapter}", "train.steps=4", *more)
    # The helper names a rank and an alpha of its own, which are the adapter's to say.
    return config.model_copy(update={"lora": type(config.lora)()})


@pytest.mark.parametrize("kind", KINDS)
def test_training_begins_at_the_adapter(kind: str, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    """At a learning rate of nearly nothing the result is the adapter, in every tensor."""
    first = train(run_config(tiny_model, tiny_data, tmp_path / "first", "train.steps=3", *KINDS[kind])).output
    config = further(tiny_model, tiny_data, tmp_path / "second", first, "train.learning_rate=1e-30")
    second = train(config).output
    before, after = read_tensors(first), read_tensors(second)
    assert before.keys() == after.keys()
    assert all((before[name] - after[name]).abs().max() < 1e-12 for name in before)
    assert any(float(tensor.abs().max()) > 1e-3 for name, tensor in before.items() if "lora_B" in name)
    one, two = (json.loads((folder / "adapter_config.json").read_text()) for folder in (first, second))
    assert one == two


def adapter_of_peft(model: Path, folder: Path, **settings: Any) -> Path:
    """An adapter that PEFT writes, with weights that have been trained."""
    theirs = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(model), peft.LoraConfig(r=4, lora_alpha=8, **settings)
    )
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    theirs.save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")  # PEFT's, about what it writes beside the update of an embedding
@pytest.mark.parametrize(
    ("tied", "settings", "copies"),
    [
        (False, {"target_modules": ["q_proj", "embed_tokens"]}, {"model.embed_tokens.base_layer.weight"}),
        (True, {"target_modules": ["q_proj", "embed_tokens"]}, {"model.embed_tokens.base_layer.weight"}),
        (True, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, set()),
        (True, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, set()),
        (True, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, set()),
    ],
)
def test_training_begins_at_an_adapter_of_peft_that_trains_an_end_of_the_model(
    tied: bool, settings: dict[str, Any], copies: set[str], tiny_data: Path, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "model", tied=tied)
    first = adapter_of_peft(model, tmp_path / "first", **settings)
    second = train(further(model, tiny_data, tmp_path / "second", first, "train.learning_rate=1e-30")).output
    before, after = read_tensors(first), read_tensors(second)
    assert before.keys() - after.keys() == copies
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    one, two = (json.loads((folder / "adapter_config.json").read_text()) for folder in (first, second))
    assert one["ensure_weight_tying"] == two["ensure_weight_tying"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "query_key_value"], "exclude_modules": ["zzz"], "rank_pattern": {"zzz": 2}},
        {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
        {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "lm_head"], "layers_to_transform": [1]},
    ],
    ids=["names that fit nothing", "every norm", "a head that is saved too", "a head beside layers"],
)
def test_names_that_peft_takes_in_its_own_way_are_what_the_adapters_tensors_are(
    settings: dict[str, Any], tiny_data: Path, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "model", tied=False)
    first = adapter_of_peft(model, tmp_path / "first", **settings)
    second = train(further(model, tiny_data, tmp_path / "second", first, "train.learning_rate=1e-30")).output
    before, after = read_tensors(first), read_tensors(second)
    assert before.keys() - after.keys() <= {"lm_head.base_layer.weight"}
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    one, two = (json.loads((folder / "adapter_config.json").read_text()) for folder in (first, second))
    assert sorted(one["target_modules"]) == sorted(two["target_modules"])
    third = train(further(model, tiny_data, tmp_path / "third", second, "train.learning_rate=1e-30")).output
    assert weights(third) == weights(second)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name: name.replace(".layers.1.", ".layers.7."), r"no such layers:\n  - model\.layers\.7\..*q_proj"),
        (lambda name: None if ".layers.1." in name else name, r"lacks the updates of layers(.|\n)*layers\.1\..*q_proj"),
    ],
    ids=["of a larger model", "some are missing"],
)
def test_updates_that_do_not_fit_the_model_are_named(
    change: Callable[[str], str | None], message: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    first = adapter_of_peft(tiny_model, tmp_path / "first", target_modules=["q_proj"])
    file = first / "adapter_model.safetensors"
    save_file({new: tensor for name, tensor in load_file(file).items() if (new := change(name))}, file)
    with pytest.raises(AdapterError, match=message):
        train(further(tiny_model, tiny_data, tmp_path / "second", first))


@pytest.mark.filterwarnings("ignore")
def test_an_update_that_embedding_and_head_have_in_common_is_not_gone_on_with(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    settings = {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}
    first = adapter_of_peft(tiny_model, tmp_path / "first", **settings)
    with pytest.raises(AdapterError, match="embedding and head share one update"):
        train(further(tiny_model, tiny_data, tmp_path / "second", first))


@pytest.mark.filterwarnings("ignore")
def test_embeddings_of_another_base_or_size_are_refused_with_the_reason(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    first = adapter_of_peft(tiny_model, tmp_path / "first", target_modules=["q_proj", "embed_tokens"])
    other = write_model(tmp_path / "other", seed=4)
    with pytest.raises(AdapterError, match="trained with embeddings that differ from this model's"):
        train(further(other, tiny_data, tmp_path / "second", first))
    file, name = first / "adapter_model.safetensors", "base_model.model.model.embed_tokens.base_layer.weight"
    tensors = load_file(file)
    save_file(tensors | {name: torch.cat((tensors[name], tensors[name][:2]))}, file)
    with pytest.raises(AdapterError, match=r"embed_tokens has \d+ rows in .*, but \d+ in the base"):
        train(further(tiny_model, tiny_data, tmp_path / "third", first))


def test_it_is_trained_further_resumed_and_reproduced(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    first = train(run_config(tiny_model, tiny_data, tmp_path / "first", "train.steps=3")).output
    whole = train(further(tiny_model, tiny_data, tmp_path / "whole", first, "train.save_every=2")).output
    assert (
        load_file(whole / "adapter_model.safetensors").keys() == load_file(first / "adapter_model.safetensors").keys()
    )
    assert weights(whole) != weights(first)
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps == 2

    config = further(tiny_model, tiny_data, tmp_path / "parted", first, "train.save_every=2")
    with pytest.raises(Interrupted):
        train(config, stop=stop)
    assert weights(train(config, resume=True).output) == weights(whole)
    assert reproduce(whole).same
    lock = json.loads((whole / "run.lock").read_text())
    assert lock["adapter"].keys() == {"adapter_config.json", "adapter_model.safetensors"}
    other = train(run_config(tiny_model, tiny_data, tmp_path / "other", "train.steps=2")).output
    shutil.rmtree(first)
    shutil.copytree(other, first)
    with pytest.raises(CheckpointError, match=r"adapter adapter_model\.safetensors: has changed"):
        reproduce(whole)
    with pytest.raises(CheckpointError, match=r"adapter adapter_model\.safetensors: '"):
        train(config, resume=True)


def method_left_open(config: RunConfig) -> RunConfig:
    return RunConfig.model_validate(config.model_dump(exclude_unset=True, exclude={"method", "quant"}))


def begun(config: RunConfig) -> tuple[StartAdapter, RunConfig]:
    """The adapter that a run starts from, and the run with its settings."""
    description = describe_model(open_checkpoint(config.model), config.backend)
    start = StartAdapter.of(config, description)
    assert start is not None
    return start, start.settles(config, description)


def settled(config: RunConfig) -> RunConfig:
    return begun(config)[1]


def warnings(said: list[Event]) -> list[str]:
    return [event.message for event in said if isinstance(event, Note) and event.level is Level.WARNING]


@pytest.mark.parametrize("kind", [("method=lora",), ("method=qlora", "quant.block=128")])
def test_a_method_that_is_left_open_is_that_of_the_adapters_run(
    kind: tuple[str, ...], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    first = train(run_config(tiny_model, tiny_data, tmp_path / "first", "train.steps=1", *kind)).output
    config = further(tiny_model, tiny_data, tmp_path / "second", first, *kind)
    said: list[Event] = []
    assert settled(method_left_open(config)).method is config.method
    second = train(method_left_open(config), emit=said.append).output
    assert warnings(said) == []
    asked = further(tiny_model, tiny_data, tmp_path / "asked", first, *kind)
    assert weights(second) == weights(train(asked).output)
    assert reproduce(second).same


def test_an_adapter_without_a_record_leaves_the_method_its_default(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    first = train(run_config(tiny_model, tiny_data, tmp_path / "first", "train.steps=1")).output
    (first / "config.yaml").unlink()
    config = further(tiny_model, tiny_data, tmp_path / "second", first)
    start, run = begun(method_left_open(config))
    assert run.method is Method.QLORA
    said: list[Event] = []
    start.warn_of_other_form(run, said.append)
    assert said == []


def test_another_method_than_the_adapters_run_had_counts_with_one_warning(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    first = train(run_config(tiny_model, tiny_data, tmp_path / "first", "train.steps=1")).output
    said: list[Event] = []
    config = further(tiny_model, tiny_data, tmp_path / "second", first, "method=qlora")
    second = train(config, emit=said.append).output
    (warning,) = warnings(said)
    assert "(nf4, blocks of 64, double quantisation here, not quantised then)" in warning
    recorded = RunFolder(second).config()
    assert recorded is not None
    assert recorded.method is Method.QLORA


def test_a_resumed_run_keeps_its_method_whatever_becomes_of_the_adapters_record(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    first = train(run_config(tiny_model, tiny_data, tmp_path / "first", "train.steps=1")).output
    config = method_left_open(further(tiny_model, tiny_data, tmp_path / "second", first, "train.save_every=2"))
    with pytest.raises(Interrupted):
        train(config, stop=iter([False, True]).__next__)
    (first / "config.yaml").unlink()
    second = train(config, resume=True).output
    recorded = RunFolder(second).config()
    assert recorded is not None
    assert recorded.method is Method.LORA


def test_the_rows_that_the_adapter_was_trained_on_are_trained_rows_of_the_run(tiny_model: Path, tmp_path: Path) -> None:
    """An evaluation on them is too good, whichever of the runs has trained them."""
    files = [write_rows(tmp_path / f"{seed}.jsonl", some_rows(6, seed)) for seed in (1, 2, 3)]
    first = train(run_config(tiny_model, files[0], tmp_path / "first", "train.steps=1")).output
    second = train(further(tiny_model, files[1], tmp_path / "second", first, "train.steps=1")).output
    place = first / "checkpoints" / "step-000001"
    third = train(further(tiny_model, files[1], tmp_path / "third", place, "train.steps=1")).output
    for run in (second, third):
        found = [len(trained_among(run / "trained-rows.bin", read_records(file))) for file in files]
        assert found == [6, 6, 0]


def test_contradictions_are_refused_with_both_values(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    first = train(run_config(tiny_model, tiny_data, tmp_path / "first", "train.steps=1")).output
    config = run_config(
        tiny_model, tiny_data, tmp_path / "second", f"train.from_adapter={first}", "lora.rank=8", "lora.variant=dora",
        "lora.init=eva",
    )  # fmt: skip
    with pytest.raises(ConfigError) as refused:
        train(config)
    assert "lora.rank: 8 here, 4 in the adapter" in str(refused.value)
    assert "lora.variant: 'dora' here, 'lora' in the adapter" in str(refused.value)
    assert "lora.init: 'eva' here, and the run starts at the adapter's weights" in str(refused.value)
    assert "lora.alpha" not in str(refused.value)
    with pytest.raises(ConfigError, match="method full trains none"):
        run_config(tiny_model, tiny_data, tmp_path / "x", f"train.from_adapter={first}", "method=full")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((), ("all-linear", ())),
        (("lora.target_modules=[q_proj, up_proj]",), (("up_proj", "q_proj"), ())),
        (("lora.target_modules=.*\\.[qk]_proj",), (".*(q|k)_proj", ())),
        (("lora.exclude_modules=[o_proj]",), ("all-linear", ".*\\.o_proj")),
    ],
)
def test_other_words_for_the_layers_of_the_adapter_are_no_contradiction(
    first: tuple[str, ...], second: tuple[Any, Any], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """A configuration of fine-tuning serves the run after it too."""
    before = train(run_config(tiny_model, tiny_data, tmp_path / "first", "train.steps=1", *first)).output
    config = further(tiny_model, tiny_data, tmp_path / "second", before)
    targets, excluded = second
    named = config.changed("lora", {"target_modules": targets, "exclude_modules": excluded})
    assert settled(named) == settled(config)
    with pytest.raises(ConfigError, match=r"lora\.target_modules"):
        settled(config.changed("lora", {"target_modules": ("q_proj", "gate_proj")}))
    with pytest.raises(ConfigError, match=r"lora\.target_modules"):
        settled(config.changed("lora", {"target_modules": "(a+)+(b+)+("}))


def test_another_base_is_refused_unless_it_is_meant(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    first = train(run_config(tiny_model, tiny_data, tmp_path / "first", "train.steps=1")).output
    other = write_model(tmp_path / "other", seed=4)
    message = r"another base model(.|\n)*model\.safetensors: has other content"
    with pytest.raises(AdapterError, match=f"{message}(.|\n)*--allow-other-base"):
        train(further(other, tiny_data, tmp_path / "second", first))
    said: list[Event] = []
    config = further(other, tiny_data, tmp_path / "second", first, "train.other_base=allow")
    second = train(config, emit=said.append).output
    (warning,) = [event for event in said if isinstance(event, Note) and event.level is Level.WARNING]
    assert re.search(message, warning.message)
    assert reproduce(second).same


def test_a_quantised_copy_of_the_base_is_that_base(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    first = train(run_config(tiny_model, tiny_data, tmp_path / "first", "train.steps=1")).output
    quantize(str(tiny_model), tmp_path / "nf4")
    said: list[Event] = []
    train(further(tmp_path / "nf4", tiny_data, tmp_path / "second", first), emit=said.append)
    assert not [event for event in said if isinstance(event, Note) and event.level is Level.WARNING]


def test_what_the_adapters_configuration_says_without_effect_is_said(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    first = train(run_config(tiny_model, tiny_data, tmp_path / "first", "train.steps=1")).output
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(first / "adapter_model.safetensors", copy)
    config = json.loads((first / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps(config | {"use_something_new": False}))
    said: list[Event] = []
    train(further(tiny_model, tiny_data, tmp_path / "second", copy), emit=said.append)
    warnings = [event.message for event in said if isinstance(event, Note) and event.level is Level.WARNING]
    assert any("use_something_new" in warning for warning in warnings)


@pytest.mark.parametrize("more", [[], ["[PAD]"]])
def test_the_bases_tokenizer_beside_an_adapter_does_not_matter(
    more: list[str], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """As TRL saves it, which may have added a token for padding."""
    first = train(run_config(tiny_model, tiny_data, tmp_path / "first", "train.steps=1")).output
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(first / name, copy)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"pad_token": more[0]} if more else {})
    tokenizer.save_pretrained(copy)
    assert (copy / "tokenizer.json").is_file()
    second = train(further(tiny_model, tiny_data, tmp_path / "second", copy)).output
    assert weights(second) == weights(train(further(tiny_model, tiny_data, tmp_path / "third", first)).output)


def test_kinds_that_cannot_be_gone_on_with_are_refused_by_name(tiny_model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", some_rows(8))
    first = train(run_config(tiny_model, data, tmp_path / "first", "train.steps=1", "lora.new_tokens=[<new>]")).output
    with pytest.raises(AdapterError, match=r"trained tokens(.|\n)*tokenizer\.json: tokens of its own"):
        train(further(tiny_model, data, tmp_path / "second", first))
    plain = train(run_config(tiny_model, data, tmp_path / "plain", "train.steps=1")).output
    (plain / "run.lock").unlink()
    config = json.loads((plain / "adapter_config.json").read_text())
    (plain / "adapter_config.json").write_text(json.dumps({**config, "init_lora_weights": "pissa"}))
    with pytest.raises(AdapterError, match="init_lora_weights 'pissa': PEFT subtracts its start from the base"):
        train(further(tiny_model, data, tmp_path / "third", plain))
