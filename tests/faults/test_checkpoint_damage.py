"""A damaged checkpoint is found by its digests, and the one before it is taken, with a warning."""

from __future__ import annotations

import json
import random

import pytest

from helpers.models.tiny import tree
from helpers.run_folders.checkpoints import FILES, Saved, same
from veneer.adapters.files.integrity import MANIFEST_FILE
from veneer.errors import CheckpointError
from veneer.training.folder.checkpoint import verify


@pytest.mark.scenario(number=10)
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_found_and_the_one_before_is_taken(saved: Saved, name: str) -> None:
    file = saved.store.folder.checkpoint(3) / name
    content = file.read_bytes()
    source = random.Random(name)
    positions = {0, len(content) - 1, len(content) // 2, *(source.randrange(len(content)) for _ in range(40))}
    for position in positions:
        flipped = bytearray(content)
        flipped[position] ^= 1 << source.randrange(8)
        file.write_bytes(bytes(flipped))
        fault = verify(saved.store.folder.checkpoint(3))
        if name == MANIFEST_FILE and json_equal(content, bytes(flipped)):
            continue  # another kind of white space: the manifest says the same
        assert fault is not None, (name, position)
    progress, state, warnings = saved.restored()
    assert progress.step == 2
    assert same(state, saved.states[2])
    (warning,) = warnings
    assert str(saved.store.folder.checkpoint(3)) in warning
    assert "damaged" in warning


def json_equal(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


@pytest.mark.scenario(number=11)
@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_found(saved: Saved, name: str) -> None:
    file = saved.store.folder.checkpoint(3) / name
    content = file.read_bytes()
    for length in {0, 1, 7, 8, 9, *(len(content) * part // 8 for part in (1, 2, 4, 6, 7)), len(content) - 2}:
        file.write_bytes(content[:length])
        assert verify(saved.store.folder.checkpoint(3)) is not None, length
    file.write_bytes(content + b"\0")
    assert verify(saved.store.folder.checkpoint(3)) is not None
    assert saved.restored()[0].step == 2


@pytest.mark.scenario(number=12)
@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found_by_name(saved: Saved, name: str) -> None:
    (saved.store.folder.checkpoint(3) / name).unlink()
    progress, state, warnings = saved.restored()
    assert progress.step == 2
    assert same(state, saved.states[2])
    assert name in warnings[0]


@pytest.mark.scenario(number=12)
def test_two_damaged_ones_are_both_named_and_removed(saved: Saved) -> None:
    (saved.store.folder.checkpoint(3) / "state.json").unlink()
    (saved.store.folder.checkpoint(2) / "optimizer.safetensors").write_bytes(b"")
    progress, state, warnings = saved.restored()
    assert progress.step == 1
    assert same(state, saved.states[1])
    assert len(warnings) == 2
    # A damaged one must not count among the newest that are kept, nor stand where the run will write again.
    assert saved.store.folder.checkpoint_steps() == [1]


@pytest.mark.scenario(number=12)
def test_if_all_are_damaged_nothing_is_deleted_and_all_are_named(saved: Saved) -> None:
    for step in (1, 2, 3):
        (saved.store.folder.checkpoint(step) / "state.json").write_bytes(b"?")
    before = tree(saved.store.folder.checkpoints)
    with pytest.raises(CheckpointError) as caught:
        saved.restored()
    assert str(caught.value).count("state.json has changed") == 3
    assert tree(saved.store.folder.checkpoints) == before
