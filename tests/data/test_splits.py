"""Splits: what is on which side, against rules that are written out here; random files by hypothesis."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.models.tiny import rows, run_config, write_rows
from veneer.config import DataSection, parse
from veneer.data import splits
from veneer.data.files.sources import training_files
from veneer.data.forms.record import Record
from veneer.data.lint.shingles import shingles, similarity
from veneer.data.micro_batches.orders import order
from veneer.data.records import read_records
from veneer.data.rows import load_rows
from veneer.data.splits import split_rows
from veneer.errors import ConfigError, DataError
from veneer.events import Event, Note, ignore
from veneer.io.checkpoint import open_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("splits")


def sides(file: Path, content: list[dict[str, Any]], share: float, **how: str) -> tuple[list[int], list[int]]:
    """The numbers of the rows on both sides."""
    file.write_text("".join(json.dumps(row) + "\n" for row in content))
    data = DataSection.model_validate({"file": str(file), "held_out": share, "split": how})
    records = read_records(file)
    train, held = split_rows(records, records, data, training_files(data), ignore)
    lines = [[int(record.where.rpartition(":")[2]) - 1 for record in side] for side in (train, held)]
    assert all(side == sorted(side) for side in lines)
    assert sorted(lines[0] + lines[1]) == list(range(len(content)))
    assert all(lines)
    return lines[0], lines[1]


def test_by_row_is_what_it_was(tiny_data: Path) -> None:
    records = read_records(tiny_data)

    def split(share: float) -> tuple[list[Record], list[Record]]:
        data = DataSection(file=str(tiny_data), held_out=share)
        return split_rows(records, records, data, training_files(data), ignore)

    train, held = split(0.25)
    assert [int(record.where.rpartition(":")[2]) for record in held] == [5, 6, 10, 17, 19]
    assert len(train) == 15
    assert len(split(0.001)[1]) == 1


def by_group(values: list[Any], share: float) -> list[int]:
    """The rows that are held out where groups stay together, as the rule says it: group after group, in a fixed order,
    while that brings the number of rows nearer to the share."""
    count, groups = max(1, round(share * len(values))), list(dict.fromkeys(values))
    held: list[int] = []
    for place in order(len(groups), seed=0, epoch=2**31).tolist():
        own = [row for row, value in enumerate(values) if value == groups[place]]
        if len(held) + len(own) < len(values) and abs(len(held) + len(own) - count) < abs(len(held) - count):
            held += own
    if not held:
        fewest = min(map(values.count, groups))
        first = next(group for group in groups if values.count(group) == fewest)
        held = [row for row, value in enumerate(values) if value == first]
    return sorted(held)


def by_label(values: list[Any], share: float) -> list[int]:
    """The rows that are held out by label, as the rule says it: of each label the first in a fixed random order, by
    largest remainders, one at least left to train."""
    count = max(1, round(share * len(values)))
    members: dict[Any, list[int]] = {}
    for row in order(len(values), seed=0, epoch=2**31).tolist():
        members.setdefault(values[row], []).append(row)
    quotas = {label: min(math.floor(share * len(own)), len(own) - 1) for label, own in members.items()}
    for label in sorted(members, key=lambda label: quotas[label] - share * len(members[label])):
        if sum(quotas.values()) < count and quotas[label] < len(members[label]) - 1:
            quotas[label] += 1
    return sorted(row for label, own in members.items() for row in own[: quotas[label]])


@pytest.mark.parametrize("seed", range(12))
def test_the_rows_that_are_held_out_follow_the_rule(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "NUMBERS_AT_ONCE", 7)
    source = random.Random(seed)
    kinds = [source.choice("abcdefghij"[: 2 + seed]) for _ in range(source.randint(12, 60))]
    share = source.uniform(0.05, 0.5)
    content = [{"text": f"row {place}", "kind": kind} for place, kind in enumerate(kinds)]
    for by, expected in (("group", by_group(kinds, share)), ("label", by_label(kinds, share))):
        assert sides(tmp_path / f"{by}.jsonl", content, share, by=by, column="kind")[1] == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=2, max_size=60), st.floats(0.05, 0.6))
def test_groups_stay_together(folder: Path, groups: list[int], share: float) -> None:
    content = [{"text": f"row {i}", "customer": group} for i, group in enumerate(groups)]
    if len(set(groups)) < 2 or round(share * len(groups)) >= len(groups):
        with pytest.raises(DataError, match=r"data\.(split|held_out)"):
            sides(folder / "rows.jsonl", content, share, by="group", column="customer")
        return
    train, held = sides(folder / "rows.jsonl", content, share, by="group", column="customer")
    assert not {groups[i] for i in train} & {groups[i] for i in held}
    # No further from the share than the largest group.
    largest = max(Counter(groups).values())
    assert abs(len(held) - max(1, round(share * len(groups)))) <= largest


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=8, max_size=80), st.floats(0.1, 0.5))
def test_each_label_has_its_share_held_out(folder: Path, labels: list[str], share: float) -> None:
    content = [{"prompt": f"row {i}", "completion": label} for i, label in enumerate(labels)]
    _, held = sides(folder / "rows.jsonl", content, share, by="label")
    counts, apart = Counter(labels), Counter(labels[i] for i in held)
    for label, count in counts.items():
        assert apart[label] < count, "every label is trained"
        assert abs(apart[label] - share * count) <= 1
    by_column = [{"text": f"row {i}", "kind": label} for i, label in enumerate(labels)]
    assert sides(folder / "rows.jsonl", by_column, share, by="label", column="kind")[1] == held


def test_many_more_rows_than_asked_for_are_said(tmp_path: Path) -> None:
    """Rows of one moment stay together, and so may bring others with them."""
    for late, said in ((17, ["data.split by time: 17 of 20 rows are held out"]), (4, [])):
        content = [{"text": f"row {i}", "at": i if i < 20 - late else 99} for i in range(20)]
        file = write_rows(tmp_path / f"{late}.jsonl", content)
        data = DataSection.model_validate(
            {"file": str(file), "held_out": 0.1, "split": {"by": "time", "column": "at"}, "cache": "never"}
        )
        events: list[Event] = []
        records = read_records(file)
        _, held = split_rows(records, records, data, training_files(data), events.append)
        assert len(held) == late
        assert [event.message.partition(", where")[0] for event in events if isinstance(event, Note)] == said


@pytest.mark.parametrize(
    "times",
    [[5, 3, 9, 1, 9, 7, 2], ["2024-03-01", "2023-12-31T23:59:00", "2024-03-01T00:00:01+00:00", "2022-01-01"]],
)
def test_the_latest_rows_are_held_out(folder: Path, times: list[Any]) -> None:
    content = [{"text": f"row {i}", "at": time} for i, time in enumerate(times)]
    _, held = sides(folder / "rows.jsonl", content, 0.25, by="time", column="at")
    assert held == ([2, 4] if len(times) == 7 else [2])


def test_near_duplicates_stay_on_one_side(folder: Path) -> None:
    texts = [" ".join(f"w{i}x{j}" for j in range(60)) for i in range(12)]
    content = [{"text": text} for text in texts for _ in (0, 1)]
    for place in range(1, 24, 2):
        content[place] = {"text": content[place]["text"].replace("x30 ", "y30 ")}
    train, held = sides(folder / "rows.jsonl", content, 0.3, by="near-duplicates")
    for one in train:
        for other in held:
            assert similarity(shingles(content[one]["text"]), shingles(content[other]["text"])) < 0.8
    assert {i // 2 for i in train} & {i // 2 for i in held} == set()


@pytest.mark.parametrize(
    ("content", "how", "reason"),
    [
        ([{"text": "a", "g": 1}, {"text": "b"}], {"by": "group", "column": "g"}, "1 of 2 rows have no 'g'"),
        ([{"text": "a", "g": 1}, {"text": "b", "g": " "}], {"by": "group", "column": "g"}, "1 of 2 rows have no 'g'"),
        ([{"text": "a", "g": 1}, {"text": "b", "g": 1.0}], {"by": "group", "column": "g"}, "all rows are in one group"),
        ([{"text": "a", "g": 1}, {"text": "b", "g": 1}], {"by": "group", "column": "g"}, "all rows are in one group"),
        ([{"text": "a", "t": "soon"}, {"text": "b", "t": 3}], {"by": "time", "column": "t"}, "rows.jsonl:1: 'soon'"),
        (
            [{"text": "a", "t": 1704067200}, {"text": "b", "t": "2024-01-02"}, {"text": "c", "t": "2024-01-03"}],
            {"by": "time", "column": "t"},
            r"a number in 1 row and a date in 2 rows, which cannot be compared.*numbers are here:\n.*rows.jsonl:1",
        ),
        ([{"text": "a", "t": 3}, {"text": "b", "t": 3}], {"by": "time", "column": "t"}, "the same in too many rows"),
        ([{"text": "a"}, {"text": "b"}], {"by": "label"}, "plain text has no label"),
        ([{"prompt": "a", "completion": "x"}, {"prompt": "b", "completion": "y"}], {"by": "label"}, "no label has two"),
    ],
)
def test_what_cannot_be_split_says_why(
    folder: Path, content: list[dict[str, Any]], how: dict[str, str], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        sides(folder / "rows.jsonl", content, 0.5, **how)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"split": {"by": "group", "column": "x"}}, "data.held_out is 0"),
        ({"held_out": 0.1, "split": {"by": "time"}}, "needs data.split.column"),
        ({"held_out": 0.1, "split": {"column": "x"}}, "leave one out"),
        ({"held_out": 0.1, "split": {"by": "person"}}, "data.split.by"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(data: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse({"model": "m", "output": "o", "data": {"file": "f.jsonl", **data}}, where="here")


@pytest.mark.parametrize("objective", ["grpo", "pretraining"])
def test_rows_without_answers_are_split_by_the_label_in_a_column(objective: str) -> None:
    data = {"file": "f.jsonl", "held_out": 0.1, "split": {"by": "label"}}
    rewards = [{"metric": "exact"}] if objective == "grpo" else []
    values = {"model": "m", "output": "o", "objective": objective, "rewards": rewards, "data": data}
    with pytest.raises(ConfigError, match=r"have none; name the column of the label by data\.split\.column"):
        parse(values, where="here")
    parse({**values, "data": data | {"split": {"by": "label", "column": "kind"}}}, where="here")


def test_a_run_evaluates_what_its_split_says(tiny_model: Path, tmp_path: Path) -> None:
    content = [row | {"customer": f"c{i % 5}"} for i, row in enumerate(rows(20))]
    data = write_rows(tmp_path / "rows.jsonl", content)
    config = run_config(tiny_model, data, tmp_path, "data.held_out=0.2", "data.split={by: group, column: customer}")
    found = load_rows(config.data, open_checkpoint(tiny_model).tokenizer())
    lines = [int(example.where.rpartition(":")[2]) - 1 for example in found.eval]
    assert len(lines) == 4
    assert len({line % 5 for line in lines}) == 1


@pytest.mark.parametrize("cache", ["never", "always"])
def test_the_column_that_rows_are_split_by_is_not_said_to_be_unused(
    cache: str, tiny_model: Path, tmp_path: Path
) -> None:
    content = [row | {"customer": f"c{i % 5}", "day": i} for i, row in enumerate(rows(20))]
    data = write_rows(tmp_path / "rows.jsonl", content)
    told: list[list[str]] = []
    for how in ("{by: row}", "{by: group, column: customer}", "{by: time, column: day}"):
        notes: list[Event] = []
        settings = (f"data.split={how}", "data.held_out=0.2", f"data.cache={cache}", f"data.cache_dir={tmp_path}/c")
        config = run_config(tiny_model, data, tmp_path, *settings)
        load_rows(config.data, open_checkpoint(tiny_model).tokenizer(), notes.append)
        told.append(
            [one.message.partition(" used: ")[2] for one in notes if " not used: " in getattr(one, "message", "")]
        )
    assert told == [["'customer' (20 rows), 'day' (20 rows)"], ["'day' (20 rows)"], ["'customer' (20 rows)"]]
