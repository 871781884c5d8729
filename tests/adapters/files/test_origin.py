"""An adapter knows the files of its base, whatever those are called."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from helpers.models.tiny import run_config, write_model
from veneer.adapters.files.origin import BASE_FILE, SOURCE_FILE, BaseCheck, base_differences, read_base
from veneer.errors import AdapterError
from veneer.io.checkpoint import open_checkpoint
from veneer.io.digests import sha256
from veneer.quantization import quantize
from veneer.training.run import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    output = tmp_path_factory.mktemp("origin") / "run"
    return train(run_config(tiny_model, tiny_data, output, "train.steps=2")).output


def problem(adapter: Path, model: Path) -> str | None:
    return BaseCheck(adapter, str(model), open_checkpoint(model).files()).problem()


@pytest.mark.parametrize("place", [".", "checkpoints/step-000002"])
def test_a_run_and_its_checkpoints_name_the_weights_and_the_configuration(
    place: str, run: Path, tiny_model: Path
) -> None:
    assert json.loads((run / place / BASE_FILE).read_text())["files"] == {
        name: sha256(tiny_model / name) for name in ("config.json", "model.safetensors")
    }
    assert problem(run / place, tiny_model) is None


@pytest.mark.scenario(number=32)
def test_another_base_of_the_same_shape_is_told(run: Path, tmp_path: Path, tiny_model: Path) -> None:
    other = write_model(tmp_path / "other", seed=7)
    text = problem(run, other)
    assert text is not None
    for part in (str(run), str(other), "model.safetensors: has other content"):
        assert part in text
    settings = tmp_path / "settings"
    shutil.copytree(tiny_model, settings)
    config = json.loads((settings / "config.json").read_text())
    (settings / "config.json").write_text(json.dumps({**config, "rope_theta": 12345.0}))
    assert "config.json" in str(problem(run, settings))


def test_a_copy_and_another_chat_template_are_the_same_base(run: Path, tmp_path: Path, tiny_model: Path) -> None:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    (copy / "tokenizer_config.json").write_text("{}")
    assert problem(run, copy) is None


def test_a_quantised_copy_is_the_base_that_it_was_made_of(run: Path, tmp_path: Path, tiny_model: Path) -> None:
    quantize(str(tiny_model), tmp_path / "nf4")
    assert problem(run, tmp_path / "nf4") is None
    quantize(str(write_model(tmp_path / "other", seed=7)), tmp_path / "other-nf4")
    assert "model.safetensors: has other content" in str(problem(run, tmp_path / "other-nf4"))
    weights = bytearray((tmp_path / "nf4" / "model.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1
    (tmp_path / "nf4" / "model.safetensors").write_bytes(weights)
    assert "model.safetensors: has other content" in str(problem(run, tmp_path / "nf4")), "it is a copy no more"
    (tmp_path / "nf4" / SOURCE_FILE).write_text('{"source": 1}')
    with pytest.raises(AdapterError, match=f"{SOURCE_FILE} is damaged"):
        problem(run, tmp_path / "nf4")


def test_a_run_of_before_has_the_digests_in_its_lock(run: Path, tmp_path: Path, tiny_model: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    known = read_base(copy)
    (copy / BASE_FILE).unlink()
    assert read_base(copy) == known
    (copy / "run.lock").unlink()
    assert read_base(copy) == {}
    assert problem(copy, write_model(tmp_path / "other", seed=7)) is None


@pytest.mark.parametrize("content", ["{", "[]", '{"files": 1}', '{"files": {"model.safetensors": 1}}', "{}"])
def test_a_damaged_record_of_the_base_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / BASE_FILE).write_text(content)
    with pytest.raises(AdapterError, match=f"{BASE_FILE} is damaged"):
        read_base(tmp_path)


def test_files_are_compared_by_content() -> None:
    then = {"model.safetensors": "a", "config.json": "b", "generation_config.json": "c"}
    assert base_differences(then, {"renamed.safetensors": "a", "config.json": "b"}) == []
    assert base_differences(then, {"model.safetensors": "x", "config.json": "b"}) == [
        "model.safetensors: has other content"
    ]
    assert base_differences(then, {"one.safetensors": "y", "config.json": "b"}) == [
        "model.safetensors: is not there",
        "one.safetensors: was not there",
    ]
