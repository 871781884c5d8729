from __future__ import annotations

from pathlib import Path

from helpers.rows.lint_rows import Q, clean, found_in, write
from helpers.texts import chat_templates as ct
from veneer.data.lint.row import LintSetting
from veneer.data.lint.run import lint

TWO_BOS = "{{ bos_token }}" + ct.LLAMA3


def test_a_doubled_start_is_found(tmp_path: Path) -> None:
    tokenizer = ct.tokenizer("llama3")
    tokenizer.chat_template = TWO_BOS
    assert list(found_in(lint(write(tmp_path / "a.jsonl", clean(3)), LintSetting(tokenizer)))) == ["doubled-bos"]
    spelled = [{"text": f"<|begin_of_text|>{Q}"}]
    found = found_in(lint(write(tmp_path / "b.jsonl", spelled), LintSetting(ct.tokenizer("llama3"))))
    assert set(found) == {"doubled-bos", "control-tokens-spelled"}
