"""Write the claims data: short messages to an insurer or a carrier, each with the one record it holds.

    python examples/claims/generate.py [--seed 0] [--output DIR] [--train 1600] [--held-out 300]

A message is put together from whole sentences: one tells what happened, and further ones are drawn until every field of
the answer has been said exactly once. The same seed gives the same bytes on every supported Python.
"""

import argparse
import datetime
import functools
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

from phrases import HELD_OUT as HELD_OUT_PHRASES
from phrases import TRAIN as TRAIN_PHRASES
from phrases import Phrases
from values import HELD_OUT as HELD_OUT_VALUES
from values import TRAIN as TRAIN_VALUES
from values import Values

SYSTEM = "Reply in JSON: kind, ref, date, place, item, amount, name."
FIELDS = ("kind", "ref", "date", "place", "item", "amount", "name")

Record = dict[str, str | int | None]

# For each kind: what the reference belongs to, what the date means, and the range of the amounts.
KINDS: dict[str, tuple[str, str, tuple[int, int]]] = {
    "delayed parcel": ("shipment", "due", (15, 600)),
    "lost parcel": ("shipment", "due", (20, 900)),
    "damaged goods": ("shipment", "delivered", (40, 2500)),
    "missing pallet": ("shipment", "delivered", (200, 6000)),
    "wrong delivery": ("shipment", "delivered", (15, 700)),
    "car damage": ("policy", "event", (150, 7000)),
    "water damage": ("policy", "event", (150, 8000)),
    "theft": ("policy", "event", (80, 5000)),
}

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
FIRST_DAY = datetime.date(2024, 1, 1)
DAYS = 900


def _ordinal(day: int) -> str:
    suffix = "th" if 10 < day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{suffix}"


def write_date(date: datetime.date, style: str) -> str:
    """Write a date in a style such as "{d} {month} {y}"."""
    return style.format(
        d=date.day,
        dd=f"{date.day:02}",
        mm=f"{date.month:02}",
        y=date.year,
        th=_ordinal(date.day),
        month=MONTHS[date.month - 1],
        mon=MONTHS[date.month - 1][:3],
        weekday=WEEKDAYS[date.weekday()],
    )


@dataclass(frozen=True)
class Formats:
    """One pool of notations. In `refs`, A stands for any letter and 0 for any digit; `short_dates` lack the year."""

    dates: tuple[str, ...]
    short_dates: tuple[str, ...]
    amounts: tuple[str, ...]
    refs: tuple[str, ...]


TRAIN_FORMATS = Formats(
    dates=(
        "{d} {month} {y}",
        "{month} {d}, {y}",
        "{month} {th}, {y}",
        "{mon} {d}, {y}",
        "{weekday}, {month} {d}, {y}",
        "the {th} of {month} {y}",
        "{y}-{mm}-{dd}",
        "{dd}/{mm}/{y}",
        "{dd}.{mm}.{y}",
        "{d}.{mm}.{y}",
        "{d}-{mon}-{y}",
    ),
    short_dates=("{d} {month}", "{month} {d}", "the {th} of {month}", "{mon} {d}"),
    amounts=("EUR {n}", "{n} euros", "{n} euro", "€{n}", "{n} EUR", "EUR {n:,}", "{n:,} euros", "€{n:,}", "{n:,} EUR"),
    refs=(
        "AA-0000",
        "AA-00000",
        "0000/000",
        "AA 0000",
        "A00-000",
        "AA/0000",
        "A00000",
        "00000-A",
        "000.000",
        "AAA-000",
    ),
)
HELD_OUT_FORMATS = Formats(
    dates=(
        "{th} {month} {y}",
        "{d} {mon} {y}",
        "{weekday} {d} {month} {y}",
        "{th} of {month}, {y}",
        "{mon} {th}, {y}",
        "{dd}-{mm}-{y}",
        "{y}/{mm}/{dd}",
    ),
    short_dates=("{th} {month}", "{d} {mon}", "{month} {th}"),
    amounts=("€ {n}", "{n} €", "{n:,} €", "Euro {n}", "Eur {n:,}"),
    refs=("AA0000", "A-0000", "000-AA", "00/0000", "AA.000", "A 00000"),
)

_CHOICE = re.compile(r"\[([^\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_WORD = re.compile(r"(?<![\w{'])[a-z]{5,}(?![\w}'])")


@functools.cache
def expand(line: str) -> tuple[str, ...]:
    """Return every sentence that a line with `[a|b]` choices stands for."""
    match = _CHOICE.search(line)
    if match is None:
        return (" ".join(line.split()),)
    before, after = line[: match.start()], line[match.end() :]
    return tuple(sentence for option in match[1].split("|") for sentence in expand(before + option + after))


def slots(sentence: str) -> set[str]:
    """Return the fields that a sentence states."""
    return {"item" if slot == "a_item" else slot for slot in _SLOT.findall(sentence)}


@dataclass(frozen=True)
class Pools:
    """All that one of the three data sets may draw from."""

    values: Values
    phrases: Phrases
    formats: Formats


class Decks:
    """Deals values: each of a pool once, in random order, before any of them again."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._left: dict[tuple[str, ...], list[str]] = {}

    def deal(self, pool: tuple[str, ...]) -> str:
        """Return the next value of a pool; kinds that share a pool, such as those of parcels, share its deck."""
        left = self._left.setdefault(pool, [])
        if not left:
            left.extend(pool)
            self._rng.shuffle(left)
        return left.pop()


def _digits_and_letters(rng: random.Random, style: str) -> str:
    """Fill a reference style; I and O are left out, which a reader could take for digits, and 0 never comes first."""
    filled = [
        rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") if char == "A" else rng.choice("123456789") if char == "0" else char
        for char in style
    ]
    return "".join(filled)


def _amount(rng: random.Random, low: int, high: int) -> int | None:
    """Draw an amount, mostly a round one as people write them; one message in four claims none."""
    if rng.random() < 0.25:
        return None
    value = rng.randrange(low, min(high, low * 8) if rng.random() < 0.5 else high)
    step = rng.choice((1, 5, 10, 10, 50))
    return max(value // step * step, low)


def _date(rng: random.Random, style: str) -> datetime.date:
    """Draw a date that is clear in its style: with slashes or dashes, the day must not pass for a month.

    The day has two digits, so that writing the answer never means to put in a zero.
    """
    while True:
        date = FIRST_DAY + datetime.timedelta(days=rng.randrange(DAYS))
        if date.day > 12 or (date.day > 9 and not style.startswith(("{dd}/", "{dd}-"))):
            return date


def _ref(rng: random.Random, styles: tuple[str, ...], used: set[str]) -> str:
    """Draw a reference that was not given out before, and note it in `used`."""
    while True:
        ref = _digits_and_letters(rng, rng.choice(styles))
        if ref not in used:
            used.add(ref)
            return ref


def make_record(rng: random.Random, pools: Pools, decks: Decks, date_style: str, used: set[str]) -> Record:
    """Draw the answer first; the message is then written to say it."""
    kind = decks.deal(tuple(KINDS))
    values = pools.values
    return {
        "kind": kind,
        "ref": _ref(rng, pools.formats.refs, used),
        "date": _date(rng, date_style).isoformat(),
        "place": decks.deal(values.cities),
        "item": decks.deal(values.items[kind]),
        "amount": _amount(rng, *KINDS[kind][2]),
        "name": f"{decks.deal(values.first_names)} {decks.deal(values.last_names)}",
    }


def pick(rng: random.Random, lines: tuple[str, ...], allowed: set[str], wanted: str | None = None) -> str:
    """Draw a line, then one of its sentences; it states nothing that is not allowed, and what is wanted, if anything.

    Lines are drawn before sentences, so that a line with many choices is not heard more often than the others.
    """

    def fits(sentence: str) -> bool:
        stated = slots(sentence)
        return stated <= allowed and (wanted is None or wanted in stated)

    usable = [fitting for line in lines if (fitting := [sentence for sentence in expand(line) if fits(sentence)])]
    return rng.choice(rng.choice(usable))


def distract(rng: random.Random, sentences: list[str], lines: tuple[str, ...]) -> None:
    """Insert a sentence beside the point, where it cannot be misread."""
    allowed = {"other_date", "early_date", "other_place"} - set().union(*map(slots, sentences))
    if "date" in slots(sentences[0]):
        # "Incident of 14 May" at the top needs no verb, so a second date might be taken for the one that counts.
        allowed &= {"other_place"}
    sentence = pick(rng, lines, allowed)
    # After a second date or city, "it was there" would point to the wrong one: such a sentence comes last.
    at = len(sentences) if slots(sentence) else rng.randrange(1, len(sentences) + 1)
    sentences.insert(at, sentence)


def plan(rng: random.Random, kind: str, phrases: Phrases, has_amount: bool) -> tuple[list[str], str | None]:
    """Choose the sentences of a message, in order, and the signature, so that each field is stated exactly once."""
    owner, timing, _ = KINDS[kind]
    incident = pick(rng, phrases.incidents[kind], set(FIELDS))
    needed = {"ref", "date", "place", "name"} - slots(incident)
    sentences = [incident]
    if rng.random() < 0.5:
        opener = pick(rng, phrases.openers["all"] + phrases.openers[owner], needed)
        sentences.insert(0, opener)
        needed -= slots(opener)
    signature = None
    if "name" in needed and rng.random() < 0.85:
        signature = pick(rng, phrases.signatures, needed, "name")
        needed -= slots(signature)
    details = phrases.details["all"] + phrases.details[owner] + phrases.details[timing]
    rest = []
    while needed:
        detail = pick(rng, details, needed, rng.choice(sorted(needed)))
        rest.append(detail)
        needed -= slots(detail)
    if has_amount:
        rest.append(pick(rng, phrases.amounts, {"amount"}))
    elif rng.random() < 0.5:
        rest.append(pick(rng, phrases.no_amount, set()))
    rng.shuffle(rest)
    sentences += rest
    lines = phrases.distractors
    if owner == "shipment" and kind != "wrong delivery":  # "I ordered it in May" would deny a delivery never ordered
        lines += phrases.shipment_distractors
    for _ in range(rng.choice((0, 0, 0, 0, 0, 0, 0, 1, 1, 2))):
        distract(rng, sentences, lines)
    return sentences, signature


def misspell(rng: random.Random, sentence: str) -> str:
    """Put one slip of the keyboard into a plain word; slots, and with them the values to copy, stay as they are."""
    words = list(_WORD.finditer(sentence))
    if not words:
        return sentence
    word = rng.choice(words)
    at = rng.randrange(word.start() + 1, word.end() - 1)
    first, second = sentence[at], sentence[at + 1]
    slip = rng.choice((second + first, first + first + second, second))
    return sentence[:at] + slip + sentence[at + 2 :]


def fill(sentence: str, record: Record, written: dict[str, str]) -> str:
    """Put the values in, as written in this message or else as they stand in the record."""
    return _SLOT.sub(lambda slot: written[slot[1]] if slot[1] in written else str(record[slot[1]]), sentence)


def _distractions(rng: random.Random, pools: Pools, record: Record) -> dict[str, str]:
    """Draw a later date, an earlier date and another city, none of which the answer may contain."""
    date = datetime.date.fromisoformat(str(record["date"]))
    styles = pools.formats.short_dates if rng.random() < 0.7 else pools.formats.dates[:4]
    return {
        "other_date": write_date(date + datetime.timedelta(days=rng.randrange(2, 26)), rng.choice(styles)),
        "early_date": write_date(date - datetime.timedelta(days=rng.randrange(15, 200)), rng.choice(styles)),
        "other_place": rng.choice([city for city in pools.values.cities if city != record["place"]]),
    }


def make_message(rng: random.Random, pools: Pools, record: Record, date_style: str) -> str:
    """Write a message that states the record."""
    amount, item = record["amount"], str(record["item"])
    written = _distractions(rng, pools, record)
    written["date"] = write_date(datetime.date.fromisoformat(str(record["date"])), date_style)
    written["a_item"] = f"{'an' if item[0].lower() in 'aeiou' else 'a'} {item}"
    if isinstance(amount, int):
        written["amount"] = rng.choice(pools.formats.amounts).format(n=amount)
    sentences, signature = plan(rng, str(record["kind"]), pools.phrases, amount is not None)
    if rng.random() < 0.12:
        chosen = rng.randrange(len(sentences))
        sentences[chosen] = misspell(rng, sentences[chosen])
    if rng.random() < 0.08:
        sentences = [sentence.lower() for sentence in sentences]
    filled = [fill(sentence, record, written) for sentence in sentences]
    # "the 3rd of May" and the like may open a sentence.
    body = " ".join(text[0].upper() + text[1:] if text.startswith("the ") else text for text in filled)
    parts = [body]
    if rng.random() < 0.2:
        parts.insert(0, rng.choice(pools.phrases.greetings))
    if signature:
        parts.append(fill(signature, record, written))
    return rng.choice(("\n", "\n", " ")).join(parts)


def to_row(message: str, record: Record) -> str:
    """Return one line of a data file."""
    answer = json.dumps({field: record[field] for field in FIELDS}, ensure_ascii=False, separators=(",", ":"))
    turns = (("system", SYSTEM), ("user", message), ("assistant", answer))
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}, ensure_ascii=False)


def make_rows(rng: random.Random, pools: Pools, count: int, used: set[str]) -> list[str]:
    """Make `count` rows; `used` holds the references given out so far, none of which comes twice."""
    decks = Decks(rng)
    rows: list[str] = []
    for _ in range(count):
        date_style = rng.choice(pools.formats.dates)
        record = make_record(rng, pools, decks, date_style, used)
        rows.append(to_row(make_message(rng, pools, record, date_style), record))
    return rows


def generate(output: Path, seed: int = 0, train: int = 1600, held_out: int = 300) -> None:
    """Write the three files into `output`."""
    rng = random.Random(seed)
    used: set[str] = set()
    sets = {
        "train.jsonl": (Pools(TRAIN_VALUES, TRAIN_PHRASES, TRAIN_FORMATS), train),
        "new_records.jsonl": (Pools(HELD_OUT_VALUES, TRAIN_PHRASES, TRAIN_FORMATS), held_out),
        "new_phrasings.jsonl": (Pools(HELD_OUT_VALUES, HELD_OUT_PHRASES, HELD_OUT_FORMATS), held_out),
    }
    output.mkdir(parents=True, exist_ok=True)
    for name, (pools, count) in sets.items():
        rows = make_rows(rng, pools, count, used)
        (output / name).write_bytes(("\n".join(rows) + "\n").encode())


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Write train.jsonl, new_records.jsonl and new_phrasings.jsonl.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--train", type=int, default=1600, help="rows to train on")
    parser.add_argument("--held-out", type=int, default=300, help="rows in each of the two held-out sets")
    options = parser.parse_args()
    generate(options.output, options.seed, options.train, options.held_out)


if __name__ == "__main__":
    main()
