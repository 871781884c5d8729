from __future__ import annotations

import json
import logging
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from helpers.gguf.exports import FLOAT32, adapter_on
from helpers.gguf.models import CASES, saved_model
from helpers.models.tiny import TEMPLATE, chat_tokenizer, write_model
from helpers.models.tiny_mixtures import tiny_mixture
from veneer.assistant.assistant import Assistant
from veneer.errors import ModelError
from veneer.exports.certificate import Threshold, compare
from veneer.exports.prompts import chosen
from veneer.exports.readers import COMPOSED, Reader, peft_folder, quiet, transformers_folder, veneer_folder
from veneer.exports.request import Target
from veneer.exports.run import export
from veneer.exports.veneer_reader import composes, folder, reference
from veneer.io.checkpoint import open_checkpoint
from veneer.io.gguf.encode import Quant
from veneer.io.gguf.model import needed
from veneer.io.gguf.model import write_model as write_gguf

CPU = torch.device("cpu")
LIMIT = Threshold(gap=1e-3, divergence=1e-6, tensor=0.0)


@pytest.fixture(scope="module")
def assistant(tiny_model: Path) -> Assistant:
    return folder(tiny_model, CPU)


def problems_of(reader: Reader, assistant: Assistant) -> tuple[str, ...]:
    live, asked = reference(assistant, chosen(assistant, None, 5, 6))
    return compare(live, reader.read(asked), LIMIT, [prompt.where for prompt in asked.prompts.prompts]).problems


@pytest.mark.parametrize("make", [veneer_folder, transformers_folder], ids=["veneer", "transformers"])
def test_a_reader_of_the_same_files_agrees_and_one_of_others_does_not(
    make: object, assistant: Assistant, tiny_model: Path, tmp_path: Path
) -> None:
    assert callable(make)
    assert problems_of(make(tiny_model, CPU), assistant) == ()
    other = write_model(tmp_path / "other", seed=1)
    assert problems_of(make(other, CPU), assistant)[0].startswith("probabilities: ")


def test_peft_reads_the_adapter_on_its_base(assistant: Assistant, tiny_model: Path, lora: Path) -> None:
    reader = peft_folder(tiny_model, lora, assistant.model.spec.vocab_size, tiny_model, CPU)
    assert reader.name == "peft"
    # Beside the base alone an adapter that has learnt something is another model.
    assert problems_of(reader, assistant)[0].startswith("probabilities: ")


def test_a_reader_that_ends_answers_otherwise_is_seen(assistant: Assistant, tiny_model: Path) -> None:
    live, asked = reference(assistant, chosen(assistant, None, 5, 6))
    found = transformers_folder(tiny_model, CPU).read(asked)
    assert found.stop_ids == live.stop_ids
    assert found.vocabulary == live.vocabulary
    assert compare(live, replace(found, stop_ids=frozenset({1})), LIMIT, [""] * 5).problems[0].startswith("ending: ")


@pytest.mark.parametrize("ends", [(), (7,)])
def test_an_end_that_a_gguf_file_does_not_name_is_lost(
    ends: tuple[int, ...], assistant: Assistant, tiny_model: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(tiny_model)
    tensors = ((name, checkpoint.read(name, torch.float32)) for name in needed(checkpoint.config))
    file = tmp_path / "m.gguf"
    write_gguf(file, checkpoint.config, assistant.tokenizer, tensors, Quant.F32, ends=ends)
    # An id without a token can never be said, and is no loss.
    live = replace(assistant, stop_ids=frozenset({2, 7, 999_999}))
    problems = problems_of(veneer_folder(file, CPU), live)
    lost = "ending: the tokens [7] no longer end an answer; by the export's files, [0, 2, 999999] do"
    assert problems == (() if ends else (lost,))


def test_what_transformers_cannot_open_is_an_error_that_names_the_folder(
    assistant: Assistant, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ModelError, match=f"{tmp_path}: transformers cannot open it"):
        problems_of(transformers_folder(tmp_path, CPU), assistant)


def test_what_they_cannot_compute_with_is_an_error_too(
    assistant: Assistant, tiny_model: Path, lora: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="transformers cannot compute with it: "):
        problems_of(transformers_folder(tmp_path / "model", CPU), assistant)
    shutil.copytree(lora, tmp_path / "lora")
    config = json.loads((lora / "adapter_config.json").read_text(encoding="utf-8"))
    config |= {"target_modules": ["absent"]}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match=f"{tmp_path / 'lora'}: peft cannot open it: "):
        problems_of(peft_folder(tiny_model, tmp_path / "lora", 1, tiny_model, CPU), assistant)


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        (
            "tokenizer_config.json",
            {"chat_template": "{{ nobody['content'] }}"},
            "compute with it: 'nobody' is undefined",
        ),
        ("tokenizer_config.json", {"chat_template": "{% if %}"}, "compute with it: Expected an expression"),
        ("tokenizer.json", {"model": {"type": "None"}}, "compute with it: data did not match"),
        ("config.json", {"hidden_size": "abc"}, "open it: Validation error for field 'hidden_size'"),
    ],
)
def test_files_that_their_libraries_refuse_by_errors_of_their_own_are_a_problem_of_the_export(
    file: str, changes: dict[str, object], said: str, assistant: Assistant, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    path = tmp_path / "model" / file
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    with pytest.raises(ModelError, match=f"transformers cannot {said}"):
        problems_of(transformers_folder(tmp_path / "model", CPU), assistant)


def test_no_memory_for_a_reader_is_no_problem_of_the_export(
    assistant: Assistant, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> object:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(RuntimeError, match="allocate 4096 bytes"):
        problems_of(transformers_folder(tiny_model, CPU), assistant)


def test_a_mixture_with_rows_of_any_length_is_computed(tmp_path: Path) -> None:
    """torch's grouped product, by which transformers computes experts unless it is told otherwise, refuses these."""
    backend = chat_tokenizer()
    tiny_mixture("mixtral", vocab_size=backend.get_vocab_size(), hidden_size=66, intermediate_size=50).save_pretrained(
        tmp_path
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert problems_of(transformers_folder(tmp_path, CPU), folder(tmp_path, CPU)) == ()


def test_within_quiet_nothing_is_said_and_afterwards_everything_as_before() -> None:
    logger = logging.getLogger("transformers")
    before = logger.level
    with quiet():
        assert not logger.isEnabledFor(logging.WARNING)
        warnings.warn("said by another library", stacklevel=1)
    assert logger.level == before
    with pytest.warns(UserWarning, match="again"):
        warnings.warn("again", stacklevel=1)


@pytest.mark.parametrize("to", [Target.MERGED, Target.PEFT])
def test_a_qwen2_is_exported_although_transformers_alone_composes_its_texts(
    to: Target, tiny_model: Path, tmp_path: Path
) -> None:
    """transformers has its own tokenizer for every model of this type, whatever is in the files."""
    _, base = saved_model(CASES["qwen2"](), tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model / name, tmp_path / "base")
    _, adapter = adapter_on(tmp_path / "base", tmp_path / "adapter")
    record = export(adapter, tmp_path / "out", to=to, compute=FLOAT32, limit=1)
    assert record.parity is not None
    assert record.parity.readers[-1].texts_equal == record.parity.readers[-1].texts
    assert COMPOSED in record.parity.notes
    assert not composes(base.tokenizer())
