from __future__ import annotations

from pathlib import Path

from helpers.rows.lint_rows import clean, found_in, found_in_every_row, write
from helpers.texts import chat_templates as ct
from veneer.data.lint.row import LintSetting
from veneer.data.lint.run import lint

GENERATION_OPEN_END = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n{% else %}{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}"
)
# White space behind the control token is no open end.
GENERATION_LINE_END = GENERATION_OPEN_END.replace("{% endgeneration %}<|im_end|>\n", "<|im_end|>\n{% endgeneration %}")


def test_a_faulty_template_is_found_in_every_row(tmp_path: Path) -> None:
    found_in_every_row("end-untrained", GENERATION_OPEN_END, tmp_path)


def test_white_space_behind_the_end_of_a_turn_is_no_open_end(tmp_path: Path) -> None:
    tokenizer = ct.tokenizer("chatml")
    tokenizer.chat_template = GENERATION_LINE_END
    assert found_in(lint(write(tmp_path / "rows.jsonl", clean(5)), LintSetting(tokenizer))) == {}
