from __future__ import annotations

from pathlib import Path

import pytest

from helpers.texts.tiny_tokenizers import byte_level_tokenizer, save_tokenizer
from veneer.errors import ModelError
from veneer.io.json_objects import object_if_there, object_in
from veneer.io.tokenizer import from_directory


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_an_object_is_read_with_and_without_a_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"ü": [1]}', encoding=encoding)
    assert object_in(tmp_path / "a.json") == object_if_there(tmp_path / "a.json") == {"ü": [1]}


def test_a_tokenizer_takes_settings_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = save_tokenizer(tmp_path, byte_level_tokenizer(), {"chat_template": "T"})
    config = path / "tokenizer_config.json"
    config.write_text(config.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert from_directory(path).chat_template == "T"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b'{"a": "\xff"}', "is not valid JSON"),
        (b'{"a": "\\ud800"}', "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[1]", "has a list, but must have a JSON object"),
    ],
)
def test_what_is_no_object_is_refused_with_the_file(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ModelError, match=rf"a\.json {said}"):
        object_if_there(tmp_path / "a.json")


def test_only_where_it_may_be_missing_is_a_missing_file_an_empty_object(tmp_path: Path) -> None:
    assert object_if_there(tmp_path / "a.json") == {}
    with pytest.raises(ModelError, match=r"a\.json cannot be read: No such file"):
        object_in(tmp_path / "a.json")
