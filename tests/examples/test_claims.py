"""The bundled example data: reproducible, answerable from the message alone, and held out where it says so."""

import collections
import datetime
import json
import re
import sys
from pathlib import Path

import pytest

CLAIMS = Path(__file__).parents[2] / "examples" / "claims"
# The generator is a script next to its pools, not a package.
sys.path.insert(0, str(CLAIMS))
try:
    import generate
    import phrases
    import values
finally:
    sys.path.remove(str(CLAIMS))

FILES = {"train.jsonl": 1600, "new_records.jsonl": 300, "new_phrasings.jsonl": 300}


def load(name):
    """Return (message, answer) of each row."""
    rows = [json.loads(line)["messages"] for line in (CLAIMS / name).read_text(encoding="utf-8").splitlines()]
    return [(row[1]["content"], json.loads(row[2]["content"])) for row in rows]


DATA = {name: load(name) for name in FILES}
TRAIN = DATA["train.jsonl"]


def lines(pool):
    """Return every line of a pool of sentences."""
    for value in vars(pool).values():
        for block in value.values() if isinstance(value, dict) else [value]:
            yield from block


def sentences(pool):
    return {sentence.lower() for line in lines(pool) for sentence in generate.expand(line)}


def test_committed_files_are_what_the_generator_writes(tmp_path):
    generate.generate(tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (CLAIMS / name).read_bytes(), name


def test_another_seed_gives_other_rows(tmp_path):
    generate.generate(tmp_path, seed=1, train=20, held_out=5)
    lines = (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 20
    assert lines != (CLAIMS / "train.jsonl").read_text(encoding="utf-8").splitlines()[:20]


@pytest.mark.parametrize("name", FILES)
def test_rows_have_the_documented_shape(name):
    raw = (CLAIMS / name).read_bytes()
    assert raw.endswith(b"\n")
    assert b"\r" not in raw
    rows = [json.loads(line) for line in raw.decode().splitlines()]
    assert len(rows) == FILES[name]
    for row in rows:
        assert list(row) == ["messages"]
        assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]
        assert row["messages"][0]["content"] == generate.SYSTEM
        answer = row["messages"][2]["content"]
        record = json.loads(answer)
        assert tuple(record) == generate.FIELDS
        assert json.dumps(record, ensure_ascii=False, separators=(",", ":")) == answer
        assert record["kind"] in generate.KINDS
        assert all(isinstance(record[field], str) for field in generate.FIELDS if field != "amount")
        assert record["amount"] is None or type(record["amount"]) is int


@pytest.mark.parametrize("name", FILES)
def test_copied_values_stand_in_the_message(name):
    for message, record in DATA[name]:
        for field in ("ref", "place", "item", "name"):
            assert len(re.findall(rf"(?<!\w){re.escape(record[field])}(?!\w)", message)) == 1, (field, message)


@pytest.mark.parametrize("name", FILES)
def test_date_stands_in_the_message(name):
    styles = (generate.HELD_OUT_FORMATS if name == "new_phrasings.jsonl" else generate.TRAIN_FORMATS).dates
    for message, record in DATA[name]:
        date = datetime.date.fromisoformat(record["date"])
        assert any(generate.write_date(date, style).lower() in message.lower() for style in styles), message
        if re.search(r"\d/\d\d/\d{4}|\b\d\d-\d\d-\d{4}", message):
            assert date.day > 12, message


@pytest.mark.parametrize("name", FILES)
def test_amount_stands_in_the_message(name):
    formats = (generate.HELD_OUT_FORMATS if name == "new_phrasings.jsonl" else generate.TRAIN_FORMATS).amounts
    for message, record in DATA[name]:
        if record["amount"] is None:
            assert not re.search(r"€|\beur", message.lower()), message
        else:
            assert any(style.format(n=record["amount"]) in message for style in formats), message


@pytest.mark.parametrize("name", FILES)
def test_no_placeholder_is_left(name):
    for message, _ in DATA[name]:
        assert not re.search(r"[\[\]{}|]", message)
        assert "  " not in message


def test_no_message_comes_twice():
    messages = [message for rows in DATA.values() for message, _ in rows]
    assert len(set(messages)) == len(messages)


@pytest.mark.parametrize("name", ["new_records.jsonl", "new_phrasings.jsonl"])
@pytest.mark.parametrize("field", ["ref", "place", "item", "name"])
def test_held_out_values_are_never_trained(name, field):
    trained = {record[field] for _, record in TRAIN}
    assert not trained & {record[field] for _, record in DATA[name]}


def items(pool):
    """Return every item of a pool of values; the lists that several kinds share count once."""
    return [item for block in dict.fromkeys(pool.items.values()) for item in block]


@pytest.mark.parametrize(
    ("field", "in_train", "in_held_out"),
    [("first_names", 115, 40), ("last_names", 350, 60), ("cities", 300, 30), ("items", 400, 70)],
)
def test_value_pools_are_disjoint_and_large(field, in_train, in_held_out):
    train, held_out = (
        items(pool) if field == "items" else getattr(pool, field) for pool in (values.TRAIN, values.HELD_OUT)
    )
    assert len(set(train)) == len(train) >= in_train
    assert len(set(held_out)) == len(held_out) >= in_held_out
    assert not set(train) & set(held_out)


@pytest.mark.parametrize("kind", generate.KINDS)
def test_no_item_begins_with_another(kind):
    block = values.TRAIN.items[kind] + values.HELD_OUT.items[kind]
    assert not [(short, long) for short in block for long in block if long.startswith(short + " ")]


def test_no_city_is_a_name_or_part_of_another_value():
    pools = (values.TRAIN, values.HELD_OUT)
    cities = {city for pool in pools for city in pool.cities}
    others = [value for pool in pools for value in (*pool.first_names, *pool.last_names, *items(pool))]
    assert not [value for value in others if cities & {value, *value.split()}]
    assert not [city for city in cities if " " in city and cities & set(city.split())]


@pytest.mark.parametrize("name", FILES)
def test_every_value_occurs_about_equally_often(name):
    pool = values.TRAIN if name == "train.jsonl" else values.HELD_OUT
    records = [record for _, record in DATA[name]]
    drawn = {
        pool.cities: [record["place"] for record in records],
        pool.first_names: [record["name"].split()[0] for record in records],
        pool.last_names: [record["name"].split()[1] for record in records],
        tuple(generate.KINDS): [record["kind"] for record in records],
    }
    for block in dict.fromkeys(pool.items.values()):
        drawn[block] = [record["item"] for record in records if pool.items[record["kind"]] == block]
    for block, found in drawn.items():
        counts = collections.Counter(found)
        assert set(counts) == set(block)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_format_pools_are_disjoint():
    for field in ("dates", "short_dates", "amounts", "refs"):
        assert not set(getattr(generate.TRAIN_FORMATS, field)) & set(getattr(generate.HELD_OUT_FORMATS, field))


def test_phrase_pools_are_disjoint_and_large():
    train, held_out = sentences(phrases.TRAIN), sentences(phrases.HELD_OUT)
    assert not train & held_out
    for slot in ("ref", "date", "place", "item", "amount", "name"):
        assert sum(slot in generate.slots(sentence) for sentence in train) >= 200, slot
        assert sum(slot in generate.slots(sentence) for sentence in held_out) >= 59, slot
    for kind in generate.KINDS:
        assert len(phrases.TRAIN.incidents[kind]) >= 30
        assert len(phrases.HELD_OUT.incidents[kind]) >= 10


def test_no_sentence_begins_with_the_item():
    for pool in (phrases.TRAIN, phrases.HELD_OUT):
        assert not [line for line in lines(pool) if line.startswith(("{item}", "{a_item}"))]


def masked(message, record, formats):
    """Return a message, in lower case, with its values replaced by the names of their slots."""
    date = datetime.date.fromisoformat(record["date"])
    found = [(generate.write_date(date, style), "{date}") for style in formats.dates]
    if record["amount"] is not None:
        found += [(style.format(n=record["amount"]), "{amount}") for style in formats.amounts]
    found += [(record[field], "{" + field + "}") for field in ("ref", "place", "item", "name")]
    message = message.lower()
    for text, slot in sorted(found, key=lambda pair: -len(pair[0])):
        message = re.sub(rf"(?<!\w){re.escape(text.lower())}(?!\w)", slot, message)
    return without_article(message)


def without_article(text):
    return re.sub(r"\ban? \{item\}", "{a_item}", text)


def test_new_phrasings_hold_no_trained_sentence():
    # A sentence without a final stop (a signature) ends with its line; values alone, without a word, are no phrasing.
    trained = [
        re.escape(without_article(sentence)) + (r"(?=\s|$)" if sentence[-1] in ".,!?)" else r"(?=\n|$)")
        for sentence in sorted(sentences(phrases.TRAIN))
        if re.search("[a-z]", re.sub(r"{\w+}", "", sentence))
    ]
    trained_sentence = re.compile(r"(?:^|(?<=[.,!?)] )|(?<=\n))(?:" + "|".join(trained) + ")")
    for row in DATA["new_phrasings.jsonl"]:
        text = masked(*row, generate.HELD_OUT_FORMATS)
        assert not trained_sentence.search(text), (text, trained_sentence.search(text))
    # The same search does find them where they are.
    assert all(trained_sentence.search(masked(*row, generate.TRAIN_FORMATS)) for row in DATA["new_records.jsonl"])
