"""What every export keeps to, whatever it is exported to."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from helpers.gguf.exports import FLOAT32
from helpers.models.tiny import tree
from helpers.processes.other_user import as_another_user, as_root, open_folder
from veneer.enums import Method
from veneer.errors import AdapterError, CheckpointError, ConfigError, DataError, ModelError, OutputError
from veneer.events import Event, StageBegun
from veneer.exports.request import StoredDtype, Target
from veneer.exports.run import export
from veneer.io.files import claimed


def test_the_base_and_the_adapter_are_not_touched(
    tiny_model: Path, qlora: Path, tiny_data: Path, tmp_path: Path
) -> None:
    before = tree(tiny_model), tree(qlora)
    export(qlora, tmp_path / "out", model=str(tiny_model), data=tiny_data, compute=FLOAT32, limit=4)
    assert (tree(tiny_model), tree(qlora)) == before


def test_two_exports_into_one_folder_are_told_apart_before_the_work(
    tiny_model: Path, qlora: Path, tmp_path: Path
) -> None:
    done: list[Event] = []
    with claimed(tmp_path / "out"), pytest.raises(OutputError, match="another process is writing there; wait for it"):
        export(qlora, tmp_path / "out", model=str(tiny_model), compute=FLOAT32, subscribers=[done.append])
    assert not [
        event for event in done if isinstance(event, StageBegun) and event.stage.startswith(("merging", "measuring"))
    ]
    assert list(tmp_path.iterdir()) == []


def test_4_bits_are_refused_without_rows(tiny_model: Path, qlora: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --data"):
        export(qlora, tmp_path / "out", model=str(tiny_model), to=Target.MERGED_4BIT)
    assert not (tmp_path / "out").exists()


def test_an_adapter_from_peft_without_a_run_is_merged_as_asked(tiny_model: Path, qlora: Path, tmp_path: Path) -> None:
    bare = tmp_path / "peft"
    bare.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (bare / name).write_bytes((qlora / name).read_bytes())
    assert export(bare, tmp_path / "a", model=str(tiny_model), compute=FLOAT32).merged_into == "original"
    asked = export(bare, tmp_path / "b", model=str(tiny_model), compute=FLOAT32, method=Method.QLORA)
    assert asked.merged_into == "dequantised"
    recorded = export(qlora, tmp_path / "c", model=str(tiny_model), compute=FLOAT32)
    names = ("config.json", "model.safetensors")
    assert [(tmp_path / "b" / name).read_bytes() for name in names] == [
        (tmp_path / "c" / name).read_bytes() for name in names
    ]
    assert recorded.merged_into == "dequantised"


def test_a_device_that_is_unknown_is_refused_before_the_files_are_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"compute\.device 'gpu' is unknown"):
        export(tmp_path / "no-adapter", tmp_path / "out", compute=FLOAT32.model_copy(update={"device": "gpu"}))


@pytest.mark.parametrize("to", [Target.GGUF, Target.GGUF_ADAPTER])
def test_a_format_that_is_unknown_is_refused_before_the_files_are_read(to: Target, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--quant q3: GGUF (models|adapters) are written in f32, f16, bf16, q8_0"):
        export(tmp_path / "no-adapter", tmp_path / "out", to=to, quant="q3")


def test_rows_that_are_not_there_are_told_before_the_base_is_compared(
    tiny_model: Path, lora: Path, tmp_path: Path
) -> None:
    done: list[Event] = []
    with pytest.raises(DataError, match=r"no-rows\.jsonl"):
        export(lora, tmp_path / "out", model=tiny_model, data=tmp_path / "no-rows.jsonl", subscribers=[done.append])
    assert done == []


def test_a_revision_that_peft_has_written_beside_a_folder_is_passed_over(
    tiny_model: Path, lora: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "peft"
    bare.mkdir()
    config = json.loads((lora / "adapter_config.json").read_bytes())
    config |= {"base_model_name_or_path": str(tiny_model), "revision": "main"}
    (bare / "adapter_config.json").write_text(json.dumps(config))
    (bare / "adapter_model.safetensors").write_bytes((lora / "adapter_model.safetensors").read_bytes())
    record = export(bare, tmp_path / "out", compute=FLOAT32)
    assert record.model == str(tiny_model)


def test_what_cannot_be_exported_leaves_nothing(tiny_model: Path, lora: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists already"):
        export(lora, tiny_model, model=str(tiny_model))
    with pytest.raises(OutputError, match=r"below: cannot be written: Not a directory"):  # before the adapter is read
        export(tmp_path, tiny_model / "config.json" / "below", model=str(tiny_model))
    with pytest.raises(AdapterError, match=r"no adapter_config\.json there"):
        export(tmp_path, tmp_path / "out", model=str(tiny_model))
    with pytest.raises(ConfigError, match="limit: must be a whole number of at least 1, got -1"):
        export(lora, tmp_path / "out", model=str(tiny_model), limit=-1)
    with pytest.raises(ConfigError, match="gap: must be a number of nats above 0, got nan"):
        export(lora, tmp_path / "out", model=str(tiny_model), gap=float("nan"))
    with pytest.raises(ModelError, match="does not exist"):
        export(lora, tmp_path / "out", model=str(tmp_path / "absent"))
    weights = load_file(lora / "adapter_model.safetensors")
    broken = tmp_path / "large"
    broken.mkdir()
    (broken / "adapter_config.json").write_bytes((lora / "adapter_config.json").read_bytes())
    save_file({name: tensor * 1e4 for name, tensor in weights.items()}, broken / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"does not fit into float16(.|\n)*q_proj(.|\n)*Use bfloat16"):
        export(broken, tmp_path / "out", model=str(tiny_model), dtype=StoredDtype.FLOAT16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large"]


def test_a_base_that_was_moved_is_asked_for_with_the_record_that_names_it(
    lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = Path(shutil.copytree(lora, tmp_path / "run"))
    (moved / "run.lock").unlink()  # it has the digest of what is changed here
    record, config = moved / "config.yaml", moved / "adapter_config.json"
    record.write_text(re.sub(r"^model: .*$", "model: m", record.read_text(), flags=re.MULTILINE))
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "m"}))
    monkeypatch.chdir(tmp_path)
    for named_by in (record, config):
        with pytest.raises(ModelError, match=f"^m does not exist in {tmp_path}: {named_by} names .* so; give --model"):
            export(moved, tmp_path / "out")
        record.unlink(missing_ok=True)
    with pytest.raises(ModelError, match=f"^m does not exist in {tmp_path}: name a model's directory"):
        export(moved, tmp_path / "out", model="m")


@as_root
def test_an_adapter_whose_log_may_not_be_read_is_refused_before_the_work(tiny_model: Path, lora: Path) -> None:
    told: list[Event] = []
    with open_folder() as place:
        place.chmod(0o777)
        moved = Path(shutil.copytree(lora, place / "run"))
        (moved / "events.jsonl").chmod(0)
        with (
            as_another_user(),
            pytest.raises(CheckpointError, match=r"events\.jsonl: cannot be read: Permission denied"),
        ):
            export(moved, place / "merged", model=tiny_model, subscribers=[told.append])
    assert told == []


def test_a_link_to_what_is_not_there_yet_gets_its_export(tiny_model: Path, lora: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "scratch")
    record = export(lora, tmp_path / "link", model=str(tiny_model), to=Target.PEFT, limit=1)
    assert record.output == str(tmp_path / "scratch")
    assert (tmp_path / "link" / "adapter_config.json").is_file()


@pytest.mark.parametrize("to", [Target.GGUF, Target.GGUF_ADAPTER, Target.PEFT])
def test_a_dtype_is_refused_where_the_kind_has_none(to: Target, tiny_model: Path, lora: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--dtype float16 is for .* --to {to.value} writes none; ") as caught:
        export(lora, tmp_path / "out", model=str(tiny_model), to=to, dtype="float16")
    assert str(caught.value).endswith("leave it out" if to is Target.PEFT else "take --quant")
    assert list(tmp_path.iterdir()) == []
