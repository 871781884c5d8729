from __future__ import annotations

from pathlib import Path

from helpers.rows.lint_rows import found_in_every_row

GENERATION_OPEN_END = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n{% else %}{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}"
)
GENERATION_NOTHING = GENERATION_OPEN_END.replace(
    "{{ m.content }}{% endgeneration %}", "{% endgeneration %}{{ m.content }}"
)


def test_a_faulty_template_is_found_in_every_row(tmp_path: Path) -> None:
    found_in_every_row("nothing-trained", GENERATION_NOTHING, tmp_path)
