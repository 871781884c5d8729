"""Adapters by name: read off the caller's thread, checked, kept within a budget, exchanged under requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from peft_folders import randomise
from tiny_models import ours, tiny_llama
from veneer.adapters.adapter import remove
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.adapters.store import WEIGHTS_FILE, save_adapter
from veneer.enums import Variant
from veneer.errors import AdapterError
from veneer.generation.runner import AdapterLease, LoadedAdapter
from veneer.model.decoder import CausalLM
from veneer.serving.adapter_folder import AdapterFolder
from veneer.serving.models import GenerationConflict

WAIT = 60.0
NAMES = ("crane", "kite", "plover")


def write(folder: Path, model: CausalLM, name: str, *, seed: int, **settings: object) -> None:
    """Save a random adapter under a name."""
    adapter = inject(model, LoraSpec(**({"rank": 4, "alpha": 6.0} | settings)))  # type: ignore[arg-type]
    randomise(list(adapter.parameters()), seed)
    (folder / name).mkdir(exist_ok=True, parents=True)
    save_adapter(folder / name, adapter, base="owner/base")
    remove(model, adapter)


@pytest.fixture
def model(tmp_path: Path) -> CausalLM:
    found = ours(tiny_llama(seed=2), tmp_path / "base")
    found.eval()
    return found


@pytest.fixture
def folder(tmp_path: Path, model: CausalLM) -> Path:
    for seed, name in enumerate(NAMES):
        write(tmp_path / "adapters", model, name, seed=seed)
    return tmp_path / "adapters"


@pytest.fixture
def adapters(folder: Path, model: CausalLM) -> Iterator[AdapterFolder]:
    found = AdapterFolder(folder, model, budget=10**9)
    yield found
    found.close()


def loaded(adapters: AdapterFolder, name: str) -> tuple[AdapterLease, LoadedAdapter | None]:
    """A lease of an adapter once it is in memory or has failed."""
    ready = threading.Event()
    lease = adapters.lease(name, ready.set)
    assert lease.adapter is not None or ready.wait(WAIT)
    return lease, lease.adapter


def test_adapters_are_listed_and_loaded_when_they_are_asked_for(adapters: AdapterFolder) -> None:
    assert [(one.name, one.generation) for one in adapters.versions()] == [(name, 1) for name in NAMES]
    assert adapters.held_bytes == 0
    _, first = loaded(adapters, "kite")
    _, second = loaded(adapters, "crane")
    assert first is not None
    assert second is not None
    assert first.key != second.key
    assert adapters.held_bytes == first.nbytes + second.nbytes
    assert loaded(adapters, "kite")[1] is first
    with pytest.raises(AdapterError, match=r"'kit'.*'kite'"):
        adapters.lease("kit")


def test_least_lately_used_adapters_leave_memory_and_come_back_equal(folder: Path, model: CausalLM) -> None:
    size = (folder / "kite" / WEIGHTS_FILE).stat().st_size
    adapters = AdapterFolder(folder, model, budget=2 * size + size // 2, pinned=["crane"])
    keys = {}
    for name in (*NAMES, *NAMES, "kite"):
        lease, adapter = loaded(adapters, name)
        assert adapter is not None
        assert keys.setdefault(name, adapter.key) == adapter.key
        assert adapters.held_bytes <= 2 * size + size // 2
        lease.release()
        lease.release()
    assert adapters.lease("crane").adapter is not None
    adapters.close()


def test_what_is_in_use_is_never_given_up(folder: Path, model: CausalLM) -> None:
    size = (folder / "kite" / WEIGHTS_FILE).stat().st_size
    adapters = AdapterFolder(folder, model, budget=size)
    first, kite = loaded(adapters, "kite")
    ready = threading.Event()
    second = adapters.lease("crane", ready.set)
    assert not ready.wait(0.2)
    assert first.adapter is kite
    first.release()
    assert ready.wait(WAIT)
    assert second.adapter is not None
    adapters.close()


def test_a_new_version_leaves_old_leases_alone(adapters: AdapterFolder, folder: Path, model: CausalLM) -> None:
    lease, before = loaded(adapters, "kite")
    write(folder, model, "kite", seed=9)
    assert adapters.load("kite", 1).generation == 2
    fresh, after = loaded(adapters, "kite")
    assert before is not None
    assert after is not None
    assert before.key != after.key
    assert lease.adapter is before
    with pytest.raises(GenerationConflict, match="generation 2"):
        adapters.load("kite", 1)
    lease.release()
    assert adapters.held_bytes == after.nbytes
    adapters.unload("kite")
    assert fresh.adapter is after
    fresh.release()
    assert adapters.held_bytes == 0
    with pytest.raises(AdapterError, match="'kite'"):
        adapters.lease("kite")
    assert adapters.load("kite", 0).generation == 1


def test_a_version_whose_files_changed_is_refused_until_it_is_loaded_anew(folder: Path, model: CausalLM) -> None:
    adapters = AdapterFolder(folder, model, budget=1)
    lease, _ = loaded(adapters, "kite")
    lease.release()
    loaded(adapters, "crane")[0].release()
    write(folder, model, "kite", seed=9)
    lease, adapter = loaded(adapters, "kite")
    assert adapter is None
    assert "changed on the disk" in str(lease.error)
    lease.release()
    adapters.load("kite")
    assert loaded(adapters, "kite")[1] is not None
    adapters.close()


def test_adapters_that_cannot_be_used_fail_their_requests_alone(adapters: AdapterFolder, folder: Path) -> None:
    file = folder / "kite" / WEIGHTS_FILE
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, file)
    lease, adapter = loaded(adapters, "kite")
    assert adapter is None
    assert "nan" in str(lease.error)
    lease.release()
    with pytest.raises(AdapterError, match="nan"):
        adapters.load("kite")
    assert loaded(adapters, "crane")[1] is not None


def test_another_bases_adapters_are_refused(folder: Path, tmp_path: Path) -> None:
    wide = ours(tiny_llama(seed=2, changes={"hidden_size": 96}), tmp_path / "wide")
    lease, adapter = loaded(AdapterFolder(folder, wide, budget=10**9), "kite")
    assert adapter is None
    assert "does not fit this model" in str(lease.error)


def test_an_adapter_that_says_its_base_is_checked_against_it(tmp_path: Path, folder: Path, model: CausalLM) -> None:
    weights = tmp_path / "base" / "model.safetensors"
    from veneer.adapters.origin import write_base
    from veneer.io.digests import file_digest

    write_base(folder / "kite", {weights.name: file_digest(weights)})
    write_base(folder / "crane", {weights.name: "0" * 64})
    adapters = AdapterFolder(folder, model, budget=10**9, base_files=[weights])
    assert loaded(adapters, "kite")[1] is not None
    lease, adapter = loaded(adapters, "crane")
    assert adapter is None
    assert "another base" in str(lease.error)


def test_kinds_beyond_low_rank_updates_have_a_model_of_their_own(folder: Path, model: CausalLM) -> None:
    write(folder, model, "dora", seed=1, variant=Variant.DORA)
    adapters = AdapterFolder(folder, model, budget=10**9, dtype=torch.bfloat16)
    _, dora = loaded(adapters, "dora")
    assert dora is not None
    assert dora.model is not None
    assert dora.factors is None


def test_names_are_no_paths(adapters: AdapterFolder) -> None:
    for name in ("../base", "kite/..", "/etc", "", "nothing"):
        with pytest.raises(AdapterError):
            adapters.load(name)


def test_folders_and_pinned_names_that_are_not_there(tmp_path: Path, folder: Path, model: CausalLM) -> None:
    with pytest.raises(AdapterError, match="no folder"):
        AdapterFolder(tmp_path / "none", model, budget=1)
    with pytest.raises(AdapterError, match="heron"):
        AdapterFolder(folder, model, budget=1, pinned=["heron"])
