"""A finished adapter, and each checkpoint of it, is refused where a byte of its files has changed."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from helpers.models.tiny import run_config
from veneer.adapters.files.store import read_spec, read_tensors, read_tokenizer
from veneer.errors import AdapterError
from veneer.io.tokenizer import from_directory
from veneer.training.run import train

FLIPS = 30


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    output = tmp_path_factory.mktemp("integrity") / "run"
    return train(run_config(tiny_model, tiny_data, output, "train.steps=2")).output


def opened(folder: Path) -> None:
    read_spec(folder)
    read_tensors(folder)


@pytest.mark.scenario(number=10)
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("place", [".", "checkpoints/step-000002"])
def test_every_flipped_byte_is_found_with_the_name_of_the_file_and_the_remedy(
    name: str, place: str, run: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(run / place, tmp_path / "copy"))
    opened(folder)
    content = (folder / name).read_bytes()
    source = random.Random(f"{name} {place}")
    for position in source.sample(range(len(content)), FLIPS):
        flipped = bytearray(content)
        flipped[position] ^= 1 << source.randrange(8)
        (folder / name).write_bytes(flipped)
        with pytest.raises(AdapterError, match=f"{name} has changed since it was written.*Put the file back"):
            opened(folder)
    (folder / name).write_bytes(content)
    opened(folder)


def test_an_adapter_that_was_changed_on_purpose_is_used_without_its_record(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "copy"))
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 8', '"lora_alpha": 4'))
    with pytest.raises(AdapterError, match=r"delete .*run\.lock"):
        opened(folder)
    (folder / "run.lock").unlink()
    assert read_spec(folder).alpha == 4.0


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"result": 3}', "{}", "\x80"])
def test_a_damaged_record_is_no_pass(content: str, run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "copy"))
    (folder / "run.lock").write_bytes(content.encode("latin-1"))
    with pytest.raises(AdapterError, match=r"run\.lock is damaged.*delete it to use the adapter unchecked"):
        opened(folder)


def test_a_record_that_cannot_be_read_is_not_called_damaged(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "copy"))
    (folder / "run.lock").unlink()
    (folder / "run.lock").mkdir()
    with pytest.raises(AdapterError, match=r"run\.lock: cannot be read: Is a directory$"):
        opened(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_with_new_tokens_is_the_adapters_too(
    name: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    settings = ("train.steps=1", "lora.new_tokens=[<parcel>]")
    run = train(run_config(tiny_model, tiny_data, tmp_path / "run", *settings)).output
    base = from_directory(tiny_model)
    for folder in (run, run / "checkpoints" / "step-000001"):
        assert read_tokenizer(folder, base).vocab_size > base.vocab_size
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("parcel" if name == "tokenizer.json" else "assistant", "parzel", 1))
        with pytest.raises(AdapterError, match=f"{name} has changed since it was written"):
            read_tokenizer(folder, base)
