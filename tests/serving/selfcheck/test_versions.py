"""Adapters that are exchanged under their names, and which versions may answer meanwhile."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from veneer.adapters.files.content import content_digest
from veneer.serving.selfcheck.versions import AdapterVersions


def test_an_exchange_halves_the_tensors_and_the_next_one_takes_it_back(tmp_path: Path) -> None:
    own = tmp_path / "own" / "red"
    own.mkdir(parents=True)
    (own / "adapter_config.json").write_text("{}")
    save_file({"a": torch.ones(3), "index": torch.tensor([5])}, own / "adapter_model.safetensors")
    before = hashlib.sha256((own / "adapter_model.safetensors").read_bytes()).digest()
    (tmp_path / "scratch").mkdir()
    versions = AdapterVersions(tmp_path / "own", ["red"], tmp_path / "scratch")
    served = versions.folder / "red"
    first = content_digest(served).hex()
    asked = versions.now("red")
    assert versions.possible("red", asked) == [first]

    versions.exchange("red")
    second = content_digest(served).hex()
    assert second != first
    assert {name: tensor.tolist() for name, tensor in load_file(served / "adapter_model.safetensors").items()} == {
        "a": [0.5] * 3,
        "index": [5],
    }
    # Until the server says that it has loaded it, both may answer; and whoever asked before may have the first.
    assert versions.possible("red", versions.now("red")) == [first, second]
    versions.loaded("red")
    assert versions.possible("red", versions.now("red")) == [second]
    assert versions.possible("red", asked) == [first, second]

    versions.exchange("red")
    assert content_digest(served).hex() == first
    assert hashlib.sha256((own / "adapter_model.safetensors").read_bytes()).digest() == before
    assert content_digest(versions.folders[second]).hex() == second
