from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from veneer.data.files.fix import Change, FixResult, fix, mend
from veneer.data.lint.run import lint
from veneer.data.records import read_records
from veneer.errors import DataError, OutputError

CHAT = '{"messages": [{"role":"user",  "content": "Hi é"}, {"role": "assistant", "content": "Ho"}]}'


def mended(tmp_path: Path, *lines: str | bytes, name: str = "rows.jsonl") -> tuple[FixResult, list[str], bytes]:
    file = tmp_path / name
    file.write_bytes(b"".join(line if isinstance(line, bytes) else line.encode() + b"\n" for line in lines))
    before = file.read_bytes()
    changes: list[Change] = []
    done = fix(file, tmp_path / "new.jsonl", changes.append)
    assert file.read_bytes() == before
    assert done.changes == len(changes)
    texts = [f"{change.where.rpartition(':')[2]}: {change.text}" for change in changes]
    return done, texts, (tmp_path / "new.jsonl").read_bytes()


def test_rows_that_need_nothing_keep_their_bytes(tmp_path: Path) -> None:
    done, changes, written = mended(tmp_path, CHAT, "", '{"text":"  indented\\n\\ttext "}', b'{"text": "last"}')
    assert changes == []
    assert written == f'{CHAT}\n{{"text":"  indented\\n\\ttext "}}\n{{"text": "last"}}\n'.encode()
    assert (done.rows, done.left_out) == (3, 0)


def test_what_a_killed_process_has_left_is_deleted(tmp_path: Path) -> None:
    for name in (".partial-1.aa-new.jsonl", ".partial-1.aa-new.jsonl.held", ".partial-1.aa-other.jsonl.held"):
        (tmp_path / name).touch()
    mended(tmp_path, CHAT)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".partial-1.aa-other.jsonl.held", "new.jsonl", "rows.jsonl",
    ]  # fmt: skip


def test_every_change_is_made_and_told(tmp_path: Path) -> None:
    row = {
        "messages": [
            {"role": "Human", "content": "\n  \n    x = 1\r\n  y â€œokâ€\x9d cafÃ© \n"},
            {"role": "assistant", "content": "\ufeffFine"},
            {"role": "tool", "content": " kept \n"},
        ]
    }
    _, changes, written = mended(tmp_path, CHAT, json.dumps(row), CHAT.replace('"user",  ', '"user", '))
    assert [json.loads(line) for line in written.splitlines()] == [
        json.loads(CHAT),
        {
            "messages": [
                {"role": "user", "content": "    x = 1\n  y “ok” café"},
                {"role": "assistant", "content": "Fine"},
                {"role": "tool", "content": " kept \n"},
            ]
        },
    ]
    assert changes == [
        "2: messages[0].role: 'Human' is now 'user'",
        "2: messages[0].content: 'â€œ' is now '“', 'â€\\x9d' is now '”', 'Ã©' is now 'é'",
        "2: messages[0].content: line ends are \\n",
        "2: messages[0].content: white space around it is removed (6 characters)",
        "2: messages[1].content: byte-order marks are removed",
        f"3: left out, since it repeats {tmp_path}/rows.jsonl:1 exactly",
    ]


def test_arguments_of_tools_and_columns_without_turns_keep_their_names_and_white_space() -> None:
    arguments = {"path": "a.py", "content": "\n\nprint(1)\r\n", "from": "Customer", "role": ["AI", "System"]}
    call = {"function": {"name": "write_file", "arguments": arguments}}
    declared = {"name": "write_file", "parameters": {"role": "AI", "content": "\n a \n"}}
    row = {
        "messages": [
            {"role": "user", "content": "write"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "assistant", "function_call": {"name": "f", "arguments": "{}", "content": "x \n"}},
        ],
        "tools": [declared],
        "meta": [{"role": "Customer", "input": "x \n"}],
        "arguments": {"content": " a \n", "value": "b ", "from": "Human"},
    }
    assert mend(row) == (row, [])


def test_turns_are_mended_wherever_a_row_has_them() -> None:
    turn, other = {"role": "AI", "content": "a \n"}, {"from": "Bot", "value": "b "}
    call = {"role": "AI", "tool_calls": [{"function": {"arguments": {"a": "donâ€™t"}}}]}
    found, texts = mend({"chosen": turn, "input": {"messages": [call]}, "samples": [[other]], "output": "c "})
    assert found == {
        "chosen": {"role": "assistant", "content": "a"},
        "input": {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": {"a": "don’t"}}}]}]},
        "samples": [[{"from": "assistant", "value": "b"}]],
        "output": "c",
    }
    assert len(texts) == 7


def test_what_cannot_be_read_stays_as_it_is(tmp_path: Path) -> None:
    done, changes, written = mended(tmp_path, CHAT, '{"messages": [', b'{"text": "\xff"}\n')
    assert changes == []
    assert written.splitlines()[1:] == [b'{"messages": [', b'{"text": "\xff"}']
    assert (done.rows, done.unreadable) == (3, 2)


def test_what_is_no_text_is_not_mended(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"\x1f\x8b\x08\x00 rows\n")
    with pytest.raises(DataError, match="is compressed by gzip; decompress it"):
        fix(tmp_path / "rows.jsonl", tmp_path / "new.jsonl", print)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_other_formats_become_json_lines(tmp_path: Path) -> None:
    done, changes, written = mended(tmp_path, "prompt,completion", "Hi: ,Ho ", "a,b,c", "Hi: ,Ho", name="rows.csv")
    assert [json.loads(line) for line in written.splitlines()] == [{"prompt": "Hi: ", "completion": "Ho"}]
    assert [change.partition(":")[0] for change in changes] == ["2", "3", "4"]
    assert (done.left_out, done.unreadable) == (2, 1)


def test_one_file_is_mended_at_a_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(f"{CHAT}\n")
    with pytest.raises(
        DataError, match=r"\*\.jsonl matches 2 files, but only one is repaired at a time.*\n  - .*a\.jsonl"
    ):
        fix(tmp_path / "*.jsonl", tmp_path / "new.jsonl", lambda change: None)
    assert fix(tmp_path / "a*.jsonl", tmp_path / "new.jsonl", lambda change: None).rows == 1


def test_no_file_is_mended_in_place(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(CHAT + "\n")
    with pytest.raises(OutputError, match="exists already"):
        fix(file, file, print)
    with pytest.raises(OutputError, match=r"name the file \.jsonl"):
        fix(file, tmp_path / "new.csv", print)
    with pytest.raises(DataError, match="does not exist"):
        fix(tmp_path / "none.jsonl", tmp_path / "new.jsonl", print)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


MARK = "\ufeff".encode()


def test_a_mark_in_front_of_a_later_line_is_removed_and_told(tmp_path: Path) -> None:
    joined = (MARK, CHAT.encode(), b"\n", MARK, b'{"text":  "kept"}\r\n', MARK, MARK, b'{"text": "twice"}\n')
    done, changes, written = mended(tmp_path, *joined, MARK, b'{"text": \n')
    assert written == f'{CHAT}\n{{"text":  "kept"}}\n{{"text": "twice"}}\n{{"text": \n'.encode()
    told = "the byte-order mark before the row is removed"
    assert changes == [f"{line}: {told}" for line in (2, 3, 4)]
    assert done.rows == 4


def test_a_line_of_a_mark_alone_is_left_out(tmp_path: Path) -> None:
    done, changes, written = mended(tmp_path, MARK, b"\n", CHAT, MARK, b"\n", b'{"text": "last"}\n')
    assert written == f'{CHAT}\n{{"text": "last"}}\n'.encode()
    assert changes == ["3: left out, since it cannot be read: a byte-order mark, and nothing else"]
    assert (done.rows, done.left_out, done.unreadable) == (2, 1, 0)


def test_a_row_that_only_its_mark_told_from_another_is_left_out(tmp_path: Path) -> None:
    _, changes, written = mended(tmp_path, CHAT, MARK, CHAT)
    assert written == f"{CHAT}\n".encode()
    assert [change.partition(" ")[2][:9] for change in changes] == ["the byte-", "left out,"]


def parquet(path: Path, columns: dict[str, Any]) -> Path:
    arrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    writer.write_table(arrow.table(columns), path)
    return path


def test_values_that_json_has_not_become_text(tmp_path: Path) -> None:
    noon = datetime(2024, 2, 29, 12, 30, tzinfo=UTC)
    columns = {
        "prompt": ["a", "b", "b"],
        "completion": [b"caf\xc3\xa9", b"x", b"x"],
        "when": [noon] * 3,
        "day": [noon.date()] * 3,
        "price": [Decimal("1.50")] * 3,
        "turns": [[{"day": noon.date()}]] * 3,
        "count": [1, 2, 2],
    }
    changes: list[Change] = []
    done = fix(parquet(tmp_path / "rows.parquet", columns), tmp_path / "new.jsonl", changes.append)
    first, _ = map(json.loads, (tmp_path / "new.jsonl").read_text().splitlines())
    assert first == {
        "prompt": "a", "completion": "café", "when": "2024-02-29 12:30:00+00:00", "day": "2024-02-29",
        "price": "1.50", "turns": [{"day": "2024-02-29"}], "count": 1,
    }  # fmt: skip
    assert (done.rows, done.left_out, done.changes) == (2, 1, len(changes))
    texts = [change.text for change in changes if change.where.endswith(":1")]
    assert texts == [
        "completion: a value of type bytes is now the text 'café'",
        "when: a value of type datetime is now the text '2024-02-29 12:30:00+00:00'",
        "day: a value of type date is now the text '2024-02-29'",
        "price: a value of type Decimal is now the text '1.50'",
        "turns[0].day: a value of type date is now the text '2024-02-29'",
    ]


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (
            b"\xff\xd8\xff",
            DataError,
            r"rows\.parquet:2: image contains 3 bytes that cannot be decoded as text.*without this column",
        ),
        (b"a\x00", DataError, r"rows\.parquet:2: image contains 2 bytes that cannot be decoded as text"),
        (float("nan"), OutputError, r"rows\.parquet:2: JSON cannot represent NaN.*\n  - image: nan"),
    ],
    ids=["bytes", "nul", "nan"],
)
def test_what_no_line_can_hold_is_refused_with_its_row(
    value: object, error: type[Exception], said: str, tmp_path: Path
) -> None:
    file = parquet(tmp_path / "rows.parquet", {"text": ["a", "b"], "image": [None, value]})
    with pytest.raises(error, match=said):
        fix(file, tmp_path / "new.jsonl", lambda change: None)
    assert list(tmp_path.iterdir()) == [file]


def test_a_row_with_a_number_that_cannot_be_written_keeps_its_line_and_the_others_are_mended(tmp_path: Path) -> None:
    damaged = '{"text": "caf\\u00c3\\u00a9", "n": 1e400}'
    (tmp_path / "rows.jsonl").write_text(f'{damaged}\n{{"text": "b\\r"}}\n{{"text": "c", "n": 1e400}}\n')
    changes: list[Change] = []
    result = fix(tmp_path / "rows.jsonl", tmp_path / "new.jsonl", changes.append)
    lines = (tmp_path / "new.jsonl").read_text().splitlines()
    assert lines == [damaged, '{"text": "b\\n"}', '{"text": "c", "n": 1e400}']
    assert (result.rows, result.unreadable) == (3, 1)
    assert "left unchanged: " in changes[0].text
    assert "n: inf" in changes[0].text


TEXTS = st.text(alphabet=st.sampled_from("ab \t\n\rÃ©â€™\ufeffé"), max_size=12)
VALUES = st.recursive(
    TEXTS | st.integers() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "from", "content", "value", "messages", "text"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(VALUES)
@example("Ã\ufeff©")
def test_what_is_mended_needs_no_more(row: Any) -> None:
    once, texts = mend(row)
    assert (once == row) is (not texts)
    again, more = mend(once)
    assert (again, more) == (once, [])


def test_the_lint_finds_nothing_left_to_mend(tmp_path: Path) -> None:
    rows = [
        {"conversations": [{"from": "Human", "value": f"Donâ€™t {i}"}, {"from": "bot", "value": f"ok {i} "}]}
        for i in range(5)
    ]
    mended(tmp_path, *(json.dumps(row) for row in [*rows, rows[0]]))
    report = lint(tmp_path / "new.jsonl")
    assert [found.rule.name for found in report.found] == []
    assert [record.messages[1]["content"] for record in read_records(tmp_path / "new.jsonl")] == [
        f"ok {i}" for i in range(5)
    ]
