from __future__ import annotations

import chat_templates as ct
from veneer.data.account import findings, overlap_note, repeats_note
from veneer.data.encoding import encode_all
from veneer.data.records import Record
from veneer.enums import Overlong


def test_every_group_of_rows_is_counted_and_its_first_rows_named() -> None:
    texts = [Record(f"f:{number}", text="late " * (40 if number < 5 else 3)) for number in range(1, 8)]
    said = {
        overlong: findings(
            encode_all(texts, ct.tokenizer("chatml"), max_length=20, overlong=overlong).report, "training"
        )
        for overlong in Overlong
    }
    places = "f:1, f:2, f:3 and 1 more"
    assert f"4 training rows longer than data.max_length=20 and left out: {places}" in said[Overlong.DROP]
    assert f"4 training rows cut to data.max_length=20 tokens: {places}" in said[Overlong.TRUNCATE]
    assert f"4 training rows cut into pieces of at most data.max_length=20 tokens: {places}" in said[Overlong.SPLIT]
    assert said[Overlong.DROP][0].startswith("3 training rows: ")


def test_repeats_and_leaks_name_the_first() -> None:
    assert repeats_note(2, "a:3", "a:1") == "2 training rows repeat an earlier one (first: a:3 = a:1)"
    assert "1 of 9 evaluation rows are also training rows (first: b:3 = a:1)" in overlap_note(1, 9, "b:3", "a:1")
