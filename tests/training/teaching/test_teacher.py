"""What a teacher must be, and what the plan says that it takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.models.tiny import rows, run_config, write_model, write_rows
from veneer.errors import AdapterError, ConfigError
from veneer.events import Event, Note, ignore
from veneer.exports.gguf import write_gguf_base
from veneer.io.checkpoint import open_checkpoint
from veneer.io.gguf.encode import Quant
from veneer.planning.plan import Plan
from veneer.training.plan import plan_run
from veneer.training.run import train
from veneer.training.run_inputs import prepare_run
from veneer.training.supposed_steps import SupposedRows
from veneer.training.teaching.live_teacher import load_teacher


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows(20))


def planned(model: Path, file: Path, *settings: str) -> Plan:
    config = run_config(model, file, file.parent / "unused", "method=lora", *settings)
    found = plan_run(config, ignore, rows=SupposedRows(rows=100, tokens=64, longest=64))
    assert isinstance(found, Plan)
    return found


def test_a_teacher_with_other_tokens_is_refused(tiny_model: Path, file: Path, tmp_path: Path) -> None:
    teacher = write_model(tmp_path / "teacher")
    tokenizer = json.loads((teacher / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = tokenizer["model"]["vocab"]
    one, other = list(vocab)[-2:]
    vocab[one], vocab[other] = vocab[other], vocab[one]
    (teacher / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    config = run_config(tiny_model, file, tmp_path / "run", "objective=distillation", f"distillation.teacher={teacher}")
    with pytest.raises(ConfigError, match=r"has other tokens .* 2 of "):
        train(config)


def test_more_likeliest_tokens_than_there_are_is_refused(tiny_model: Path, file: Path, tmp_path: Path) -> None:
    teacher = write_model(tmp_path / "teacher")
    with pytest.raises(ConfigError, match=r"top_k is 300 and there are 2\d\d tokens|top_k is 300 and there are 300"):
        planned(tiny_model, file, "objective=distillation", f"distillation.teacher={teacher}", "distillation.top_k=300")


def test_the_plan_counts_a_teachers_weights_beside_the_student_and_what_it_said_before(
    tiny_model: Path, file: Path, tmp_path: Path
) -> None:
    teacher = write_model(tmp_path / "teacher", hidden=256)
    taught = ("objective=distillation", f"distillation.teacher={teacher}")
    alone = planned(tiny_model, file).choice.memory
    live = planned(tiny_model, file, *taught).choice.memory
    cached = planned(tiny_model, file, *taught, "distillation.top_k=8").choice.memory
    size = (teacher / "model.safetensors").stat().st_size
    assert 0.95 * size < live.teacher < 1.05 * size, "float32 in the files and in memory"
    assert live.peak > alone.peak + live.teacher
    assert cached.teacher == 100 * 64 * (8 * 8 + 4)
    assert cached.phases["teaching"] > cached.runtime + size
    assert "teaching" not in alone.phases


def test_a_teacher_of_a_gguf_file_is_counted_as_it_is_held(tiny_model: Path, file: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.gguf"
    write_gguf_base(teacher, open_checkpoint(write_model(tmp_path / "teacher", hidden=256)), Quant.Q8_0)
    taught = ("objective=distillation", f"distillation.teacher={teacher}")
    loaded = load_teacher(run_config(tiny_model, file, tmp_path / "run", *taught), ignore)
    held = sum(one.nbytes for one in (*loaded.parameters(), *loaded.buffers()))
    assert planned(tiny_model, file, *taught).choice.memory.teacher == pytest.approx(held, rel=0.01)


def test_an_adapter_on_the_students_base_takes_its_own_weights_alone(
    tiny_model: Path, file: Path, tmp_path: Path
) -> None:
    train(run_config(tiny_model, file, tmp_path / "run", "train.steps=1", "lora.rank=2"))
    memory = planned(
        tiny_model, file, "objective=distillation", f"distillation.teacher_adapter={tmp_path / 'run'}", "lora.rank=2"
    ).choice.memory
    assert memory.teacher == memory.adapters


def test_an_adapter_that_teaches_on_another_base_than_its_own_is_refused_unless_it_is_meant(
    tiny_model: Path, file: Path, tmp_path: Path
) -> None:
    adapter = train(run_config(tiny_model, file, tmp_path / "sft", "train.steps=1")).output
    other = write_model(tmp_path / "other", seed=4)
    taught = ("objective=distillation", "train.steps=1", f"distillation.teacher_adapter={adapter}")
    message = r"trained on another base model(.|\n)*model\.safetensors: has other content"
    on_students = run_config(other, file, tmp_path / "run", *taught)
    on_teacher = run_config(tiny_model, file, tmp_path / "run", *taught, f"distillation.teacher={other}")
    for config in (on_students, on_teacher):
        with pytest.raises(AdapterError, match=f"{message}(.|\n)*distillation.teacher, or --allow-other-base"):
            prepare_run(config, ignore)
    said: list[Event] = []
    prepare_run(run_config(other, file, tmp_path / "run", *taught, "train.other_base=allow"), said.append)
    assert any("another base model" in event.message for event in said if isinstance(event, Note))
    prepare_run(run_config(tiny_model, file, tmp_path / "run", *taught), ignore)
    own = run_config(other, file, tmp_path / "run", *taught, f"distillation.teacher={tiny_model}")
    prepare_run(own, ignore)
