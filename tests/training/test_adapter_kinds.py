"""Runs of every kind of adapter: they resume to the byte, are read again, and are refused before a weight is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from peft import PeftModel
from transformers import LlamaForCausalLM

from tiny import run_config
from veneer.assistant import open_assistant
from veneer.config import Method
from veneer.data.records import read_records
from veneer.errors import AdapterError, Interrupted
from veneer.evaluation.run import evaluate_rows, prepare
from veneer.training.run import train

# PEFT warns of updates at both ends of a tied model.
pytestmark = pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning")

KINDS: dict[str, tuple[str, ...]] = {
    "dora, rslora, dropout": ("lora.variant=dora", "lora.scaling=rslora", "lora.dropout=0.1"),
    "pissa, two ranks": ("lora.init=pissa", "lora.rank_pattern={down_proj: 2}"),
    "pissa_fast over 4 bits": ("method=qlora", "lora.init=pissa_fast"),
    "olora and dora": ("lora.init=olora", "lora.variant=dora"),
    "loftq": ("method=qlora", "lora.init=loftq"),
    "eva, b alone": ("lora.init=eva", "lora.factors=b"),
    "both ends": ("lora.target_modules=[q_proj, embed_tokens, lm_head]",),
    "saved modules": ("lora.modules_to_save=[embed_tokens, norm]",),
    "tokens over 4 bits": ("method=qlora", "lora.trainable_tokens=[5, 9, 12]"),
    "one layer": ("lora.layers_to_transform=[1]", "lora.alpha_pattern={q_proj: 3}", "lora.exclude_modules=[o_proj]"),
    "recomputed": ("lora.variant=dora", "lora.dropout=0.1", "compute.recompute=layers"),
}
STEPS = ("train.steps=4", "train.save_every=100", "train.examples_per_step=4")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_resumes_to_the_same_bytes_and_its_adapter_is_read_again(
    kind: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    settings = (*KINDS[kind], *STEPS)
    whole = train(run_config(tiny_model, tiny_data, tmp_path / "whole", *settings))
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *settings)
    with pytest.raises(Interrupted):
        train(config, stop=lambda: True)
    train(config, resume=True)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (whole.output / name).read_bytes()
    records = read_records(tiny_data)[:6]
    live = open_assistant(str(tiny_model), adapter=whole.output, method=config.method, compute=config.compute)
    report = evaluate_rows(live, prepare(live, records, max_new_tokens=2))
    losses = {row.name: (row.base, row.adapter) for row in report.comparison}["loss"]
    assert losses[1] < losses[0]
    if config.method is Method.LORA:
        PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tiny_model), whole.output)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("lora.init=loftq",), "nothing is quantised"),
        (("lora.init=orthogonal", "lora.rank=3"), "it halves the rank"),
        (("lora.factors=b", "lora.target_modules=[embed_tokens]"), "starts with A = 0"),
        (("lora.modules_to_save=[heads]",), "'heads': no such module"),
        (("lora.modules_to_save=[q_proj]", "lora.target_modules=[q_proj]"), "train it one way"),
        (("lora.trainable_tokens=[5000]",), "token 5000 is not below the vocabulary"),
        (("lora.layers_to_transform=[7]",), "- 7"),
        (("lora.rank_pattern={q_prj: 2}",), r"'q_prj': fits no adapted layer \(did you mean 'q_proj'\?\)"),
        (("lora.rank_pattern={q_proj: 400}",), "q_proj: at most 64"),
    ],
)
def test_what_cannot_be_is_refused_before_a_weight_is_read(
    settings: tuple[str, ...],
    words: str,
    tiny_model: Path,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("veneer.training.run.load_model", lambda *args, **options: pytest.fail("weights were read"))
    with pytest.raises(AdapterError, match=words):
        train(run_config(tiny_model, tiny_data, tmp_path / "run", *settings))
