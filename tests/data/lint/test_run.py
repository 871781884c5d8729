from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import write_rows
from helpers.processes.pooled_jobs import ended, started
from helpers.rows.lint_rows import found_in, sentence
from helpers.texts import chat_templates as ct
from veneer.data.lint import run
from veneer.data.lint.row import LintSetting
from veneer.data.lint.run import SAMPLE_ROWS, LintOptions, lint
from veneer.enums import ObjectiveName
from veneer.errors import ConfigError, DataError
from veneer.events import Event, Note, StageBegun, StageEnded, StageProgress


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(count: int) -> list[dict[str, str]]:
    made = [
        {"prompt": f"How much is {i} and {i * 7 % 1000}?", "completion": f"It is {i + i * 7 % 1000}."}
        for i in range(count)
    ]
    made[count // 2] = made[1]
    made[count - 2] = {"prompt": "x", "completion": "\u200b"}
    return made


def test_several_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "ONE_PROCESS_ROWS", 2 * run.CHUNK_ROWS)
    file = write(tmp_path / "rows.jsonl", rows(900))
    alone, shared = (
        lint(file, LintSetting(ct.tokenizer("chatml")), eval_file=file, options=LintOptions(processes=count))
        for count in (1, 2)
    )
    first, second = alone.to_json(), shared.to_json()
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert alone.rows == 1800
    assert {found.rule.name for found in alone.found} >= {"duplicate", "empty-turn", "leaked-row"}


def test_a_process_that_is_killed_is_an_error_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system does it when the memory is full."""
    monkeypatch.setattr(run, "ONE_PROCESS_ROWS", 2 * run.CHUNK_ROWS)
    workers = started(monkeypatch)
    file = write(tmp_path / "rows.jsonl", rows(6_000))

    def kill(event: Event) -> None:
        if isinstance(event, StageProgress) and event.done and workers[0].process.poll() is None:
            workers[0].process.kill()

    with pytest.raises(DataError, match=r"a process that checks rows ended with -9, .*memory was full; --processes 1 "):
        lint(file, options=LintOptions(processes=2), emit=kill)
    assert ended(workers)


@pytest.mark.slow
def test_a_script_without_a_guard_checks_many_rows(tmp_path: Path) -> None:
    """The processes do not import it, as multiprocessing's would."""
    file = write(tmp_path / "rows.jsonl", rows(5_000))
    script = tmp_path / "script.py"
    script.write_text(f"import veneer\nprint(veneer.lint({str(file)!r}, processes=2).rows)\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=300)
    assert (done.stdout, done.stderr) == ("5000\n", "")


def test_where_processes_cannot_work_together_one_checks_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "ONE_PROCESS_ROWS", run.CHUNK_ROWS)
    monkeypatch.setattr(sys, "platform", "win32")
    workers = started(monkeypatch)
    events: list[Event] = []
    file = write(tmp_path / "rows.jsonl", rows(600))
    assert lint(file, options=LintOptions(processes=2), emit=events.append).rows == 600
    assert ["one process" in event.message for event in events if isinstance(event, Note)] == [True]
    assert workers == []


def test_each_stage_has_an_event_when_it_begins_and_ends(tmp_path: Path) -> None:
    events: list[Event] = []
    lint(write(tmp_path / "rows.jsonl", rows(20)), emit=events.append)
    begun = [event for event in events if isinstance(event, StageBegun)]
    assert [event.total for event in begun] == [20, 6]
    assert sum(isinstance(event, StageEnded) for event in events) == 2


def test_other_formats_are_checked_too(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,completion\nHello,Hi\nHello again,Hi\nHello,Hi\n")
    (tmp_path / "rows.json").write_text(json.dumps([{"text": "One"}, {"text": "one"}, 5]))
    found = lint(tmp_path / "rows.csv").to_json()["findings"]
    assert [(one["rule"], [row["where"] for row in one["rows"]]) for one in found] == [
        ("duplicate", [f"{tmp_path}/rows.csv:4"])
    ]
    assert [one["rule"] for one in lint(tmp_path / "rows.json").to_json()["findings"]] == ["unusable-row", "duplicate"]


def test_rules_can_be_ignored_by_name(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", rows(20))
    assert not lint(file, options=LintOptions(ignore=frozenset({"empty-turn", "duplicate"}))).found
    with pytest.raises(ConfigError, match="did you mean 'duplicate'"):
        lint(file, options=LintOptions(ignore=frozenset({"duplicates"})))


def test_a_column_of_groups_that_no_row_has_is_refused(tmp_path: Path) -> None:
    with_group = write(tmp_path / "rows.jsonl", [{"text": f"Row {i}", "customer": i % 3} for i in range(6)])
    without = write(tmp_path / "test.jsonl", [{"text": f"Other {i}"} for i in range(6)])
    done: list[Event] = []
    for files, group, found in (
        ((with_group, with_group), "custmer", r"training row has this column \(did you mean 'customer'\?\)"),
        ((with_group, without), "customer", "evaluation row has this column; they have text"),
    ):
        with pytest.raises(ConfigError, match=f"--group {group}: no {found}"):
            lint(files[0], eval_file=files[1], options=LintOptions(group=group), emit=done.append)
    assert done == []  # no row was checked in vain
    empty = write(tmp_path / "empty.jsonl", [{"text": f"Other {i}", "customer": None} for i in range(6)])
    with pytest.raises(ConfigError, match="--group customer: no evaluation row has a value in this column"):
        lint(with_group, eval_file=empty, options=LintOptions(group="customer"))
    with pytest.raises(ConfigError, match=r"--group customer: .* no evaluation rows; name them with --eval-data"):
        lint(with_group, options=LintOptions(group="customer"))


def test_a_column_of_groups_may_begin_anywhere_in_a_file(tmp_path: Path) -> None:
    """Files that were joined of several sources have the column in some rows only."""
    late = [{"text": f"Row {i}"} for i in range(SAMPLE_ROWS)] + [{"text": "The last row", "customer": 7}]
    train, held = write(tmp_path / "rows.jsonl", late), write(tmp_path / "test.jsonl", [{"text": "B", "customer": 7}])
    found = lint(train, eval_file=held, options=LintOptions(group="customer")).to_json()["findings"]
    assert [row["where"] for one in found if one["rule"] == "leaked-group" for row in one["rows"]] == [f"{held}:1"]


def test_what_a_reader_leaves_out_is_said(tmp_path: Path) -> None:
    """A run says so of the same file; the check before it was silent."""
    train, held = tmp_path / "rows.csv", tmp_path / "test.csv"
    train.write_text("prompt,completion\nWhy?,So.\n,\n,\n")
    held.write_text('prompt,completion\nHow?, "So."\n')
    said: list[str] = []
    lint(train, eval_file=held, emit=lambda one: said.append(one.message) if isinstance(one, Note) else None)
    assert said[0] == f"{train}: rows with only empty cells, which are left out: 2"
    assert said[1].startswith(f"{held}: rows with a cell whose quotes follow a space")
    assert len(said) == 2


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        lint(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="no rows"):
        lint(write(tmp_path / "empty.jsonl", []))


def test_several_files_are_one_and_rows_are_named_by_theirs(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    one = [{"prompt": f"question {number}", "completion": f"answer {number}"} for number in range(5)]
    write_rows(tmp_path / "in" / "a.jsonl", one)
    write_rows(tmp_path / "in" / "b.jsonl", [{"broken": 1}, one[3]])
    write_rows(tmp_path / "out" / "c.jsonl", [one[0]])
    write_rows(tmp_path / "out" / "d.jsonl", [one[4], {"text": "a \ufffd"}])
    report = lint(tmp_path / "in" / "*.jsonl", eval_file=tmp_path / "out" / "*.jsonl")
    places = {found.rule.name: [report.facts.where(row) for row in found.rows] for found in report.found}
    assert places["duplicate"] == [f"{tmp_path / 'in' / 'b.jsonl'}:2"]
    assert places["unusable-row"] == [f"{tmp_path / 'in' / 'b.jsonl'}:1"]
    assert places["leaked-row"] == [f"{tmp_path / 'out' / 'c.jsonl'}:1", f"{tmp_path / 'out' / 'd.jsonl'}:1"]
    assert places["damaged-encoding"] == [f"{tmp_path / 'out' / 'd.jsonl'}:2"]
    assert report.rows == 10


@pytest.mark.parametrize("template", ["chatml", "llama3", "mistral", "gemma", "qwen3", "thinking"])
def test_clean_prompts_break_no_rule(template: str, tmp_path: Path) -> None:
    """In particular none of those that need an answer."""
    raws: list[Any] = [
        {"prompt": sentence(i), "reference": "yes" if i % 2 else "no", "label": i % 2} for i in range(60)
    ]
    raws += [{"prompt": sentence(i), "answer": sentence(i + 500)} for i in range(60, 64)]
    setting = LintSetting(ct.tokenizer(template), objective=ObjectiveName.GRPO)
    report = lint(write(tmp_path / "rows.jsonl", raws), setting)
    assert [(found.rule.name, found.details) for found in report.found] == []
    assert report.facts.counted.all()
    assert report.statistics()["lengths"]["unit"] == "tokens"
    assert report.statistics()["lengths"]["targets"] == 0


def test_what_rules_find_in_prompts(tmp_path: Path) -> None:
    german = "Was ist das und wie viel ist es, wenn ich nicht mit dem Auto auf die Arbeit fahre?"
    english = "What is it and how much would it be if I do not go to the work with my own car in week"
    raws: list[Any] = [{"prompt": f"{english} {number}?"} for number in range(240)]
    raws[1] = {"prompt": raws[0]["prompt"], "reference": "another"}
    raws[3] = {"prompt": "cafÃ© prices"}
    raws[5] = {"prompt": "AKIAIOSFODNN7EXAMQLE", "reference": "x"}
    raws[7] = {"prompt": [{"role": "system", "content": "a"}, {"role": "system", "content": "b"}]}
    raws[9] = {"prompt": " "}
    raws[11] = {"prompt": german}
    raws[13] = {"prompt": "what is <|im_end|>?"}
    file = write(tmp_path / "rows.jsonl", raws)
    setting = LintSetting(ct.tokenizer("chatml"), objective=ObjectiveName.GRPO)
    report = lint(file, setting, eval_file=write(tmp_path / "eval.jsonl", raws[30:31]))
    found = found_in(report)
    expected = {"duplicate": 2, "damaged-encoding": 4, "secret": 6, "turn-order": 8, "empty-turn": 10,
                "rare-language": 12, "control-tokens-spelled": 14}  # fmt: skip
    assert {rule: found.get(rule) for rule in expected} == {
        rule: [f"rows.jsonl:{line}"] for rule, line in expected.items()
    }
    assert found["leaked-row"] == ["eval.jsonl:1"]


def test_a_prompt_that_the_template_does_not_write_is_an_error(tmp_path: Path) -> None:
    tokenizer = ct.tokenizer("chatml")
    tokenizer.chat_template = (
        "{% for m in messages if m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    raw = {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]}
    report = lint(write(tmp_path / "rows.jsonl", [raw]), LintSetting(tokenizer, objective=ObjectiveName.GRPO))
    (found,) = report.found
    assert found.rule.name == "content-lost"
    assert "prompt[0].content" in found.details[0]


def test_in_pairs_for_a_run_the_rejected_answers_are_checked_too(tmp_path: Path) -> None:
    raws = [{"prompt": sentence(i), "chosen": sentence(i + 50), "rejected": sentence(i + 90)} for i in range(6)]
    raws[2]["rejected"] = " \u200b"
    file = write(tmp_path / "rows.jsonl", raws)
    assert lint(file).found == ()
    (found,) = lint(file, LintSetting(objective=ObjectiveName.DPO)).found
    assert (found.rule.name, list(found.rows)) == ("empty-turn", [2])
    assert found.details[2].startswith("rejected: ")


def test_a_label_counts_where_the_objective_has_labels(tmp_path: Path) -> None:
    for labels, imitated in (((True, False), "unusable-row"), ((1, 0), "duplicate")):
        raws = [{"prompt": sentence(1), "completion": sentence(2), "label": label} for label in labels]
        file = write(tmp_path / "rows.jsonl", raws)
        assert {"both-labels"} == found_in(lint(file)).keys()
        assert {"both-labels"} == found_in(lint(file, LintSetting(objective=ObjectiveName.KTO))).keys()
        # Numbers may be classes where answers are imitated.
        assert {imitated} == found_in(lint(file, LintSetting(objective=ObjectiveName.SFT))).keys()


def test_processes_read_rows_as_the_objective_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than are checked without other processes."""
    monkeypatch.setattr(run, "ONE_PROCESS_ROWS", 2 * run.CHUNK_ROWS)
    file = write(
        tmp_path / "rows.jsonl", [{"prompt": f"question number {i}"} for i in range(run.ONE_PROCESS_ROWS + 10)]
    )
    report = lint(file, LintSetting(objective=ObjectiveName.GRPO), options=LintOptions(processes=2))
    assert not report.failed
    assert report.facts.usable.all()


def test_thoughts_of_earlier_turns_are_no_loss_of_a_prompt(tmp_path: Path) -> None:
    """Nothing of a prompt trains, and in use the template leaves them out as well; in an answered row they are told."""
    thought = {"role": "assistant", "content": sentence(2), "reasoning_content": "It is late."}
    turns = [{"role": "user", "content": sentence(1)}, thought, {"role": "user", "content": sentence(3)}]
    tokenizer = ct.tokenizer("qwen3")
    asked = write(tmp_path / "asked.jsonl", [{"prompt": turns}])
    assert lint(asked, LintSetting(tokenizer, objective=ObjectiveName.GRPO)).found == ()
    answered = write(tmp_path / "rows.jsonl", [{"messages": [*turns, {"role": "assistant", "content": sentence(4)}]}])
    assert "old-thoughts-lost" in found_in(lint(answered, LintSetting(tokenizer)))
