"""Chat templates in the files of a tokenizer's directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from helpers.texts.tiny_tokenizers import byte_level_tokenizer, save_tokenizer
from veneer.errors import ModelError
from veneer.io.tokenizer import from_directory
from veneer.io.tokenizer_files import as_configured, chat_templates

NAMED = {"default": "D {{ messages[0]['content'] }}", "tool_use": "T {{ tools | tojson }}", "rag": "R"}


@pytest.mark.parametrize("apart", [False, True], ids=["in the configuration", "in files"])
def test_all_chat_templates_are_read_as_transformers_reads_them_and_written_again(apart: bool, tmp_path: Path) -> None:
    listed = [{"name": name, "template": template} for name, template in NAMED.items()]
    folder = save_tokenizer(tmp_path / "a", byte_level_tokenizer(), {"chat_template": listed})
    theirs = AutoTokenizer.from_pretrained(folder)
    if apart:
        folder = tmp_path / "apart"
        theirs.save_pretrained(folder)
        assert (folder / "additional_chat_templates").is_dir()
    ours = from_directory(folder)
    assert theirs.chat_template == {"default": ours.chat_template, **ours.named_templates} == NAMED
    assert ours.tool_template == NAMED["tool_use"]
    ours.save(tmp_path / "again")
    assert AutoTokenizer.from_pretrained(tmp_path / "again").chat_template == NAMED
    assert from_directory(tmp_path / "again").named_templates == ours.named_templates


def test_without_a_default_there_is_no_chat_template(tmp_path: Path) -> None:
    folder = save_tokenizer(
        tmp_path / "a", byte_level_tokenizer(), {"chat_template": [{"name": "rag", "template": "R"}]}
    )
    ours = from_directory(folder)
    assert (ours.chat_template, ours.named_templates) == (None, {"rag": "R"})
    ours.save(tmp_path / "again")
    assert from_directory(tmp_path / "again").named_templates == {"rag": "R"}


def test_files_of_templates_come_before_the_configuration_all_together(tmp_path: Path) -> None:
    config = {"chat_template": {"default": "D", "tool_use": "T", "rag": 3}}
    assert chat_templates(tmp_path, config) == {"default": "D", "tool_use": "T"}
    (tmp_path / "chat_template.jinja").write_text("F")
    assert chat_templates(tmp_path, config) == {"default": "F"}
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelError, match=r"tool_use\.jinja is not UTF-8 text"):
        chat_templates(tmp_path, config)


def test_the_default_alone_is_written_as_a_text() -> None:
    assert as_configured({"default": "D"}) == "D"
    assert as_configured({"rag": "R"}) == [{"name": "rag", "template": "R"}]
