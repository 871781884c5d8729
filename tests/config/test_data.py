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
