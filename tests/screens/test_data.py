from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.processes.consoles import recorded
from helpers.rows.lint_rows import read_row
from helpers.texts import chat_templates as ct
from veneer.data.lint.row import LintSetting
from veneer.data.lint.run import lint
from veneer.data.lint.view import tokens_of
from veneer.enums import Column, ObjectiveName
from veneer.evaluation.lint_request import LintRequest
from veneer.screens.data import lint_visibly, show_report, show_row

LABELLED = [{"prompt": f"question number {i}", "completion": "yes" if i % 2 else "no"} for i in range(12)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_of_one_cause_are_one_line(tmp_path: Path) -> None:
    console = recorded(width=400)
    rows = [*({"question": f"1 + {i}?", "answer": "2"} for i in range(20)), {"a": "1", "b": "2"}]
    show_report(console, lint(write(tmp_path / "rows.jsonl", rows)))
    text = console.export_text()
    assert (
        text.count("the option --columns of data, evaluate and generate): {prompt: question, completion: answer}") == 1
    )
    assert "… and in lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 9 more" in text
    assert "rows.jsonl:21: no format is known for the keys 'a', 'b'" in text


def test_lines_of_several_files_are_told_apart(tmp_path: Path) -> None:
    console = recorded(width=400)
    first, second = (write(tmp_path / f"{name}.jsonl", [{"a": "1"}, {"a": "2"}]) for name in ("a", "b"))
    show_report(console, lint(first, eval_file=second))
    assert f"… and in lines {first}:2, {second}:1, 2\n" in console.export_text()


def test_a_finding_shows_rule_rows_and_remedy(tmp_path: Path) -> None:
    rows = [*LABELLED, *(LABELLED[2] for _ in range(5))]
    console = recorded(width=400)
    show_report(console, lint(write(tmp_path / "rows.jsonl", rows)))
    text = console.export_text()
    assert "warning duplicate (5 rows): rows that repeat an earlier row" in text
    assert f"{tmp_path}/rows.jsonl:13: as {tmp_path}/rows.jsonl:3" in text
    assert "… and in lines 14, 15, 16, 17" in text
    assert "remedy: remove them" in text
    assert "17 rows checked" in text
    assert "not checked, because no --model is given: refused-by-template, nothing-trained" in text


def test_rows_and_findings_do_not_reach_the_terminal_as_commands(tmp_path: Path) -> None:
    setting, hostile = LintSetting(ct.tokenizer("chatml")), "\x1b[2J\x1b]0;title\x07\u202e"
    console = recorded(width=400)
    show_row(console, read_row("f:1", {"prompt": hostile, "completion": hostile}, setting), setting)
    rows = [{"prompt": "x", "completion": "y", hostile: 1}, {hostile: "x"}]
    show_report(console, lint(write(tmp_path / "rows.jsonl", rows)))
    text = console.export_text(styles=False)
    assert "\\x1b" in text
    assert not set(text) & set("\x1b\x07\u202e")


def test_rows_are_shown_as_tokens_with_what_trains_marked(tmp_path: Path) -> None:
    setting = LintSetting(ct.tokenizer("chatml"))
    row = read_row("f:1", {"prompt": "Capital?", "completion": "Paris\nParis"}, setting)
    console = recorded(width=400)
    show_row(console, row, setting)
    text = console.export_text(clear=False, styles=False)
    tokens = text.splitlines()[1]
    start, end = tokens.index("{+"), tokens.index("+}")
    # The bars of the control token's own name stand among those between tokens.
    assert tokens[start + 2 : end].replace("|", "") == "Paris\\nParis<im_end>"
    assert tokens.count("{+") == tokens.count("+}") == 1
    assert [line.split()[-1] for line in text.splitlines()[2:] if "trained" in line] == ["completion", "turn"]
    assert "\x1b[32m" in console.export_text(styles=True)


def test_the_fields_of_renamed_columns_have_the_names_that_are_read() -> None:
    setting = LintSetting(ct.tokenizer("chatml"), columns={Column.MESSAGES: "chat"})
    raw = {"chat": [{"role": "user", "content": "Capital?"}, {"role": "assistant", "content": "Paris"}]}
    fields = [token.field for token in tokens_of(read_row("f:1", raw, setting), setting) if token.trained]
    assert set(fields) == {"messages[1].content", "end of turn"}


def test_prompts_and_both_answers_of_pairs_are_shown_as_their_run_reads_them(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {
        ObjectiveName.GRPO: {"prompt": "2 + 2?", "reference": "4"},
        ObjectiveName.DPO: {"prompt": "2 + 2?", "chosen": "4", "rejected": "five"},
        ObjectiveName.KTO: {"prompt": "2 + 2?", "completion": "five", "label": False},
    }
    said = {}
    for objective, row in shown.items():
        file = write(tmp_path / f"{objective.value}.jsonl", [row])
        lint_visibly(
            LintRequest(data=str(file), model=str(tiny_model), max_length=100, objective=objective),
            show=1,
            as_json=False,
        )
        said[objective] = capsys.readouterr().out
        assert f"1 row checked as objective {objective.value} reads them" in said[objective]
    assert "grpo.jsonl:1: " in said[ObjectiveName.GRPO]
    assert "tokens, a prompt, to which answers are sampled" in said[ObjectiveName.GRPO]
    assert "{+" not in said[ObjectiveName.GRPO]
    assert "dpo.jsonl:1, chosen: " in said[ObjectiveName.DPO]
    assert "dpo.jsonl:1, rejected: " in said[ObjectiveName.DPO]
    assert "kto.jsonl:1, undesirable: " in said[ObjectiveName.KTO]
