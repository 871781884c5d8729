from __future__ import annotations

import json
from pathlib import Path

import pytest

from veneer.errors import ModelError
from veneer.exports.settings import differences, file_differences


def test_equal_trees_have_no_difference() -> None:
    tree = {"a": 1, "b": [1.5, "x", None], "c": {"d": True, "e": [[1], [2]]}}
    assert list(differences(tree, json.loads(json.dumps(tree)))) == []


def test_numbers_are_compared_as_float32_holds_them() -> None:
    assert list(differences({"eps": 1e-5}, {"eps": 9.999999747378752e-06})) == []
    assert list(differences({"theta": 10000}, {"theta": 10000.0})) == []
    (line,) = differences({"eps": 1e-5}, {"eps": 1.001e-5})
    assert line == "eps: is 1.001e-05, should be 1e-05"
    assert list(differences({"a": 1}, {"a": True})) == ["a: is True, should be 1"]


def test_every_key_that_differs_is_named_and_of_a_list_the_first() -> None:
    expected = {"a": {"b": 1, "c": 2}, "list": [1, 2, 3], "gone": "x"}
    found = {"a": {"b": 1, "c": 3}, "list": [1, 9, 8], "more": 5}
    assert list(differences(expected, found)) == [
        "a.c: is 3, should be 2", "list[1]: is 9, should be 2", "gone: is not there, should be 'x'",
        "more: is 5, should be not there",
    ]  # fmt: skip
    assert list(differences({"l": [1, 2]}, {"l": [1]})) == ["l: is [1], should be [1, 2]"]
    (line,) = differences({"t": list(range(9))}, {"t": list(range(8))})
    assert line == "t: is 8 entries, should be 9 entries"


def test_files_are_compared_by_their_content(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        (folder / "config.json").write_text('{"a": 1, "b": 2}')
        (folder / "chat_template.jinja").write_text("{{ a }}")
        (folder / "model.safetensors").write_bytes(b"weights")
    (theirs / "config.json").write_text('{"b": 2,\n "a": 1}')
    (theirs / "extra.json").write_text("{}")
    assert file_differences(ours, theirs) == []
    (theirs / "config.json").write_text('{"a": 1, "b": 3}')
    (theirs / "chat_template.jinja").write_text("{{ b }}")
    assert file_differences(ours, theirs) == [
        "chat_template.jinja: text: is '{{ b }}', should be '{{ a }}'", "config.json: b: is 3, should be 2",
    ]  # fmt: skip
    (theirs / "config.json").unlink()
    assert "config.json: missing" in file_differences(ours, theirs)
    (theirs / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is damaged"):
        file_differences(ours, theirs)
