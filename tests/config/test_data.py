"""The rows of a run come from one file or from several sources."""

from __future__ import annotations

import pytest

from veneer.config import DataSection, SourceSection
from veneer.errors import ConfigError


def test_one_file_is_the_only_source() -> None:
    data = DataSection(file="a.jsonl")
    assert data.training == (SourceSection(file="a.jsonl", weight=1.0),)
    assert data.training_name == "a.jsonl"


def test_sources_are_named_with_their_weights() -> None:
    data = DataSection(sources=(SourceSection(file="a.jsonl", weight=2.0), SourceSection(file="b.jsonl")))
    assert [one.weight for one in data.training] == [2.0, 1.0]
    assert data.training_name == "a.jsonl × 2, b.jsonl"


def test_a_run_without_rows_is_refused_by_the_keys_name() -> None:
    with pytest.raises(ConfigError, match=r"data.file: required, but not given"):
        DataSection()


def test_sources_of_which_one_is_wrong_are_given() -> None:
    with pytest.raises(ConfigError, match=r"data\.sources\.1\.weight: input should be greater than 0") as error:
        DataSection.model_validate({"sources": [{"file": "a"}, {"file": "b", "weight": -1}]})
    assert "data.file" not in str(error.value)


def test_one_column_for_two_names_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.columns: 'text' is the file's column for prompt, completion; each"):
        DataSection.model_validate({"file": "a", "columns": {"prompt": "text", "completion": "text", "system": "s"}})
