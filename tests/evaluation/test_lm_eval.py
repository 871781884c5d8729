"""Tasks of lm-evaluation-harness through veneer give each row what HFLM gives it."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.models.tiny import chat_tokenizer, run_config, write_model, write_rows
from helpers.support import needs
from veneer.assistant.load import open_assistant
from veneer.config import ComputeSection
from veneer.enums import Dtype
from veneer.errors import ConfigError, DataError
from veneer.training.run import train

pytestmark = needs("lm_eval", "lm-eval is not installed (pip install 'veneer[lm-eval]')")

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)
WORDS = ["parcel", "crate", "late", "blue", "the", "of", "number", "What"]
TASKS: dict[str, dict[str, Any]] = {
    "last_word": {
        "output_type": "loglikelihood", "doc_to_text": "{{context}}", "doc_to_target": " {{word}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "colours": {
        "output_type": "multiple_choice", "doc_to_text": "{{context}} Colour:", "doc_to_choice": "{{options}}",
        "doc_to_target": "{{right}}", "num_fewshot": 2, "fewshot_split": "test",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "texts": {
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{long}}",
        "metric_list": [{"metric": one} for one in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    },
    "answers": {
        "output_type": "generate_until", "doc_to_text": "{{context}}", "doc_to_target": "{{word}}",
        "generation_kwargs": {"until": ["\n", "e"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
    "chats": {
        "output_type": "generate_until", "doc_to_text": "{{context}}", "doc_to_target": "{{word}}",
        "description": "You are terse.", "num_fewshot": 1, "fewshot_split": "test",
        "generation_kwargs": {"until": ["<|im_end|>", "parcel"], "max_gen_toks": 10},
        "metric_list": [{"metric": "exact_match"}],
    },
}  # fmt: skip


def write_tasks(folder: Path, count: int = 6) -> dict[str, Path]:
    """The tasks as YAML files over one file of rows. One text is longer than the model's context."""
    source = random.Random(7)
    rows = []
    for number in range(count):
        context = " ".join(source.choices(WORDS, k=source.randint(1, 8)))
        options = source.choice([["blue", "late"], [" of the", " parcel", "x"], ["A", "B", "C"]])
        words = 400 if number == 2 else source.randint(1, 40)
        rows.append(
            {
                "context": context, "word": source.choice(WORDS), "options": options, "right": number % len(options),
                "long": " ".join(source.choices(WORDS, k=words)),
            }
        )  # fmt: skip
    data = write_rows(folder / "rows.jsonl", rows)
    files = {}
    for name, task in TASKS.items():
        dataset = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
        files[name] = folder / f"{name}.yaml"
        files[name].write_text(json.dumps({"task": name, **dataset, **task}), encoding="utf-8")
    return files


def with_bos(path: Path) -> Path:
    """A model whose tokenizer begins each text with a token of its own, and whose generation config has a penalty."""
    write_model(path, seed=5, tied=False)
    backend = chat_tokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    backend.save(str(path / "tokenizer.json"))
    settings = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
    template = "{{ bos_token }}" + settings["chat_template"]
    settings |= {"bos_token": "<|endoftext|>", "chat_template": template}
    (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    generation = json.loads((path / "generation_config.json").read_text(encoding="utf-8"))
    generation["repetition_penalty"] = 1.3
    (path / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    return path


def rows_of(model: Any, task: Path, chat: bool) -> list[dict[str, Any]]:
    """What the harness has of each row: prompts, the model's answers, and scores."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model, tasks=[str(task)], task_manager=TaskManager(include_defaults=False), bootstrap_iters=0,
        apply_chat_template=chat, fewshot_as_multiturn=chat,
    )  # fmt: skip
    (samples,) = found["samples"].values()
    return sorted(samples, key=lambda sample: int(sample["doc_id"]))


def assert_equal_rows(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["doc_hash"] == other["doc_hash"]
        assert mine["arguments"] == other["arguments"]
        assert_close(mine["resps"], other["resps"])
        for metric in mine["metrics"]:
            assert_close(mine[metric], other[metric])


def assert_close(mine: Any, other: Any) -> None:
    if isinstance(mine, list | tuple):
        assert len(mine) == len(other)
        for left, right in zip(mine, other, strict=True):
            assert_close(left, right)
    elif isinstance(mine, float):
        assert mine == pytest.approx(other, abs=1e-3)
    else:
        assert mine == other


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.mark.slow
@pytest.mark.parametrize("bos", [False, True], ids=["plain", "bos"])
def test_every_row_of_five_tasks_is_that_of_hflm(
    tasks: Mapping[str, Path], tiny_model: Path, tmp_path: Path, bos: bool
) -> None:
    from lm_eval.models.huggingface import HFLM

    from veneer.evaluation.lm_eval import VeneerLM

    path = with_bos(tmp_path / "model") if bos else tiny_model
    oracle = HFLM(
        pretrained=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        tokenizer=AutoTokenizer.from_pretrained(path), device="cpu", batch_size=1,
    )  # fmt: skip
    model = VeneerLM(open_assistant(str(path), compute=FLOAT32))
    for name, task in tasks.items():
        chat = name == "chats"
        assert_equal_rows(rows_of(model, task, chat), rows_of(oracle, task, chat))


def test_base_and_adapter_in_one_loading_are_those_of_hflm_with_peft(
    tasks: Mapping[str, Path], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    from lm_eval.models.huggingface import HFLM

    from veneer.evaluation.lm_eval import VeneerLM

    adapter = train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=10")).output
    assistant = open_assistant(str(tiny_model), adapter=adapter, compute=FLOAT32)
    oracle = HFLM(pretrained=str(tiny_model), peft=str(adapter), device="cpu", batch_size=1, dtype="float32")
    tuned = rows_of(VeneerLM(assistant), tasks["colours"], False)
    assert_equal_rows(tuned, rows_of(oracle, tasks["colours"], False))
    with assistant.as_base():
        base = rows_of(VeneerLM(assistant), tasks["colours"], False)
    assert base[0]["resps"] != tuned[0]["resps"]
    assert (
        base[0]["resps"]
        == rows_of(VeneerLM(open_assistant(str(tiny_model), compute=FLOAT32)), tasks["colours"], False)[0]["resps"]
    )


def test_a_last_message_of_the_assistant_is_one_to_go_on_with(tiny_model: Path) -> None:
    from veneer.evaluation.lm_eval import VeneerLM

    model = VeneerLM(open_assistant(str(tiny_model), compute=FLOAT32))
    chat = [{"role": "user", "content": "the crate?"}, {"role": "assistant", "content": "It is "}]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    expected = tokenizer.apply_chat_template(chat, tokenize=False, continue_final_message=True)
    assert model.apply_chat_template(chat, add_generation_prompt=False) == expected


def test_samples_of_one_prompt_differ_and_do_not_depend_on_what_is_asked_beside_them(tiny_model: Path) -> None:
    from lm_eval.api.instance import Instance

    from veneer.evaluation.lm_eval import VeneerLM

    model = VeneerLM(open_assistant(str(tiny_model), compute=FLOAT32))

    def answers(count: int, **settings: Any) -> list[str]:
        # As the harness repeats a request: one object, several times.
        return model.generate_until(
            [Instance("generate_until", {}, ("the crate", {"max_gen_toks": 8, **settings}), 0)] * count
        )

    drawn = answers(4, do_sample=True, temperature=1.0)
    assert len(set(drawn)) == 4
    assert answers(2, do_sample=True, temperature=1.0) == drawn[:2]
    assert len(set(answers(3, do_sample=False))) == 1


def test_settings_that_are_not_known_and_answers_that_never_fit_are_refused(tiny_model: Path) -> None:
    from lm_eval.api.instance import Instance

    from veneer.evaluation.lm_eval import VeneerLM

    model = VeneerLM(open_assistant(str(tiny_model), compute=FLOAT32))

    def asked(settings: dict[str, Any]) -> list[Instance]:
        return [Instance("generate_until", {}, ("the crate", settings), 0)]

    with pytest.raises(ConfigError, match="num_beams: not supported"):
        model.generate_until(asked({"num_beams": 4}))
    with pytest.raises(ConfigError, match="max_gen_toks is 512, but"):
        model.generate_until(asked({"max_gen_toks": 512}))
    with pytest.raises(DataError, match="has 600 tokens, must be 1 to 512"):
        model._loglikelihood_tokens([(None, [1], [2] * 600)])
