from __future__ import annotations

from helpers.texts import chat_templates as ct
from veneer.data.encoded.encoding import encode_all
from veneer.data.forms.record import Record
from veneer.data.notes import findings, overlap_note, repeats_note
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
    assert f"4 training rows cut into 28 pieces of at most data.max_length=20 tokens: {places}" in said[Overlong.SPLIT]
    assert said[Overlong.SPLIT][0].startswith("7 training rows in 31 examples: ")
    assert said[Overlong.DROP][0].startswith("3 training rows: ")


def test_the_longest_row_is_one_that_trains_and_longer_ones_are_said_beside_it() -> None:
    tokenizer = ct.tokenizer("chatml")
    texts = [Record("f:1", text="late " * 40), Record("f:2", text="late " * 3), Record("f:3", text="late " * 5)]
    lengths = [len(encode_all([one], tokenizer, max_length=None, overlong=Overlong.DROP).examples[0].tokens)
               for one in texts]  # fmt: skip
    most = lengths[2] + 1
    assert most < lengths[0]
    said = {
        overlong: findings(encode_all(texts, tokenizer, max_length=most, overlong=overlong).report, "training")[0]
        for overlong in Overlong
    }
    before = f", and {lengths[0]} before rows were left out or cut (f:1)"
    assert said[Overlong.DROP].endswith(f"longest row {lengths[2]} tokens (f:3){before}")
    assert said[Overlong.TRUNCATE].endswith(f"longest row {most} tokens (f:1){before}")
    assert said[Overlong.SPLIT].endswith(f"longest example {most} tokens (f:1){before}")
    whole = findings(encode_all(texts, tokenizer, max_length=None, overlong=Overlong.DROP).report, "training")[0]
    assert whole.endswith(f"longest row {lengths[0]} tokens (f:1)")


def test_repeats_and_leaks_name_the_first() -> None:
    assert repeats_note(2, "a:3", "a:1") == "2 training rows repeat an earlier one (first: a:3 = a:1)"
    assert "1 of 9 evaluation rows are also training rows (first: b:3 = a:1)" in overlap_note(1, 9, "b:3", "a:1")
