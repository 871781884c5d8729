"""Names of settings in other programs lead to veneer's, in whatever section they stand."""

from __future__ import annotations

import dataclasses
from typing import Any

import peft
import pytest
import transformers

from veneer.config import DataSection, LoraSection, RunConfig, SplitSection, known_keys, parse
from veneer.config.migration import COUNTERPARTS, counterpart
from veneer.errors import ConfigError

PROMISED = """
    r lora_alpha lora_dropout per_device_train_batch_size gradient_accumulation_steps num_train_epochs max_seq_length
    max_length warmup_ratio load_in_4bit lora_r cutoff_len micro_batch_size sequence_len eval_steps save_steps
    logging_steps bf16 optim lr_scheduler_type packing completion_only_loss val_set_size num_epochs lora_rank
    lora_target lora_target_linear sample_packing base_model model_name_or_path output_dir dataset_text_field
    random_state use_gradient_checkpointing full_finetuning train_on_inputs finetuning_type adapter
    template save_total_limit
"""


@pytest.mark.parametrize("name", sorted(COUNTERPARTS))
def test_every_counterpart_leads_to_keys_that_exist(name: str) -> None:
    known = {*known_keys(), "quant"}
    found = COUNTERPARTS[name]
    assert set(found.keys) <= known
    assert found.meaning
    assert found.meaning == found.meaning.strip()
    assert name not in known_keys(), "a setting of veneer's own would never be unknown"


def test_the_names_that_were_promised_are_there() -> None:
    assert [name for name in PROMISED.split() if counterpart([name]) is None] == []
    assert len(COUNTERPARTS) > 100


def known_here(name: str) -> bool:
    return any(key.rpartition(".")[2] == name for key in known_keys()) or counterpart([name]) is not None


def test_every_setting_of_peft_and_of_transformers_is_known() -> None:
    for kind in (peft.LoraConfig, transformers.TrainingArguments):
        assert [field.name for field in dataclasses.fields(kind) if not known_here(field.name)] == [], kind


@pytest.mark.parametrize(
    ("name", "expected"),
    [("LORA_R", "lora.rank"), ("micro-batch-size", "train.examples_per_step"), ("eval_steps", "train.eval_every")],
)
def test_case_hyphens_and_sections_do_not_matter(name: str, expected: str) -> None:
    for path in ([name], ["train", name], ["lora", "deep", name]):
        found = counterpart(path)
        assert found is not None
        assert found.keys == (expected,)


def test_a_name_with_a_star_stands_for_every_end() -> None:
    assert counterpart(["wandb_name"]) == counterpart(["wandb_entity"]) == COUNTERPARTS["wandb_*"]
    assert counterpart(["wandbname"]) is None


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("adapter_name_or_path", ("train.from_adapter",)),
        ("report_to", ("track",)),
        ("wandb_project", ("tracking.project",)),
        ("stage", ("objective",)),
        ("rl", ("objective",)),
        ("fsdp", ("compute.sharding",)),
        ("ddp_timeout", ("compute.rank_timeout",)),
        ("full_determinism", ("compute.deterministic",)),
        ("dataset_prepared_path", ("data.cache_dir",)),
        ("pref_beta", ("dpo.beta",)),
        ("reward_funcs", ("rewards",)),
        ("rl_beta", COUNTERPARTS["beta"].keys),
        ("temperature", ("grpo.temperature", "distillation.temperature")),
        ("early_stopping_steps", ("train.patience",)),
        ("interleave_probs", ("data.sources",)),
        ("gpu_memory_limit", ("compute.memory_limit_mb",)),
    ],
)
def test_what_veneer_has_is_not_said_to_be_missing(name: str, keys: tuple[str, ...]) -> None:
    found = counterpart([name])
    assert found is not None
    assert found.keys == keys


def test_a_name_that_is_spelt_like_another_setting_does_not_lead_to_it() -> None:
    names = """
        rope_scaling embedding_learning_rate relora_steps galore_rank kd_alpha ld_alpha max_lora_rank enable_thinking
        train_on_eos min_sample_len sample_packing_group_size steps_per_generation freeze_trainable_layers packed fused
        max_new_tokens shuffle compile lora_on_cpu token
    """
    for name in names.split():
        assert counterpart([name]) is not None, name
        assert "did you mean" not in refusal(**BASE, **{name: 1}), name


def test_several_devices_are_asked_for_by_the_command() -> None:
    found = counterpart(["num_gpus"])
    assert found is not None
    assert "--devices N" in found.meaning


def refusal(**values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        RunConfig(**values)
    return str(caught.value)


BASE: dict[str, Any] = {"model": "m", "output": "o", "data": {"file": "f.jsonl"}}


def test_the_error_names_the_key_and_the_difference() -> None:
    message = refusal(**BASE, train={"eval_steps": 5}, lora={"r": 8}, packing=True)
    assert "- train.eval_steps: unknown key; veneer's is train.eval_every: " in message
    assert "train.steps" not in message
    assert "- lora.r: unknown key; veneer's is lora.rank: the meaning is the same" in message
    assert "- packing: unknown key; there is no such setting: rows are always laid end to end" in message
    assert message.count("\n  - ") == 3


def test_keywords_mappings_and_files_are_refused_in_the_same_words() -> None:
    values = {**BASE, "train": {"num_train_epochs": 2, "epohcs": 1}, "lora": {"rank": "many"}}
    lines = refusal(**values).splitlines()[1:]
    assert len(lines) == 3
    with pytest.raises(ConfigError) as by_mapping:
        RunConfig.model_validate(values)
    assert str(by_mapping.value).splitlines() == ["RunConfig is not valid:", *lines]
    with pytest.raises(ConfigError) as by_file:
        parse(values, where="run.yaml")
    assert str(by_file.value).splitlines() == ["run.yaml is not valid:", *lines]


def test_a_section_by_itself_is_refused_in_our_words_too() -> None:
    with pytest.raises(ConfigError, match=r"LoraSection is not valid:\n  - lora.r: unknown key; veneer's is lora.rank"):
        LoraSection(r=8)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"- data.split.by: "):
        SplitSection(by="rows")  # type: ignore[arg-type]
    # And a refusal leaves nothing behind that would let the next one through unexplained.
    with pytest.raises(ConfigError, match=r"- lora.rank: .*, got 0"):
        LoraSection(rank=0)


def test_a_configuration_is_made_by_keyword_from_sections_and_from_mappings() -> None:
    made = RunConfig(model="m", output="o", data=DataSection(file="f.jsonl"), lora=LoraSection(rank=4))
    assert made == RunConfig(**BASE, lora={"rank": 4}) == parse({**BASE, "lora": {"rank": 4}}, where="x")
