"""A configuration is strict: what is not understood is refused, and by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

import veneer
from veneer.config import RunConfig, check, known_keys, parse, to_yaml
from veneer.config_values import override, put, read_yaml
from veneer.enums import Method, Schedule
from veneer.errors import ConfigError

SOURCE = Path(veneer.__file__).parent


def values(**sections: Any) -> dict[str, Any]:
    return {"model": "m", "output": "o", "data": {"file": "f.jsonl"}, **sections}


def refusal(given_values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(given_values, where="run.yaml")
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("given_values", "wrong", "meant"),
    [
        (values(lora={"rnk": 8}), "lora.rnk", "lora.rank"),
        (values(rank=8), "rank", "lora.rank"),
        (values(learning_rate=1e-4), "learning_rate", "train.learning_rate"),
        (values(trian={"epochs": 2}), "trian", "train"),
        (values(train={"lr_schedule": "cosine"}), "train.lr_schedule", "train.schedule"),
        (values(modle="m"), "modle", "model"),
        (values(lora={"learning_rate": 1e-4}), "lora.learning_rate", "train.learning_rate"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(
    given_values: dict[str, Any], wrong: str, meant: str
) -> None:
    message = refusal(given_values)
    assert f"- {wrong}: unknown key (did you mean '{meant}" in message
    assert message.startswith("run.yaml is not valid")


def test_an_unknown_key_like_no_other_gets_no_hint() -> None:
    assert re.search(r"- zzzzqqq: unknown key$", refusal(values(zzzzqqq=1)), re.MULTILINE)


def test_every_wrong_thing_is_named_in_one_error() -> None:
    message = refusal({"model": 5, "lora": {"rank": 0, "dropout": 1.0}, "train": {"epohcs": 1}, "method": "dora"})
    for line in (
        "- model: ", "- output: required", "- data: required", "- lora.rank: ", "- lora.dropout: ", "- method: ",
        "- train.epohcs: unknown key (did you mean 'train.epochs'?)",
    ):  # fmt: skip
        assert line in message, line
    assert message.count("\n  - ") == 7


def test_a_missing_key_inside_a_section_is_named_in_full() -> None:
    assert "- data.file: required, but not given" in refusal({"model": "m", "output": "o", "data": {}})


# ------------------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("lora.rank", [0, -1, 1.5, True, "many", None, float("nan"), [8]]),
        ("lora.alpha", [0, -2.0, float("inf"), float("nan"), True, "large"]),
        ("lora.dropout", [1.0, -0.1, float("nan"), False]),
        ("lora.target_modules", [5, {"a": 1}, [1, 2]]),
        ("quant.block", [0, 48, "x"]),
        ("quant.scheme", ["nf5", "int4", True, None]),
        ("quant.skip_modules", ["q_proj", [""], [5], None]),
        ("data.file", ["", 5, ["a"]]),
        ("data.sources", [5, "a.jsonl", [{"file": "a", "weight": 0}]]),
        ("data.cache", ["on", True, None]),
        ("data.cache_dir", ["", 5]),
        ("data.held_out", [1.0, -0.1, True, float("nan")]),
        ("data.max_length", [1, 0, True, 2.5]),
        ("data.overlong", ["cut", True]),
        ("train.epochs", [0, -1, float("inf"), float("nan"), True, 1e300]),
        ("train.steps", [0, -5, 1.5, True]),
        ("train.learning_rate", [0, -1e-4, "automatic", float("nan"), True]),
        ("train.weight_decay", [-0.1, float("inf"), True]),
        ("train.clip", [-1.0, float("nan"), True]),
        ("train.seed", [-1, 2**31, True, 0.5]),
        ("train.keep", [0, True]),
        ("compute.micro_batch_tokens", [0, True]),
        ("compute.dtype", ["float16", "fp32"]),
        ("compute.products", ["INT8", "int4", 8, True, None]),
        ("model", ["", 7, True]),
        ("output", ["", None]),
        ("method", ["LORA", "", True]),
    ],
)
def test_values_out_of_range_or_of_another_type_are_refused(key: str, bad: list[Any]) -> None:
    for value in bad:
        changed = values()
        put(changed, key, value)
        message = refusal(changed)
        assert f"- {key}: " in message, (value, message)
        assert ", got " in message, (value, message)


def test_the_value_met_is_shown_and_cut_short() -> None:
    assert "got -3" in refusal(values(lora={"rank": -3}))
    assert "got 'fast'" in refusal(values(train={"learning_rate": "fast"}))
    message = refusal(values(lora={"rank": ["x" * 1000] * 1000}))
    assert len(message) < 800


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("train.learning_rate", "1e-4", 1e-4),  # YAML 1.1 takes 1e-4 for a string
        ("train.learning_rate", "auto", "auto"),
        ("train.learning_rate", 1, 1.0),
        ("train.epochs", 0.5, 0.5),
        ("train.epochs", 3, 3.0),
        ("lora.rank", 8.0, 8),
        ("lora.target_modules", ["q_proj", "v_proj"], ("q_proj", "v_proj")),
        ("lora.target_modules", ".*proj", ".*proj"),
        ("train.schedule", "linear", Schedule.LINEAR),
        ("method", "full", Method.FULL),
        ("train.steps", None, None),
    ],
)
def test_values_that_are_meant_are_taken(key: str, value: Any, read: Any) -> None:
    changed = values()
    put(changed, key, value)
    found: Any = parse(changed, where="x")
    for part in key.split("."):
        found = getattr(found, part)
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"train": {"examples_per_step": 4, "tokens_per_step": 100}}, "train.tokens_per_step"),
        ({"train": {"epochs": 2, "steps": 100}}, "train.epochs and train.steps"),
        ({"data": {"file": "f", "eval_file": "g", "held_out": 0.1}}, "data.held_out"),
        ({"train": {"eval_every": 5}}, "train.eval_every"),
        ({"method": "full", "compute": {"products": "int8"}}, "take method lora or qlora"),
        ({"quant": {"scheme": "int8", "block": 128}}, "quant.block is of the 4-bit schemes"),
        ({"quant": {"scheme": "int8", "double_quant": False}}, "quant.double_quant is of the 4-bit schemes"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(sections: dict[str, Any], named: str) -> None:
    message = refusal(values(**sections))
    assert "contradicts itself" in message
    assert named in message


def test_all_contradictions_are_named_at_once() -> None:
    train = {"examples_per_step": 4, "tokens_per_step": 100, "epochs": 1, "steps": 5, "eval_every": 3}
    assert refusal(values(train=train)).count("\n  - ") == 3


def test_a_configuration_cannot_be_changed_afterwards() -> None:
    config = parse(values(), where="x")
    with pytest.raises(ValueError, match="frozen"):
        config.output = "elsewhere"
    check(config)


def test_keys_that_are_no_text_are_refused() -> None:
    with pytest.raises(ConfigError):
        parse({**values(), 5: 1}, where="x")  # type: ignore[dict-item]


# ----------------------------------------------------------------------------------------------------------- override


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "0.0001"])
def test_a_rate_may_be_written_in_any_way(text: str) -> None:
    config = parse(override(values(), [f"train.learning_rate={text}"]), where="x")
    assert config.train.learning_rate == 1e-4


def test_a_name_that_reads_like_a_number_stays_a_name() -> None:
    assert parse(override(values(), ["model=1e5"]), where="x").model == "1e5"


def test_a_key_through_a_plain_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="'model' is a value, not a section"):
        override(values(), ["model.name=x"])
    assert "- lora: " in refusal(override(values(), ["lora=5"]))
    assert "- lora.rank: " in refusal(override(values(), ["lora.rank.x=5"]))


# --------------------------------------------------------------------------------------------------------- round trip


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "method": st.sampled_from(["lora", "qlora", "full"]),
            "revision": st.text(min_size=1),
            "lora": st.fixed_dictionaries(
                {},
                optional={
                    "rank": st.integers(1, 2**16),
                    "alpha": st.floats(1e-300, 1e300),
                    "dropout": st.floats(0, 1, exclude_max=True),
                    "target_modules": st.one_of(st.text(), st.lists(st.text(), max_size=3)),
                },
            ),
            "train": st.fixed_dictionaries(
                {},
                optional={
                    "learning_rate": st.one_of(st.just("auto"), st.floats(1e-12, 1e3)),
                    "epochs": st.floats(1e-3, 1e3),
                    "seed": st.integers(0, 2**31 - 1),
                    "schedule": st.sampled_from(["cosine", "linear", "constant"]),
                },
            ),
        },
    )
)
def test_what_is_written_is_read_back_equal(sections: dict[str, Any]) -> None:
    config = parse(values(**sections), where="x")
    assert parse(yaml.safe_load(to_yaml(config)), where="x") == config


def test_awkward_text_survives_the_round_trip(tmp_path: Path) -> None:
    for text in ("yes", "null", "1e-4", "0x10", "C:\\dir", "a: b", "ü 文 ", "#x", "'\"", "line\nbreak", "~", "*a"):
        config = parse(values(revision=text), where="x")
        path = tmp_path / "config.yaml"
        path.write_bytes(to_yaml(config).encode())
        assert parse(read_yaml(path), where="x") == config


# --------------------------------------------------------------------------------------------------- every key has use


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
    text = "\n".join(file.read_text() for file in SOURCE.rglob("*.py") if file.name != "config.py")
    unread = [key for key in known_keys() if not re.search(rf"\.{key.rpartition('.')[2]}\b(?!\()", text)]
    assert unread == []


def test_the_keys_are_these() -> None:
    # A key is a promise: adding one is a decision, and so is a line here.
    assert sorted(known_keys()) == sorted(
        [
            "model", "revision", "output", "method", "objective", "backend", "track",
            "data.file", "data.eval_file", "data.held_out", "data.max_length", "data.overlong",
            "data.bad_rows", "data.checks", "data.columns", "data.split.by", "data.split.column",
            "data.sources", "data.cache", "data.cache_dir",
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
            "train.patience", "train.publish", "train.skip_bad_steps", "train.samples_every", "train.sample_prompts",
            "dpo.loss", "dpo.beta", "dpo.label_smoothing", "dpo.nll", "dpo.reference", "orpo.beta",
            "cpo.beta", "cpo.nll", "simpo.beta", "simpo.gamma", "simpo.nll",
            "kto.beta", "kto.desirable_weight", "kto.undesirable_weight", "kto.reference",
            "compute.device", "compute.dtype", "compute.products", "compute.threads", "compute.micro_batch_tokens",
            "compute.memory_limit_mb", "compute.recompute", "compute.rank_timeout",
        ]
    )  # fmt: skip


NUMBERS = [
    "data.max_length", "lora.rank", "train.examples_per_step", "train.tokens_per_step", "train.steps",
    "train.eval_every", "train.save_every", "train.keep", "train.seed", "train.lanes", "compute.threads",
    "compute.memory_limit_mb", "compute.micro_batch_tokens",
]  # fmt: skip


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("number", [10**12, 10**18, 10**40])
def test_numbers_that_no_run_has_are_refused_with_the_largest(key: str, number: int) -> None:
    values: dict[str, Any] = {"model": "m", "output": "o", "data": {"file": "f"}}
    section, name = key.split(".")
    values.setdefault(section, {})[name] = number
    with pytest.raises(ConfigError, match=rf"{key}: input should be less than (or equal to )?\d+.*got"):
        parse(values, where="the test")


@pytest.mark.parametrize(
    "key", ["lora.rank", "train.examples_per_step", "train.tokens_per_step", "train.steps", "compute.threads"]
)
def test_numbers_that_would_take_all_memory_or_years_are_refused(key: str) -> None:
    section, name = key.split(".")
    values: dict[str, Any] = {"model": "m", "output": "o", "data": {"file": "f"}}
    values.setdefault(section, {})[name] = 10**9
    with pytest.raises(ConfigError, match=f"{key}: input should be less than or equal to"):
        parse(values, where="the test")
