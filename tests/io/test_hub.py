"""Models of the hub: which files are fetched, and what is said where that fails."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save_file

from veneer.errors import ModelError
from veneer.io import hub as module
from veneer.io.checkpoint import open_checkpoint


def model(path: Path) -> Path:
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    save_file({"a.weight": torch.ones(2)}, path / "model.safetensors")
    return path


def test_hub_ids_are_resolved_by_the_hub_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model(tmp_path / "m")
    asked: list[tuple[str, str | None, list[str]]] = []
    there = ["config.json", "model-1.safetensors", "tokenizer.json", "chat_template.jinja", "pytorch_model.bin", "m.py"]
    again = ["original/model.safetensors", "consolidated.safetensors", "checkpoint-5/config.json"]

    def snapshot(name: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        found = filter_repo_objects(
            [*there, *again], allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )  # fmt: skip
        asked.append((name, revision, list(found)))
        return str(path)

    monkeypatch.setattr(module, "snapshot_download", snapshot)
    opened = open_checkpoint("owner/some.name", revision="v1")
    assert opened.source == "owner/some.name"
    assert asked[0][:2] == ("owner/some.name", "v1")
    assert asked[0][2] == there[:4]


def test_hub_failures_name_the_model_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(name: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        raise LocalEntryNotFoundError("no network.\nand a long story")

    monkeypatch.setattr(module, "snapshot_download", snapshot)
    with pytest.raises(ModelError, match=r"owner/name at revision v2 .*: no network\. Check the name.*hf auth login"):
        open_checkpoint("owner/name", revision="v2")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx.ProxyError("403 Forbidden"), "ProxyError 403 Forbidden"),
        (httpx.InvalidURL("Invalid port: ':1'"), "InvalidURL Invalid port: ':1'"),
        (json.JSONDecodeError("Expecting value", "<html>", 0), "JSONDecodeError Expecting value: line 1"),
        (RuntimeError(""), "RuntimeError. Check the name"),
    ],
)
def test_failures_that_are_no_errors_of_the_system_are_told_too(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot(name: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        raise error

    monkeypatch.setattr(module, "snapshot_download", snapshot)
    with pytest.raises(ModelError) as refused:
        open_checkpoint("owner/name")
    assert said in str(refused.value)
    assert "HTTPS_PROXY" in str(refused.value)
