"""Any bytes in any file of a stranger give a result or the documented error, soon and in little memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.rows.untrusted_files import (
    GONE,
    ODD,
    READERS,
    at,
    at_most,
    edited,
    read_template_apart,
    replaced,
    write_sound_files,
)
from veneer.errors import DataError, VeneerError

SECONDS = 2.0
"""The most processor time that one file may take."""
MEGABYTES = 512
SCENARIOS = {"safetensors": 29, "gguf": 30, "adapter": 31, "adapter-config": 32, "template": 33, "index": 27,
             "jsonl": 24, "json": 24, "csv": 24, "parquet": 24}  # fmt: skip

EXAMPLES = {"run-config": 20}
"""Files nested deeply take long by YAML, and are the user's own."""
CORPUS = Path(__file__).parent / "corpus"
TURNS = st.lists(st.integers(0, 10**6), min_size=1, max_size=5)
NUMBER = st.integers(0, 10**6)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sound_files(tmp_path_factory.mktemp("sound") / "files")


def damaged_bytes(whole: bytes) -> st.SearchStrategy[bytes]:
    """The file with up to four edits, or bytes that have nothing to do with it."""

    def edit(edits: list[tuple[int, int, int]]) -> bytes:
        content = whole
        for one in edits:
            content = edited(content, *one)
        return content

    return st.lists(st.tuples(NUMBER, NUMBER, NUMBER), min_size=1, max_size=4).map(edit) | st.binary(max_size=200)


def damaged_tree(tree: Any) -> st.SearchStrategy[Any]:
    """The JSON value with one or two of its values changed for odd ones, for others of its own, or taken away."""

    def change(changes: list[tuple[list[int], Any]]) -> Any:
        value = tree
        for turns, new in changes:
            value = replaced(value, turns, at(tree, new) if isinstance(new, tuple) else new)
        return None if value is GONE else value

    return st.lists(st.tuples(TURNS, st.sampled_from(ODD) | TURNS.map(tuple)), min_size=1, max_size=2).map(change)


def damaged(whole: bytes, name: str) -> st.SearchStrategy[bytes]:
    """Damage of bytes; and of values, where the file is JSON or has a header of JSON."""
    if name in ("safetensors", "adapter"):
        end = 8 + int.from_bytes(whole[:8], "little")

        def with_header(tree: Any) -> bytes:
            text = json.dumps(tree).encode()
            return len(text).to_bytes(8, "little") + text + whole[end:]

        return damaged_tree(json.loads(whole[8:end])).map(with_header) | damaged_bytes(whole)
    try:
        tree = json.loads(whole)
    except ValueError:
        return damaged_bytes(whole)
    return damaged_tree(tree).map(lambda value: json.dumps(value).encode()) | damaged_bytes(whole)


def refusal_of(read: Callable[[], object], refusal: type[VeneerError] | tuple[type[VeneerError], ...]) -> str | None:
    """The message by which a file is refused, or None if it is read. No more memory is given."""
    try:
        with at_most(MEGABYTES):
            read()
    except refusal as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", READERS)
def test_a_sound_file_is_read(name: str, sound: Path) -> None:
    with at_most(MEGABYTES):
        READERS[name].read(sound)


@pytest.mark.parametrize("file", sorted(CORPUS.glob("*/*-*")), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_was_found_before_is_a_result_or_the_documented_error(file: Path, sound: Path) -> None:
    reader = READERS[file.parent.name]
    place = sound / reader.file
    whole = place.read_bytes()
    place.write_bytes(file.read_bytes())
    try:
        begun = time.process_time()
        refusal_of(lambda: reader.read(sound), reader.refusal)
        assert time.process_time() - begun < SECONDS
    finally:
        place.write_bytes(whole)


@pytest.mark.repeated
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(one, marks=pytest.mark.scenario(number=SCENARIOS[one]) if one in SCENARIOS else ())
        for one in READERS
    ],
)
def test_any_content_gives_a_result_or_the_documented_error(name: str, sound: Path, rounds: int) -> None:
    reader = READERS[name]
    file = sound / reader.file
    whole = file.read_bytes()

    # The least number of rounds tries the same every time; more rounds try what nobody has tried.
    @settings(max_examples=EXAMPLES.get(name, 100) * rounds, derandomize=rounds == 1, database=None)
    @given(damaged(whole, name))
    def holds(content: bytes) -> None:
        file.write_bytes(content)
        begun = time.process_time()
        message = refusal_of(lambda: reader.read(sound), reader.refusal)
        assert message is None or len(message) > 20
        if time.process_time() - begun >= SECONDS:  # The first file of a kind also waits for the import of its module.
            begun = time.process_time()
            refusal_of(lambda: reader.read(sound), reader.refusal)
            assert time.process_time() - begun < SECONDS

    try:
        holds()
    finally:
        file.write_bytes(whole)


@pytest.mark.repeated
@pytest.mark.scenario(number=33)
def test_any_template_gives_a_text_or_a_refusal_in_its_own_process(sound: Path, rounds: int) -> None:
    file = sound / "template.jinja"
    whole = file.read_bytes()

    @settings(max_examples=3 * rounds, derandomize=rounds == 1, database=None)
    @given(damaged_bytes(whole))
    def holds(content: bytes) -> None:
        file.write_bytes(content)
        message = refusal_of(lambda: read_template_apart(sound), DataError)
        assert message is None or message.isprintable()

    try:
        holds()
    finally:
        file.write_bytes(whole)
