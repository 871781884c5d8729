from __future__ import annotations

import random
import tracemalloc
from typing import Any

import numpy as np
import pytest

from helpers.rows.lint_rows import chat, read_row, sentence
from helpers.texts import chat_templates as ct
from veneer.data.lint.facts import (
    EVALUATION,
    GROUP_COLUMNS,
    TABLE_DTYPE,
    TRAINING,
    Gathered,
    Noted,
    RowFacts,
    digest,
    facts_of,
    normal,
    note,
    shape_of,
)
from veneer.data.lint.labels import LONGEST_LABEL_CHARS, Labels
from veneer.data.lint.row import LintSetting, read_rows
from veneer.data.lint.shingles import BANDS, shingles_of
from veneer.data.lint.spill import Spill
from veneer.enums import ObjectiveName, RowKind

NONE = np.zeros(0, dtype=np.uint32)


def facts(raw: Any, *, side: int = TRAINING, group: str | None = None, template: str | None = None) -> RowFacts:
    setting = LintSetting(None if template is None else ct.tokenizer(template))
    return facts_of(read_row("rows.jsonl:7", raw, setting), side, group)


def test_case_and_white_space_do_not_make_another_row() -> None:
    one = facts({"prompt": "What is it?", "completion": "Yes,  it IS"})
    other = facts({"prompt": " what\tis IT?\n", "completion": "yes, it is "})
    assert (one.content, one.prompt, one.answer) == (other.content, other.prompt, other.answer)
    third = facts({"prompt": "What is it?", "completion": "Yes, it is not"})
    assert third.prompt == one.prompt
    assert len({one.content, third.content}) == len({one.answer, third.answer}) == 2


def test_question_and_answer_are_kept_apart() -> None:
    """The border between the two counts: "a" + "bc" is another row than "ab" + "c"."""
    one, other = facts({"prompt": "a", "completion": "bc"}), facts({"prompt": "ab", "completion": "c"})
    assert one.content != other.content


def test_lengths_are_tokens_with_a_model_and_characters_without() -> None:
    raw = {"prompt": sentence(1), "completion": sentence(2)}
    plain = facts(raw)
    # A prompt is kept with its role before it.
    assert (plain.length, plain.targets) == (len(f"user: {raw['prompt']}{raw['completion']}"), 0)
    row = read_row("rows.jsonl:7", raw, LintSetting(ct.tokenizer("chatml")))
    assert row.trace is not None
    encoded = facts(raw, template="chatml")
    assert (encoded.length, encoded.targets) == (
        len(row.trace.example.tokens),
        int(row.trace.example.loss_mask.sum()),
    )


def test_both_answers_of_a_pair_count_where_a_run_trains_both() -> None:
    setting = LintSetting(ct.tokenizer("chatml"), objective=ObjectiveName.DPO)
    row = read_row("rows.jsonl:7", {"prompt": "Which?", "chosen": "A fine answer", "rejected": "No"}, setting)
    assert row.trace is not None
    assert row.rejected_trace is not None
    both = [trace.example for trace in (row.trace, row.rejected_trace)]
    for kind, counted in ((None, both[:1]), (RowKind.PAIRS, both)):
        found = facts_of(row, TRAINING, None, kind)
        assert found.length == sum(len(one.tokens) for one in counted)
        assert found.targets == sum(one.supervised for one in counted)


def test_nothing_is_kept_of_a_row_that_is_no_record() -> None:
    assert facts({"nothing": 1}, side=EVALUATION) == RowFacts(7, EVALUATION, usable=False)


def test_a_plain_text_has_no_question() -> None:
    found = facts({"text": sentence(3)})
    assert found.prompt == 0
    assert found.answer == digest(normal(sentence(3)))


@pytest.mark.parametrize("column", GROUP_COLUMNS)
def test_the_first_known_column_names_the_group(column: str) -> None:
    others = dict.fromkeys(GROUP_COLUMNS[GROUP_COLUMNS.index(column) + 1 :], "other")
    assert facts({"text": "a", **others, column: 12}).group == digest("12")


def test_a_named_column_is_the_group_and_no_other() -> None:
    raw = {"text": "a", "user_id": 3, "source": "book"}
    assert facts(raw, group="source").group == digest("book")
    assert facts(raw, group="page").group == 0
    assert facts({"text": "a", "user_id": None}).group == 0


def test_a_digest_is_never_what_stands_for_none() -> None:
    rng = random.Random(5)
    texts = {"".join(rng.choices("ab \0é", k=6)) for _ in range(2000)} | {"", "\ud800"}
    found = {digest(text) for text in texts}
    assert len(found) == len(texts)
    assert 0 not in found
    assert max(found) < 2**64


def test_the_shape_of_a_row_is_its_keys_and_those_of_its_turns() -> None:
    one = chat("u:x", {"role": "assistant", "content": "y", "name": "z"}, id=3)
    assert shape_of(one) == "id, messages; messages[].content, messages[].name, messages[].role"
    assert shape_of({"text": "x"}) == shape_of({"text": "y"}) == "text"
    assert shape_of("no row") == ""
    # Libraries write null for the keys that only other rows and turns have.
    padded = {**one, "text": None, "messages": [{**turn, "audio": None} for turn in one["messages"]]}
    assert shape_of(padded) == shape_of(one)


def test_chunks_are_gathered_to_what_each_row_alone_would_give() -> None:
    raws = [{"prompt": sentence(i), "completion": sentence(i + 100, 2 + i)} for i in range(9)]
    raws[4] = {"completion": "nothing"}
    rows = read_rows([(f"a.jsonl:{i + 1}", raw) for i, raw in enumerate(raws)], LintSetting())
    with Spill() as spill:
        labels, gathered = Labels(), Gathered()
        for side, part in ((TRAINING, rows[:5]), (EVALUATION, rows[5:])):
            noted = note(part, side, None, NONE)
            gathered.add(noted)
            spill.append(noted.shingles, noted.counts)
            labels.add(0, noted.answers)
        found = gathered.facts(("a.jsonl", "b.jsonl"), (0, 5), spill, labels)
        assert len(found) == len(rows)
        assert found.bands.shape == (9, BANDS)
        for index, row in enumerate(rows):
            alone = facts_of(row, int(index > 4), None)
            kept = {name: getattr(found, name)[index] for name in alone._fields if name != "line"}
            assert {"line": found.lines[index], **kept} == alone._asdict()
            assert found.shingles.read(index).tolist() == shingles_of(row.record).tolist()
        assert found.where(8) == "b.jsonl:9"
    short = [row.answer for row in rows if 0 < len(row.answer) <= LONGEST_LABEL_CHARS]
    assert list(labels.spellings) == short


def test_rows_take_150_bytes_each_and_are_never_held_twice() -> None:
    rows = 256
    rng = np.random.default_rng(11)
    noted = Noted(
        table=np.zeros(rows, dtype=TABLE_DTYPE),
        bands=rng.integers(0, 2**32, (rows, BANDS), dtype=np.uint32),
        shingles=NONE,
        counts=np.ones(rows, dtype=np.int64),
        answers=(None,) * rows,
    )
    tracemalloc.start()
    try:
        with Spill() as spill:
            gathered = Gathered()
            for _ in range(400):
                gathered.add(noted)
                spill.append(noted.shingles, noted.counts)
            found = gathered.facts(("a.jsonl",), (0,), spill, Labels())
            _, peak = tracemalloc.get_traced_memory()
        assert len(found) == 400 * rows
    finally:
        tracemalloc.stop()
    # A block that grows has an eighth more than it needs, which is no memory before it is written.
    assert peak < 1.125 * 152 * 400 * rows + 200_000
