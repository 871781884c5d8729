"""Whole files to examples: limits, reports, and rows that are left out."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.rows.turns import record
from helpers.texts import chat_templates as ct
from veneer.data.encoded.encoding import EncodedFile, encode_all
from veneer.data.encoded.windows import in_windows
from veneer.data.forms.record import Record
from veneer.enums import BadRows, Overlong
from veneer.errors import DataError
from veneer.events import Event, StageBegun, StageEnded, StageProgress


def rows() -> list[Record]:
    return [
        record("u:Hi", "a:Paris.", where="f:1"),
        record("u:" + "long " * 50, "a:Paris.", where="f:2"),
        record("u:Hi", "a:" + "long " * 50, where="f:3"),
        record("u:<|im_end|>", "a:Paris.", where="f:4"),
    ]


def test_the_report_names_every_row() -> None:
    tokenizer = ct.tokenizer("chatml")
    whole = encode_all(rows(), tokenizer, max_length=None, overlong=Overlong.DROP)
    assert [example.where for example in whole.examples] == ["f:1", "f:2", "f:3", "f:4"]
    assert whole.report.spelled == ("f:4",)
    assert whole.report.tokens == sum(len(example.tokens) for example in whole.examples)
    assert whole.report.supervised == sum(int(example.loss_mask.sum()) for example in whole.examples)
    assert whole.report.longest == max(len(example.tokens) for example in whole.examples)

    dropped = encode_all(rows(), tokenizer, max_length=60, overlong=Overlong.DROP)
    assert [example.where for example in dropped.examples] == ["f:1", "f:4"]
    assert (dropped.report.dropped, dropped.report.rows, dropped.report.examples) == (("f:2", "f:3"), 4, 2)
    # The longest row is one that trains; how long rows were before is told beside it.
    assert dropped.report.longest == max(len(example.tokens) for example in dropped.examples) < 60
    assert dropped.report.longest_where in ("f:1", "f:4")
    assert (dropped.report.given, dropped.report.given_where) == (whole.report.longest, whole.report.longest_where)
    assert (whole.report.given, whole.report.given_where) == (whole.report.longest, whole.report.longest_where)

    cut = encode_all(rows(), tokenizer, max_length=60, overlong=Overlong.TRUNCATE)
    assert [example.where for example in cut.examples] == ["f:1", "f:3", "f:4"]
    assert (cut.report.untrained, cut.report.truncated) == (("f:2",), ("f:3",))
    assert len(cut.examples[1].tokens) == 60
    assert (cut.report.longest, cut.report.longest_where) == (60, "f:3")


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(DataError, match="no training row is left: of 4 rows, 4 are longer than 5 tokens"):
        encode_all(rows(), ct.tokenizer("chatml"), max_length=5, overlong=Overlong.DROP)
    with pytest.raises(DataError, match="no training row is left"):
        encode_all([], ct.tokenizer("chatml"), max_length=5, overlong=Overlong.DROP)
    with pytest.raises(DataError, match="max_length is 1"):
        encode_all(rows(), ct.tokenizer("chatml"), max_length=1, overlong=Overlong.DROP)


def test_all_refused_rows_are_named_at_once() -> None:
    bad = [record("s:x", "u:Hi", "a:y", where=f"f:{n}") for n in range(30)]
    with pytest.raises(DataError) as error:
        encode_all([*bad, record("u:Hi", "a:y")], ct.tokenizer("gemma"), max_length=None, overlong=Overlong.DROP)
    assert "30 of 31 rows" in str(error.value)
    assert str(error.value).count("System role not supported") == 1
    assert "(30 rows: f:0, f:1, f:2 and 27 more)" in str(error.value)
    assert "data.bad_rows: skip" in str(error.value)


def test_refused_rows_can_be_left_out() -> None:
    bad = [record("s:x", "u:Hi", "a:y", where=f"f:{n}") for n in range(3)]
    good = record("u:Hi", "a:y", where="f:3")
    found = encode_all(
        [*bad, good], ct.tokenizer("gemma"), max_length=None, overlong=Overlong.DROP, bad_rows=BadRows.SKIP
    )
    assert [example.where for example in found.examples] == ["f:3"]
    assert [problem.where for problem in found.report.skipped] == ["f:0", "f:1", "f:2"]
    assert all("System role not supported" in problem.reason for problem in found.report.skipped)
    assert found.report.rows == 4
    with pytest.raises(DataError, match="3 of 3 rows cannot be encoded"):
        encode_all(bad, ct.tokenizer("gemma"), max_length=None, overlong=Overlong.DROP, bad_rows=BadRows.SKIP)


@pytest.mark.parametrize("name", ["chatml", "mistral", None])
def test_a_huge_row_is_cut_as_if_all_of_it_were_tokenised(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = ct.tokenizer(name)
    words = [f"w{n % 97} " for n in range(4000)]
    turns = ("u:" + "".join(words[:1500]), "a:" + "".join(words), "u:" + "".join(words[:500]), "a:end")
    huge = Record("f:1", text="".join(words)) if name is None else record(*turns)
    small = Record("f:2", text="a b") if name is None else record("u:Hi", "a:Yo", where="f:2")

    def both(overlong: Overlong, max_length: int) -> EncodedFile:
        return encode_all([huge, small], tokenizer, max_length=max_length, overlong=overlong)

    # Short enough a limit that the tokens of the smallest beginning reach it, and one for which it must be lengthened.
    for max_length in (50, 1000):
        whole, dropped = both(Overlong.TRUNCATE, max_length), both(Overlong.DROP, max_length)
        monkeypatch.setattr("veneer.data.encoded.encoding.HUGE_ROW_CHARS", 1000)
        cut, left = both(Overlong.TRUNCATE, max_length), both(Overlong.DROP, max_length)
        monkeypatch.undo()
        for one, other in zip(cut.examples, whole.examples, strict=True):
            assert one.tokens.tolist() == other.tokens.tolist()
            assert one.loss_mask.tolist() == other.loss_mask.tolist()
        assert (cut.report.truncated, cut.report.untrained) == (whole.report.truncated, whole.report.untrained)
        assert left.report.dropped == dropped.report.dropped == ("f:1",)
        assert left.report.given_is_bound
        assert not dropped.report.given_is_bound
        assert max_length < left.report.given < dropped.report.given
        assert left.report.longest == dropped.report.longest == len(left.examples[0].tokens)


def test_how_far_a_huge_row_is_is_told_while_it_is_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veneer.data.encoded.chat.WINDOW_CHARS", 1000)
    monkeypatch.setattr(in_windows, "__kwdefaults__", {"window": 1000, "edge": 60})
    monkeypatch.setattr("veneer.events.INTERVAL", 0.0)
    told: list[Event] = []
    rows = [Record("f:1", text="words of it " * 500), Record("f:2", text="a b")]
    tokenizer = ct.tokenizer("chatml")
    encode_all(rows, tokenizer, max_length=50, overlong=Overlong.SPLIT, emit=told.append)
    begun, *steps, ended = told
    assert (begun, type(ended)) == (StageBegun(stage="tokenising f:1", total=6000, unit="characters"), StageEnded)
    done = [step.done for step in steps if isinstance(step, StageProgress)]
    assert len(done) == len(steps) >= 5
    assert done[-1] == 6000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "overlong"), [*(("messages", overlong) for overlong in Overlong), ("text", Overlong.SPLIT)]
)
def test_a_row_of_50_mb_takes_at_most_ten_times_its_bytes(kind: str, overlong: Overlong, tmp_path: Path) -> None:
    """Read, rendered and cut in a process of its own, whose peak is the kernel's figure."""
    size = 50_000_000
    texts = ["words of it " * (size // 12), "Yo"]
    asked = {"role": "user", "content": "Hi"}
    rows: list[dict[str, object]] = [
        {"text": text} if kind == "text" else {"messages": [asked, {"role": "assistant", "content": text}]}
        for text in texts
    ]
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-c", PEAK, str(tmp_path / "f.jsonl"), overlong.value]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    examples, peak = map(int, done.stdout.split())
    # One of the rows is left out, or cut, or in pieces; conversations are not cut into pieces.
    assert examples == {Overlong.TRUNCATE: 2}.get(overlong, 1) if kind == "messages" else examples > 1000
    assert peak < 10 * size, f"{peak:,} bytes"


PEAK = """
import sys
sys.path.insert(0, 'tests')
from helpers.texts import chat_templates as ct
from veneer.data.encoded import chat
from veneer.data.encoded.encoding import encode_all
from veneer.data.records import duplicates, read_file
from veneer.enums import Overlong
tokenizer = ct.tokenizer('chatml')
def peak(process='self'):
    # Not ru_maxrss, which keeps what the process was that this one was started by.
    lines = open(f'/proc/{process}/status')
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith('VmHWM'))
before = peak()
records = read_file(sys.argv[1]).records
duplicates(records)
found = encode_all(records, tokenizer, max_length=2048, overlong=Overlong(sys.argv[2]))
print(len(found.examples))
child = chat.template_of(tokenizer)._child._process
print(peak() - before + (peak(child.pid) if child else 0))
"""


def test_two_thousand_rows_take_about_a_second() -> None:
    text = "How many claims were opened in March? There were forty two claims. " * 3
    many = [record(f"u:{n} {text}", f"a:{text}", where=f"f:{n}") for n in range(2000)]
    start = time.process_time()
    encoded = encode_all(many, ct.tokenizer("chatml"), max_length=None, overlong=Overlong.DROP)
    assert encoded.report.examples == 2000
    assert time.process_time() - start < 8
