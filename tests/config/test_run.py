"""Every key has its words and its use."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel

import veneer
from veneer.config import RunConfig, known_keys
from veneer.config.section import Section

SOURCE = Path(veneer.__file__).parent


def sections(section: type[BaseModel] = RunConfig) -> list[type[BaseModel]]:
    found = [section]
    for info in section.model_fields.values():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found += sections(info.annotation)
    return found


def test_every_key_is_documented() -> None:
    missing = [
        f"{section.__name__}.{name}"
        for section in sections()
        for name, info in section.model_fields.items()
        if not info.description and not (isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel))
    ]
    assert missing == []
    assert all(section.__doc__ for section in sections())


def test_every_key_is_read_by_something() -> None:
    text = "\n".join(file.read_text() for file in SOURCE.rglob("*.py") if file.parent.name != "config")
    unread = [key for key in known_keys() if not re.search(rf"\.{key.rpartition('.')[2]}\b(?!\()", text)]
    assert unread == []


def test_the_keys_are_these() -> None:
    # A key is a promise: adding one is a decision, and so is a line here.
    assert sorted(known_keys()) == sorted(
        [
            "model", "revision", "output", "method", "objective", "backend", "track",
                "tracking.project", "tracking.mode",
            "data.file", "data.eval_file", "data.held_out", "data.max_length", "data.overlong",
            "data.bad_rows", "data.checks", "data.columns", "data.split.by", "data.split.column",
            "data.sources", "data.cache", "data.cache_dir", "data.template_date",
            "lora.rank", "lora.alpha", "lora.dropout", "lora.target_modules", "lora.exclude_modules",
            "lora.layers_to_transform", "lora.rank_pattern", "lora.alpha_pattern", "lora.scaling", "lora.variant",
            "lora.init", "lora.factors", "lora.bias", "lora.modules_to_save", "lora.trainable_tokens",
            "lora.new_tokens",
            "quant.scheme", "quant.block", "quant.double_quant", "quant.skip_modules",
            "train.examples_per_step", "train.tokens_per_step", "train.epochs", "train.steps", "train.time_limit",
            "train.from_adapter", "train.other_base", "train.learning_rate",
            "train.lora_plus_ratio", "train.optimizer", "train.schedule",
            "train.warmup", "train.min_rate", "train.weight_decay", "train.beta1", "train.beta2",
            "train.clip", "train.seed", "train.lanes", "train.eval_every", "train.save_every", "train.keep",
            "train.best_metric", "train.patience", "train.publish", "train.skip_bad_steps", "train.samples_every",
            "train.sample_prompts",
            "dpo.loss", "dpo.beta", "dpo.label_smoothing", "dpo.nll", "dpo.reference", "orpo.beta",
            "cpo.beta", "cpo.nll", "simpo.beta", "simpo.gamma", "simpo.nll",
            "kto.beta", "kto.desirable_weight", "kto.undesirable_weight", "kto.reference",
            "distillation.teacher", "distillation.teacher_adapter", "distillation.divergence", "distillation.beta",
            "distillation.temperature", "distillation.nll", "distillation.top_k", "reward.centring",
                "grpo.num_generations", "grpo.max_completion_length", "grpo.temperature", "grpo.top_p", "grpo.top_k",
                "grpo.min_p", "grpo.epsilon", "grpo.epsilon_high", "grpo.beta", "grpo.kl_in", "grpo.reference",
                "grpo.loss_type", "grpo.importance_sampling_level", "grpo.scale_rewards", "grpo.baseline",
                "grpo.num_iterations", "grpo.mask_truncated_completions", "rewards",
            "compute.device", "compute.dtype", "compute.products", "compute.deterministic", "compute.threads",
            "compute.micro_batch_tokens",
            "compute.memory_limit_mb", "compute.recompute", "compute.rank_timeout", "compute.sharding",
        ]
    )  # fmt: skip


def test_every_section_knows_its_place() -> None:
    def places(section: type[Section], above: str) -> list[str]:
        wrong = [] if section.place == above else [section.__name__]
        for name, info in section.model_fields.items():
            if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
                wrong += places(info.annotation, f"{above}.{name}".lstrip("."))
        return wrong

    assert places(RunConfig, "") == []


def test_a_changed_configuration_has_the_other_values_and_is_otherwise_the_same() -> None:
    config = RunConfig.model_validate({"model": "m", "output": "o", "data": {"file": "f"}, "train": {"seed": 3}})
    changed = config.changed("train", {"steps": 2})
    assert (changed.train.seed, changed.train.steps, config.train.steps) == (3, 2, None)
    assert changed.train.model_fields_set == {"seed", "steps"}
    assert changed.changed("train", {"steps": None}) == config
