"""Planted faults: each rule finds the row that breaks it and no other, and clean rows break none."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

import chat_templates as ct
from veneer.data.lint.registry import FILE_CHECKS, ROW_CHECKS, RULES
from veneer.data.lint.report import LintReport
from veneer.data.lint.rules import Severity
from veneer.data.lint.run import LintOptions, lint

WORDS = [
    a + b for a in ("har", "lan", "mea", "cop", "vio", "orch") for b in ("bour", "tern", "dow", "per", "lin", "ard")
]
ROLES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


def sentence(seed: int, words: int = 14) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words)) + "."


def chat(*turns: str | dict[str, Any], **more: Any) -> dict[str, Any]:
    """A row: turns as "u:text", or whole messages."""
    messages = [{"role": ROLES[turn[0]], "content": turn[2:]} if isinstance(turn, str) else turn for turn in turns]
    return {"messages": messages, **more}


def clean(count: int, seed: int = 0) -> list[dict[str, Any]]:
    return [chat("s:Be brief.", f"u:{sentence(seed + 2 * i)}", f"a:{sentence(seed + 2 * i + 1)}") for i in range(count)]


def write(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def found_in(report: LintReport) -> dict[str, list[str]]:
    """The rows of each rule, as "file:line" without the folder."""
    return {
        found.rule.name: [report.facts.where(row).rpartition("/")[2] for row in found.rows] for found in report.found
    }


def call(arguments: Any, name: str = "find") -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}


GENERATION_OPEN_END = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n{% else %}{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}"
)
# White space behind the control token is no open end.
GENERATION_LINE_END = GENERATION_OPEN_END.replace("{% endgeneration %}<|im_end|>\n", "<|im_end|>\n{% endgeneration %}")
GENERATION_HEADER = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "<|im_end|>{% endgeneration %}\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}"
)
GENERATION_NOTHING = GENERATION_OPEN_END.replace(
    "{{ m.content }}{% endgeneration %}", "{% endgeneration %}{{ m.content }}"
)
NO_SYSTEM = "{% for m in messages if m.role != 'system' %}" + ct.CHATML_NO_PROMPT.partition("%}")[2]
TWO_BOS = "{{ bos_token }}" + ct.LLAMA3
JOHN = sentence(990)
Q = sentence(991)

ROW_FAULTS: list[tuple[str, str, Any]] = [
    ("unusable-row", "chatml", '{"messages": [{"role": "user"'),
    ("unusable-row", "chatml", chat({"role": "bot", "content": "Hi"}, "a:Yes")),
    ("unusable-row", "chatml", chat("u:Hello")),
    ("refused-by-template", "mistral", chat("u:Hi", "u:And?", f"a:{JOHN}")),
    ("empty-turn", "chatml", chat(f"u:{Q}", "a:\u200b \n")),
    ("empty-turn", "chatml", chat("u:  ", f"a:{JOHN}")),
    ("empty-turn", "chatml", {"prompt": Q, "completion": " \u2060"}),
    ("turn-order", "chatml", chat(f"u:{Q}", "u:Well?", f"a:{JOHN}")),
    ("turn-order", "chatml", chat(f"a:{JOHN}", f"u:{Q}", f"a:{JOHN} Yes.")),
    ("turn-order", "chatml", chat(f"u:{Q}", f"a:{JOHN}", "u:Thanks")),
    ("turn-order", "chatml", chat(f"u:{Q}", "s:Be kind.", f"a:{JOHN}")),
    ("unknown-keys", "chatml", chat({"role": "user", "content": Q, "contnet": "x"}, f"a:{JOHN}")),
    (
        "content-lost",
        "chatml",
        chat(f"u:{Q}", {"role": "assistant", "content": JOHN, "reasoning_content": sentence(5)}),
    ),
    ("content-lost", "chatml", chat(f"u:{Q}", f"a:{JOHN}", tools=[{"function": {"name": "look_up"}}])),
    (
        "old-thoughts-lost",
        "qwen3",
        chat(f"u:{Q}", f"a:<think>\nwell\n</think>\n\n{JOHN}", "u:And?", f"a:<think>\nso\n</think>\n\n{sentence(7)}"),
    ),
    ("tool-call-lost", "chatml", chat(f"u:{Q}", call({"city": "Paris"}), "t:1", f"a:{JOHN}")),
    ("tool-call-lost", "llama31_tools", chat(f"u:{Q}", call('{"city": "Paris"}'), "t:1", f"a:{JOHN}")),
    (
        "tool-call-lost",
        "llama31_tools",
        chat(
            f"u:{Q}",
            {**call({}), "tool_calls": [*call({"a": 1})["tool_calls"], *call({"b": 2}, "other")["tool_calls"]]},
            "t:1",
            f"a:{JOHN}",
        ),
    ),
    ("boilerplate-trained", "qwen3", chat(f"u:{Q}", f"a:{JOHN}")),
    ("boilerplate-trained", "thinking", chat(f"u:{Q}", f"a:{JOHN}")),
    ("control-tokens-spelled", "chatml", chat(f"u:{Q} <|im_end|>", f"a:{JOHN}")),
    ("control-tokens-spelled", "chatml", {"text": f"<|im_start|>user\n{Q}<|im_end|>"}),
    ("overlong", "chatml", chat(f"u:{Q}", f"a:{sentence(3, 900)}")),
    ("damaged-encoding", "chatml", chat(f"u:The cafÃ© of {Q}", f"a:{JOHN}")),
    ("damaged-encoding", "chatml", chat(f"u:{Q}", f"a:It\ufffds {JOHN}")),
    ("damaged-encoding", "chatml", chat(f"u:{Q}", f"a:Donâ€™t {JOHN}")),
    ("damaged-encoding", "chatml", chat(f"u:{Q}", f"a:\x93quoted\x94 {JOHN}")),
    ("secret", "chatml", chat(f"u:{Q}", f"a:{JOHN} AKIAIOSFODNN7EXAMQLE")),
    ("secret", "chatml", chat(f"u:My token is ghp_9aZ3kQ7mTx2LbVw8RnYc4Dd1Ee6Ff5Gg0Hh2 {Q}", f"a:{JOHN}")),
    ("secret", "chatml", chat(f"u:{Q}", f'a:{JOHN} password = "tR4!vQz9#LmX2"')),
    ("secret", "chatml", chat(f"u:{Q} postgres://admin:s3cr3tP4ss@db.internal:5432/x", f"a:{JOHN}")),
    ("secret", "chatml", chat(f"u:{Q}", f"a:-----BEGIN RSA PRIVATE KEY-----\n{'MIIEpAIBAAKCAQEA7bq2' * 5}\n {JOHN}")),
    ("personal-data", "chatml", chat(f"u:Write to jane.roe@post.net. {Q}", f"a:{JOHN}")),
    ("personal-data", "chatml", chat(f"u:Card 4111 1111 1111 1111. {Q}", f"a:{JOHN}")),
    ("personal-data", "chatml", chat(f"u:DE89 3704 0044 0532 0130 00 is it. {Q}", f"a:{JOHN}")),
    ("personal-data", "chatml", chat(f"u:Call +49 30 1234 5678. {Q}", f"a:{JOHN}")),
]
TEMPLATE_FAULTS = [
    ("nothing-trained", GENERATION_NOTHING),
    ("end-untrained", GENERATION_OPEN_END),
    ("boilerplate-trained", GENERATION_HEADER),
    ("content-lost", NO_SYSTEM),
]


@pytest.mark.parametrize(("rule", "template", "row"), ROW_FAULTS)
def test_a_planted_fault_is_found_where_it_is(rule: str, template: str, row: Any, tmp_path: Path) -> None:
    filler = [{"prompt": sentence(2 * i), "completion": sentence(2 * i + 1)} for i in range(6)]
    file = write(tmp_path / "rows.jsonl", [*filler[:3], row, *filler[3:]])
    found = found_in(lint(file, tokenizer=ct.tokenizer(template), max_length=500))
    # A template's own habits are found in all rows; in the others nothing else is.
    own = {"boilerplate-trained"} if template in ("qwen3", "thinking") else set()
    assert "rows.jsonl:4" in found[rule]
    assert {name for name, rows in found.items() if rows != ["rows.jsonl:4"]} <= own


@pytest.mark.parametrize(("rule", "source"), TEMPLATE_FAULTS)
def test_a_faulty_template_is_found_in_every_row(rule: str, source: str, tmp_path: Path) -> None:
    tokenizer = ct.tokenizer("chatml")
    tokenizer.chat_template = source
    report = lint(write(tmp_path / "rows.jsonl", clean(5)), tokenizer=tokenizer)
    assert {name: len(rows) for name, rows in found_in(report).items()} == {rule: 5}


def test_white_space_behind_the_end_of_a_turn_is_no_open_end(tmp_path: Path) -> None:
    tokenizer = ct.tokenizer("chatml")
    tokenizer.chat_template = GENERATION_LINE_END
    assert found_in(lint(write(tmp_path / "rows.jsonl", clean(5)), tokenizer=tokenizer)) == {}


def test_a_doubled_start_is_found(tmp_path: Path) -> None:
    tokenizer = ct.tokenizer("llama3")
    tokenizer.chat_template = TWO_BOS
    assert list(found_in(lint(write(tmp_path / "a.jsonl", clean(3)), tokenizer=tokenizer))) == ["doubled-bos"]
    spelled = [{"text": f"<|begin_of_text|>{Q}"}]
    found = found_in(lint(write(tmp_path / "b.jsonl", spelled), tokenizer=ct.tokenizer("llama3")))
    assert set(found) == {"doubled-bos", "control-tokens-spelled"}


def test_repeats_and_conflicts(tmp_path: Path) -> None:
    labelled = [{"prompt": sentence(i), "completion": ("yes", "no", "perhaps")[i % 3]} for i in range(30)]
    rows = [
        *labelled,
        {"prompt": labelled[4]["prompt"].upper(), "completion": "no "},  # 31 is the row 5 again
        {"prompt": labelled[6]["prompt"], "completion": "no"},  # 32 contradicts the row 7
    ]
    found = found_in(lint(write(tmp_path / "rows.jsonl", rows)))
    assert found == {
        "duplicate": ["rows.jsonl:31"],
        "conflicting-labels": ["rows.jsonl:7", "rows.jsonl:32"],
        "label-spelling": ["rows.jsonl:31"],
    }


def test_white_space_around_a_question_hides_no_repeat(tmp_path: Path) -> None:
    rows = [*clean(4), chat("s:Be brief.", f"u:{sentence(2)} \n", f"a:\t{sentence(3).upper()}")]
    train = write(tmp_path / "rows.jsonl", rows)
    assert found_in(lint(train)) == {"duplicate": ["rows.jsonl:5"]}
    held = write(tmp_path / "test.jsonl", rows[4:])
    assert found_in(lint(write(train, rows[:4]), eval_file=held)) == {"leaked-row": ["test.jsonl:1"]}


def test_several_right_answers_are_no_error(tmp_path: Path) -> None:
    rows = [chat(f"u:{sentence(i // 2)}", f"a:{sentence(100 + i)}") for i in range(12)]
    report = lint(write(tmp_path / "rows.jsonl", rows))
    assert list(found_in(report)) == ["several-answers"]
    assert not report.failed


def test_leakage(tmp_path: Path) -> None:
    rows = [chat(f"u:{sentence(i, 40)}", f"a:{sentence(100 + i, 40)}", source=f"s{i}") for i in range(20)]
    train = write(tmp_path / "train.jsonl", rows)
    nearly = sentence(7, 40).replace(sentence(7, 40).split()[20], "zebra")
    held = [
        rows[3] | {"source": "other"},
        chat(f"u:{sentence(5, 40)}", f"a:{sentence(300)}", source="another"),
        chat(f"u:{nearly}", f"a:{sentence(107, 40)}", source="third"),
        chat(f"u:{sentence(400)}", f"a:{sentence(401)}", source="s9"),
        chat(f"u:{sentence(500)}", f"a:{sentence(501)}", source="fourth"),
    ]
    file = write(tmp_path / "test.jsonl", held)
    found = found_in(lint(train, eval_file=file, options=LintOptions(group="source")))
    assert found == {
        "leaked-row": ["test.jsonl:1"],
        "leaked-prompt": ["test.jsonl:2"],
        "leaked-nearly": ["test.jsonl:3"],
        "leaked-group": ["test.jsonl:4"],
    }


def test_a_test_row_inside_a_longer_training_row_is_found(tmp_path: Path) -> None:
    rows = [chat(f"u:{sentence(i, 30)}", f"a:{sentence(100 + i, 30)}") for i in range(20)]
    rows[4] = chat(f"u:{sentence(4, 200)} {sentence(700, 15)} {sentence(701, 15)}", f"a:{sentence(104, 30)}")
    held = [
        chat(f"u:{sentence(700, 15)}", f"a:{sentence(701, 15)}"),
        chat(f"u:{sentence(800, 15)}", f"a:{sentence(801, 15)}"),
    ]
    train = write(tmp_path / "train.jsonl", rows)
    found = found_in(lint(train, eval_file=write(tmp_path / "test.jsonl", held)))
    assert found == {"leaked-within": ["test.jsonl:1"]}


def test_columns_that_name_groups_are_known(tmp_path: Path) -> None:
    rows = [{"text": f"{sentence(i)}", "user_id": i} for i in range(9)]
    train = write(tmp_path / "train.jsonl", rows[:6])
    held = write(tmp_path / "test.jsonl", [rows[7], rows[8] | {"user_id": 2}])
    assert found_in(lint(train, eval_file=held)) == {"leaked-group": ["test.jsonl:2"]}


def test_a_few_contradicting_labels_are_found_in_any_file(tmp_path: Path) -> None:
    rows = [chat(f"u:{sentence(i, 20)}", f"a:{sentence(100 + i, 40)}") for i in range(9)]
    rows += [chat(f"u:{sentence(50 + i)}", f"a:{('spam', 'ham')[i % 2]}") for i in range(6)]
    rows.append(chat(f"u:{sentence(50)}", "a:ham"))
    found = found_in(lint(write(tmp_path / "rows.jsonl", rows)))
    assert found["conflicting-labels"] == ["rows.jsonl:10", "rows.jsonl:16"]


def test_slips_of_the_pen_in_labels_are_found(tmp_path: Path) -> None:
    names = ["card_arrival", "lost_card", "level_1", "level_2", "pin"]
    rows = [{"prompt": sentence(i), "completion": names[i % 5]} for i in range(100)]
    rows[7]["completion"], rows[12]["completion"], rows[30]["completion"] = "Level 1", "Lost Card", "card_arival"
    rows[44]["completion"] = "level_3"
    found = found_in(lint(write(tmp_path / "rows.jsonl", rows)))
    assert found == {"label-spelling": ["rows.jsonl:8", "rows.jsonl:13", "rows.jsonl:31"]}


def test_near_duplicates_warn_where_there_are_many(tmp_path: Path) -> None:
    rows = [chat(f"u:{sentence(i, 40)}", f"a:{sentence(1000 + i, 40)}") for i in range(60)]
    few = [*rows, chat(f"u:{sentence(1, 40)} Indeed.", f"a:{sentence(1001, 40)}")]
    assert found_in(lint(write(tmp_path / "few.jsonl", few))) == {"near-duplicate": ["few.jsonl:61"]}
    many = [*few, *(chat(f"u:{sentence(i, 40)} Please.", f"a:{sentence(1000 + i, 40)}") for i in range(2, 9))]
    found = found_in(lint(write(tmp_path / "many.jsonl", many)))
    assert found == {"many-near-duplicates": [f"many.jsonl:{i}" for i in range(61, 69)]}


def test_outliers(tmp_path: Path) -> None:
    rows: list[Any] = [chat(f"u:{sentence(i, 12)}", f"a:{sentence(1000 + i, 12)}") for i in range(300)]
    rows[10] = chat(f"u:{sentence(9003, 500)}", f"a:{sentence(9004, 800)}")
    rows[20] = {"prompt": sentence(9005, 12), "completion": sentence(9006, 12)}
    for i in range(100, 200):
        rows[i] = chat(f"u:{sentence(i, 12)}", f"a:This is the {sentence(2000 + i, 8)} and what you have.")
    rows[40] = chat(f"u:{sentence(40, 12)}", "a:Der Hafen und die Laterne sind nicht auf dem Feld im Wald.")
    rows[30] = chat(f"u:{sentence(30, 12)}", "a:Гавань, фонарь, луг, медь, скрипка, сад и гранит у старого моста.")
    found = found_in(lint(write(tmp_path / "rows.jsonl", rows)))
    assert found == {
        "outlier-length": ["rows.jsonl:11"],
        "rare-keys": ["rows.jsonl:21"],
        "rare-language": ["rows.jsonl:31", "rows.jsonl:41"],
    }


def test_lengths_of_several_kinds_are_no_outliers(tmp_path: Path) -> None:
    rows = [chat(f"u:{sentence(i, 12)}", f"a:{sentence(1000 + i, 12 if i % 10 else 300)}") for i in range(200)]
    assert found_in(lint(write(tmp_path / "rows.jsonl", rows))) == {}


@pytest.mark.parametrize(
    "template", [name for name in ct.TEMPLATES if name not in ("unmaskable", "unclosed", "qwen3", "thinking")]
)
def test_clean_rows_break_no_rule(template: str, tmp_path: Path) -> None:
    rows = (
        clean(40)
        if template not in ("mistral", "gemma")
        else [chat(*[f"u:{sentence(2 * i)}", f"a:{sentence(2 * i + 1)}"]) for i in range(40)]
    )
    rows += [
        chat(f"u:{sentence(500 + i)}", f"a:{sentence(600 + i)}", f"u:{sentence(700 + i)}", f"a:{sentence(800 + i)}")
        for i in range(5)
    ]
    rows.append(
        chat(
            "u:L'été, ça va? Ünïcödé — “quotes”, É— and 日本語, привет, Ελλάδα, naïve café",
            "a:Ça va très bien – merci… £5 ½ × 3 = 1½ ≈ 1.5",
        )
    )
    rows.append(
        chat(
            'u:Use key = "value", password = "your_password_here", sk-xxxxxxxxxxxxxxxxxxxxxxxx',
            "a:Write to a@example.com or 4111 1111 1111 1112, 2024-01-02 10:11:12.123456",
        )
    )
    if template != "llama3":
        rows = [*rows, {"instruction": sentence(901), "input": sentence(902), "output": sentence(903)}]
        rows.append(
            {
                "conversations": [
                    {"from": "human", "value": sentence(904)},
                    {"from": "gpt", "value": f' "{sentence(905)}"\n\tyes & <b>no</b> '},
                ]
            }
        )
    report = lint(write(tmp_path / "rows.jsonl", rows), tokenizer=ct.tokenizer(template), max_length=2048)
    assert found_in(report) == {}


def test_every_rule_has_a_planted_fault() -> None:
    planted = {rule for rule, *_ in [*ROW_FAULTS, *TEMPLATE_FAULTS]}
    planted |= {"doubled-bos", "duplicate", "conflicting-labels", "several-answers", "near-duplicate"}
    planted |= {"many-near-duplicates", "outlier-length", "rare-keys", "rare-language"}
    planted |= {"leaked-row", "leaked-prompt", "leaked-nearly", "leaked-group", "leaked-within", "label-spelling"}
    assert planted == set(RULES)


def test_rules_are_named_once_and_say_what_to_do() -> None:
    rules = [rule for check in (*ROW_CHECKS, *FILE_CHECKS) for rule in check.rules]
    assert len({rule.name for rule in rules}) == len(rules)
    assert all(rule.remedy and rule.summary for rule in rules)
    assert {rule.severity for rule in rules} == set(Severity)
