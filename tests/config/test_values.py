"""Files that are no YAML are refused by name, and settings by dotted keys are laid over a copy."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path

import pytest

from veneer.config.values import drop, given_twice, laid_over, override, read_yaml, seconds_of
from veneer.errors import ConfigError


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model: [", "not valid YAML"),
        ("model: a\nmodel: b\n", "key given twice: model"),
        ("train:\n  steps: 1\n  steps: 2\n", "line 3: key given twice: steps"),
        ("train:\n  time_limit: 1:30\n", "line 2: 1:30 is 90 in YAML"),
        ("train: {time_limit: 1:30:00.5}", "1:30:00.5 is 5400.5 in YAML"),
        ("train: {steps: 010}", "010 is 8 in YAML"),
        ("train:\n  steps: 1\noutput: 2024-02-30\n", "line 3: 2024-02-30 looks like a value of YAML's type timestamp"),
        ("train: {seed: 0x_}", "line 1: 0x_ looks like a value of YAML's type int but is not valid"),
        ("train: {seed: !!bool x}", "x looks like a value of YAML's type bool but is not valid"),
        (f"train: {{seed: {'1' * 5000}}}", "looks like a value of YAML's type int but is not valid"),
        ("a: &a {b: 1}\nc: {<<: *a, <<: *a}", "line 2: key given twice: <<"),
        ("a: &a {b: 1}\nc: {<<: *a, b: 2, b: 3}", "line 2: key given twice: b"),
        ("a: {<<: 3}", "line 1: << merges mappings; give one"),
        ("- a\n- b\n", "holds a list"),
        ("just text", "holds a str"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"model: \xe9", "not UTF-8"),
        ("a: &x [*x]\nb: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("train:\n\tsteps: 1\n", "not valid YAML: line 2, column 1: a tab; indent with spaces"),
        ("model: @m", "not valid YAML: line 1, column 8: found character that cannot start any token"),
    ],
)
def test_a_file_that_is_not_a_configuration_is_refused_by_name(tmp_path: Path, text: str | bytes, reason: str) -> None:
    path = written(tmp_path / "run.yaml", text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigError, match=r"cannot be read: .*; give a YAML file of settings"):
            read_yaml(path)


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert read_yaml(written(tmp_path / "a.yaml", "")) == {}
    assert read_yaml(written(tmp_path / "b.yaml", "# only a comment\n")) == {}


def test_a_mapping_is_laid_over_those_that_it_merges(tmp_path: Path) -> None:
    text = """
    train: &base
      steps: 5
      <<: &more {seed: 1, steps: 7}
    other: {<<: *base, steps: 6}
    both: {<<: [{rank: 1}, *more, {rank: 2}]}
    """
    base = {"steps": 5, "seed": 1}
    merged = {"train": base, "other": {"steps": 6, "seed": 1}, "both": {"rank": 1, "seed": 1, "steps": 7}}
    assert read_yaml(written(tmp_path / "a.yaml", text)) == merged


def test_a_mapping_that_merges_one_which_merges_is_no_key_given_twice(tmp_path: Path) -> None:
    text = "x: &x {steps: 5, <<: {steps: 7}}\n<<: *x\n"
    assert read_yaml(written(tmp_path / "a.yaml", text)) == {"x": {"steps": 5}, "steps": 5}
    assert read_yaml(written(tmp_path / "a.yaml", "x: &x {<<: *x, steps: 5}")) == {"x": {"steps": 5}}


def test_settings_that_have_two_values_are_named_with_both() -> None:
    settings = [
        ("train.steps", 1),
        ("lora", {"rank": 2}),
        ("lora.rank", 3),
        ("train", {"epochs": 2}),
        ("a", 1),
        ("a", 1),
    ]
    assert given_twice(settings) == ["lora.rank: 2 and 3", "train.steps: 1 and train: {'epochs': 2}"]
    assert given_twice([("lora", {"rank": 2}), ("lora.alpha", 3)]) == []


def test_assignments_are_laid_over_the_file() -> None:
    original = {"model": "m", "data": {"file": "f.jsonl"}, "train": {"steps": 5}}
    before = deepcopy(original)
    changed = override(
        original, ["train.steps=7", "lora.rank=2", "method=full", "lora.target_modules=[q_proj]", "data.eval_file="]
    )
    assert changed["train"]["steps"] == 7
    assert changed["lora"] == {"rank": 2, "target_modules": ["q_proj"]}
    assert changed["method"] == "full"
    assert changed["data"] == {"file": "f.jsonl", "eval_file": None}
    assert original == before


def test_the_last_assignment_wins_and_a_value_may_hold_an_equals_sign() -> None:
    assert override({}, ["output=a", "output=b=c"]) == {"output": "b=c"}


@pytest.mark.parametrize("assignment", ["train.epochs", "=5", " =5", "train.epochs=[1", "lora={rank: 1, rank: 2}"])
def test_an_assignment_that_cannot_be_read_is_refused(assignment: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"--set {assignment!r}: ")):
        override({}, [assignment])


def test_of_two_values_for_a_key_the_last_one_stays() -> None:
    original = {"train": {"steps": 5}}
    assert laid_over(original, [("train.steps", 7), ("lora.rank", 2), ("train.steps", 9)]) == {
        "train": {"steps": 9}, "lora": {"rank": 2},
    }  # fmt: skip
    assert original == {"train": {"steps": 5}}


def test_a_key_is_dropped_where_it_is() -> None:
    values = {"model": "m", "train": {"steps": 5, "epochs": None}}
    for key in ("train.steps", "lora.rank", "model.name", "output"):
        drop(values, key)
    assert values == {"model": "m", "train": {"epochs": None}}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10m", 600), ("90", 90), ("90s", 90), ("1h30m", 5400), ("1.5 h", 5400), ("2m 5s", 125), (7, 7), ("1e3", 1000)],
)
def test_a_duration_is_read_as_people_write_it(text: str | int, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "ten", "10x", "5m3h", "-3m", "nan", "1h30", "1m30", "h"])
def test_a_text_that_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="90s, 10m, 1h30m"):
        seconds_of(text)


def test_numbers_and_texts_are_what_they_look_like() -> None:
    texts = {"10": 10, "0": 0, "-3": -3, "0.5": 0.5, "1_000": 1000, "1h30m": "1h30m", "'1:30'": "1:30", "'010'": "010"}
    assert override({}, [f"k{i}={text}" for i, text in enumerate(texts)]) == {
        f"k{i}": value for i, value in enumerate(texts.values())
    }
    with pytest.raises(ConfigError, match=r"--set 'train.time_limit=1:30': line 1: 1:30 is 90 in YAML"):
        override({}, ["train.time_limit=1:30"])
