"""Models of the hub: which files are fetched, and what is said where that fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save_file

from veneer.errors import ModelError
from veneer.io import hub as module
from veneer.io.checkpoint import open_checkpoint, read_model_config


def model(path: Path) -> Path:
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    save_file({"a.weight": torch.ones(2)}, path / "model.safetensors")
    return path


def test_hub_ids_are_resolved_by_the_hub_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model(tmp_path / "m")
    asked: list[tuple[str, str | None, list[str]]] = []
    there = ["config.json", "model-1.safetensors", "tokenizer.json", "chat_template.jinja"]
    there += ["additional_chat_templates/tool_use.jinja", "pytorch_model.bin", "m.py"]
    again = ["original/model.safetensors", "consolidated.safetensors", "checkpoint-5/config.json"]
    again += ["adapter/config.json", "assistant/model.safetensors"]

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
    assert asked[0][2] == there[:5]


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


def fetched(monkeypatch: pytest.MonkeyPatch, folder: Path, repository: list[str] | Exception) -> None:
    """A hub with one repository, of which `folder` is what is downloaded."""

    def info(name: str, *, revision: str | None, timeout: float) -> SimpleNamespace:
        if isinstance(repository, Exception):
            raise repository
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in repository])

    monkeypatch.setattr(module, "snapshot_download", lambda *_, **__: str(folder))
    monkeypatch.setattr(module, "model_info", info)


@pytest.mark.parametrize("opened", [open_checkpoint, read_model_config])
def test_a_repository_of_gguf_files_says_how_one_of_them_is_opened(
    opened: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched(monkeypatch, tmp_path, ["README.md", "q/model-Q8_0.gguf", "model-Q4_K_M.gguf"])
    with pytest.raises(ModelError, match="but GGUF files") as refused:
        opened("owner/name")
    assert "`hf download owner/name FILE`, and name the file:\n  - model-Q4_K_M.gguf\n  - q/" in str(refused.value)


@pytest.mark.parametrize(
    ("repository", "said"),
    [
        (
            ["config.json", "pytorch_model.bin"],
            r"The model owner/name holds only pytorch_model\.bin, a pickle, which is",
        ),
        (
            ["config.json", "README.md"],
            r"The model owner/name has neither model\.safetensors.*Name a model's directory",
        ),
        (OfflineModeIsEnabled("offline mode is enabled."), "never downloaded.*: offline mode is enabled. Run it once"),
        (httpx.ConnectError("[Errno -2]"), r"without \*\.safetensors, .*ConnectError \[Errno -2\]\. Run it once with"),
    ],
)
def test_a_repository_whose_weights_are_not_there_says_why(
    repository: list[str] | Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    fetched(monkeypatch, tmp_path, repository)
    assert read_model_config("owner/name").config["model_type"] == "llama"
    with pytest.raises(ModelError, match=said):
        open_checkpoint("owner/name")


def test_a_repository_that_is_no_models_says_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adapter_model.safetensors").touch()
    fetched(monkeypatch, tmp_path, ["adapter_config.json", "adapter_model.safetensors"])
    with pytest.raises(ModelError, match=r"no config\.json(.|\n)*- adapter_config\.json"):
        open_checkpoint("owner/name")
