"""The base beside many adapters: held as they were trained where they agree, and told of where they do not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from helpers.servers.served import CPU
from veneer.assistant.request import AssistantRequest
from veneer.config import QuantSection
from veneer.enums import Method
from veneer.events import Event, Level, Note, ignore
from veneer.generation.runner import LoadedAdapter
from veneer.loading.base_form import BaseForm
from veneer.quantization import quantize
from veneer.serving.build import load_base
from veneer.serving.request import ServeRequest
from veneer.serving.served_adapters.held_base import HeldBase, Recorded, load_held_base, warning_loader
from veneer.training.session import RunResult

NF4 = BaseForm(QuantSection(), torch.float32)
LARGE = BaseForm(QuantSection(block=128), torch.float32)


def adapter(folder: Path, name: str, method: str | None, **more: object) -> None:
    """What is read of an adapter here: the configuration of its run, if it has one."""
    (folder / name).mkdir(parents=True)
    if method is not None:
        config = {"model": "m", "output": "o", "data": {"file": "f"}, "method": method, "compute": {"dtype": "float32"}}
        (folder / name / "config.yaml").write_text(yaml.safe_dump(config | more))


def loaded(model: Path, folder: Path, method: Method | None = None) -> tuple[HeldBase, list[str]]:
    said: list[Event] = []
    request = AssistantRequest(model=str(model), method=method, compute=CPU)
    names = sorted(entry.name for entry in folder.iterdir())
    held = load_held_base(request, folder, names, said.append)
    return held, [one.message for one in said if isinstance(one, Note) and one.level is Level.WARNING]


def test_where_all_with_a_record_agree_the_base_is_held_as_they_were_trained(tiny_model: Path, tmp_path: Path) -> None:
    adapter(tmp_path / "quantised", "red", "qlora", quant={"block": 128})
    adapter(tmp_path / "quantised", "green", "qlora", quant={"block": 128})
    adapter(tmp_path / "quantised", "theirs", None)
    held, warnings = loaded(tiny_model, tmp_path / "quantised")
    assert (held.assistant.form, warnings) == (LARGE, [])
    adapter(tmp_path / "plain", "red", "lora")
    assert loaded(tiny_model, tmp_path / "plain")[0].assistant.form == BaseForm()
    adapter(tmp_path / "none", "theirs", None)
    assert loaded(tiny_model, tmp_path / "none")[0].assistant.form == BaseForm()


def test_where_they_disagree_one_warning_names_those_over_another_base(tiny_model: Path, tmp_path: Path) -> None:
    for number in range(12):
        adapter(tmp_path, f"q{number:02}", "qlora")
    adapter(tmp_path, "large", "qlora", quant={"block": 128})
    adapter(tmp_path, "plain", "lora")
    held, (warning,) = loaded(tiny_model, tmp_path)
    assert held.assistant.form == BaseForm()
    assert "the base is not quantised here" in warning
    assert f"{LARGE.text}: large" in warning
    assert f"{NF4.text}: q00, q01," in warning
    assert "q09 and 2 more" in warning
    assert "plain" not in warning


def test_a_method_that_is_asked_for_holds_and_what_contradicts_it_is_named(tiny_model: Path, tmp_path: Path) -> None:
    adapter(tmp_path, "large", "qlora", quant={"block": 128})
    held, (warning,) = loaded(tiny_model, tmp_path, Method.LORA)
    assert held.assistant.form == BaseForm()
    assert f"{LARGE.text}: large" in warning
    adapter(tmp_path, "plain", "lora")
    held, (warning,) = loaded(tiny_model, tmp_path, Method.QLORA)
    assert held.assistant.form == LARGE, "the settings are those of the adapters of that method"
    assert "not quantised: plain" in warning


def test_a_base_whose_files_are_quantised_is_every_adapters(tiny_model: Path, tmp_path: Path) -> None:
    quantize(tiny_model, tmp_path / "copy")
    adapter(tmp_path / "adapters", "red", "qlora")
    adapter(tmp_path / "adapters", "plain", "lora")
    assert loaded(tmp_path / "copy", tmp_path / "adapters")[1] == []


def test_a_record_that_cannot_be_read_is_told_of_and_keeps_nobody_from_answering(
    tiny_model: Path, tmp_path: Path
) -> None:
    adapter(tmp_path, "red", "qlora")
    adapter(tmp_path, "strange", None)
    (tmp_path / "strange" / "config.yaml").write_text("a: 1")
    held, (warning,) = loaded(tiny_model, tmp_path)
    assert held.assistant.form == NF4
    assert "strange: " in warning


def test_an_adapter_that_comes_later_is_told_of_once(tiny_model: Path, tmp_path: Path) -> None:
    adapter(tmp_path, "red", "lora")
    held, _ = loaded(tiny_model, tmp_path)
    empty, told = LoadedAdapter(key=b"", nbytes=0), list[str]()
    known = HeldBase(held.assistant, Recorded({**held.recorded.forms, "known": NF4}))
    load = warning_loader(lambda folder: empty, known, told.append)
    adapter(tmp_path, "known", "qlora")
    adapter(tmp_path, "late", "qlora")
    adapter(tmp_path, "plain", "lora")
    for name in ("red", "known", "late", "plain", "late"):
        assert load(tmp_path / name) is empty
    (warning,) = told
    assert f"{NF4.text}: late" in warning
    shutil.rmtree(tmp_path / "red")
    adapter(tmp_path, "red", "qlora")
    load(tmp_path / "red")
    assert len(told) == 2, "other files under a name that was known"


def test_a_server_holds_its_base_as_its_adapters_were_trained(
    finished: dict[str, RunResult], tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished["qlora"].output, tmp_path / "adapters" / "red")
    request = ServeRequest(model=str(tiny_model), adapters=tmp_path / "adapters", compute=CPU)
    assert load_base(request, ignore).assistant.form == NF4
    assert load_base(replace(request, adapters=None), ignore).assistant.form == BaseForm()
    assert load_base(replace(request, method=Method.LORA), ignore).assistant.form == BaseForm()
