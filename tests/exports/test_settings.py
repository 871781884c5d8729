from __future__ import annotations

import json
from pathlib import Path

import pytest

from veneer.errors import ModelError
from veneer.exports.settings import differences, file_differences, text_differences, unexpected_files


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


def test_a_letter_in_the_middle_of_a_long_text_is_shown() -> None:
    """Not its two ends, which are the same."""
    template = "{% for message in messages %}" + "." * 200 + "assistant" + "." * 200 + "{% endfor %}"
    (line,) = differences({"t": template}, {"t": template.replace("assistant", "assistanz")})
    assert line.startswith("t from character 238: is 'z...")
    assert "should be 't..." in line
    (line,) = differences({"t": template}, {"t": template[:-3]})
    assert line == "t from character 448: is '', should be ' %}'"


def test_a_text_file_is_compared_from_a_line_on(tmp_path: Path) -> None:
    file = tmp_path / "Modelfile"
    assert text_differences("FROM a\nPARAMETER stop x\n", file) == ["Modelfile: missing"]
    file.write_text("FROM b\nPARAMETER stop x\n")
    assert text_differences("FROM a\nPARAMETER stop x\n", file, first=1) == []
    (line,) = text_differences("FROM a\nPARAMETER stop x\n", file)
    assert "FROM b" in line
    (line,) = text_differences("FROM a\nPARAMETER stop y\n", file, first=1)
    assert line.startswith("Modelfile: is 'PARAMETER stop x")


def test_files_that_a_loader_would_read_too_are_named_and_the_users_own_are_not(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        (folder / "tokenizer_config.json").write_text("{}")
    for name in ("model.safetensors", "README.md", "LICENSE", "notes.json", "parity.json"):
        (theirs / name).write_text("mine")
    assert unexpected_files(ours, theirs, "model.safetensors") == []
    names = [
        "added_tokens.json", "chat_template.jinja", "generation_config.json", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "special_tokens_map.json",
    ]  # fmt: skip
    for name in names:
        (theirs / name).write_text("{}")
    assert unexpected_files(ours, theirs, "model.safetensors") == [f"{name}: should not be there" for name in names]
