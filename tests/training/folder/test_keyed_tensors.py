"""Tensors are read back under the key that they were written under, and under no other."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from helpers.tensors import assert_same_tensors
from veneer.events import Event, Note
from veneer.training.folder.keyed_tensors import key_of, read_under, write_under


def test_a_key_is_that_of_the_values_whatever_their_order() -> None:
    assert key_of({"a": 1, "b": [2, "x"]}) == key_of({"b": [2, "x"], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})


def test_what_was_written_is_read_under_its_key_alone(tmp_path: Path) -> None:
    file, seen = tmp_path / "found.safetensors", list[Event]()
    tensors = {"values": torch.randn(5, dtype=torch.float64), "known": torch.tensor([True, False])}
    assert read_under(file, "one", ("values",), "it is", seen.append) is None
    write_under(file, "one", tensors)
    found = read_under(file, "one", ("values", "known"), "it is", seen.append)
    assert found is not None
    assert_same_tensors(found, tensors)
    assert read_under(file, "two", ("values",), "it is", seen.append) is None
    assert seen == []


def test_every_process_writes_the_same_bytes(tmp_path: Path) -> None:
    file = tmp_path / "found.safetensors"
    write_under(file, "one", {"values": torch.zeros(2), "known": torch.tensor([True])})
    content = file.read_bytes()
    for _ in range(20):  # two entries of metadata would have either order
        write_under(file, "one", {"known": torch.tensor([True]), "values": torch.zeros(2)})
        assert file.read_bytes() == content


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    file, seen = tmp_path / "found.safetensors", list[Event]()
    tensors = {"values": torch.zeros(2)}
    write_under(file, "one", tensors)
    with safe_open(file, "pt") as written:
        key, content = written.metadata()["key"].split()
    save_file(tensors, file, metadata={"key": key, "content": content})
    assert read_under(file, "one", ("values",), "it is", seen.append) is not None
    save_file(tensors, file, metadata={"key": key})
    assert read_under(file, "one", ("values",), "it is", seen.append) is None
    assert seen == []


def test_a_damaged_file_is_told_and_holds_nothing(tmp_path: Path) -> None:
    file, seen = tmp_path / "found.safetensors", list[Event]()
    write_under(file, "one", {"values": torch.zeros(100)})
    file.write_bytes(file.read_bytes()[:80])
    assert read_under(file, "one", ("values",), "the table is", seen.append) is None
    (note,) = seen
    assert isinstance(note, Note)
    assert "is damaged" in note.message
    assert note.message.endswith("the table is computed again")


def test_a_changed_number_is_told_and_none_is_taken(tmp_path: Path) -> None:
    """A resumed run would train by it, and end in other bytes than the one that nobody stopped."""
    file, seen = tmp_path / "found.safetensors", list[Event]()
    tensors = {"values": torch.randn(5, dtype=torch.float64), "none": torch.empty(0, 2, dtype=torch.int64)}
    write_under(file, "one", tensors)
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    assert read_under(file, "one", ("values", "none"), "they are", seen.append) is None
    (note,) = seen
    assert isinstance(note, Note)
    assert "its numbers differ from those that were written" in note.message
