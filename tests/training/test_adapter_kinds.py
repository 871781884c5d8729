"""Runs of every kind of adapter: they resume to the byte, are read again, and are refused before a weight is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoTokenizer, LlamaForCausalLM

from helpers.models.tiny import run_config, write_model
from veneer.assistant.load import open_assistant
from veneer.data.records import read_records
from veneer.enums import Method
from veneer.errors import AdapterError, Interrupted, ModelError
from veneer.evaluation.base_and_adapter import evaluate_rows
from veneer.evaluation.rows import prepare
from veneer.events import ignore
from veneer.exports.request import StoredDtype
from veneer.exports.run import export
from veneer.generation.sampling import Sampling
from veneer.model.attention import PackedAttention
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
    "new tokens": ("lora.new_tokens=[crate, blue]",),
    "new tokens over 4 bits": ("method=qlora", "lora.new_tokens=[crate]", "lora.trainable_tokens=[5]"),
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
    report = evaluate_rows(live, prepare(live, records, max_new_tokens=2), emit=ignore)
    losses = {row.name: (row.base, row.adapter) for row in report.comparison}["loss"]
    assert losses[1] < losses[0]
    if config.method is Method.LORA and not config.lora.new_tokens:
        PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tiny_model), whole.output)


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_are_trained_saved_and_spoken(tied: bool, tiny_data: Path, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", tied=tied)
    before = AutoTokenizer.from_pretrained(base)
    run = train(run_config(base, tiny_data, tmp_path / "run", "lora.new_tokens=[crate, late]", *STEPS))
    assistant = open_assistant(str(base), adapter=run.output)
    ids = [len(before), len(before) + 1]
    assert assistant.tokenizer.encode("crate late") == [ids[0], *before.encode(" "), ids[1]]
    assert assistant.tokenizer.decode(ids) == "cratelate"
    assert assistant.model.spec.vocab_size == len(before) + 2
    assert assistant.answers([[{"role": "user", "content": "a crate?"}]], Sampling(max_new_tokens=3))
    # PEFT wants the model resized by hand; the tokenizer beside the adapter says to what.
    theirs = LlamaForCausalLM.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(run.output)
    theirs.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        scores = PeftModel.from_pretrained(theirs, run.output).eval()(torch.tensor([[5, ids[0], ids[1]]])).logits[0]
        tokens = torch.tensor([5, *ids])
        hidden = assistant.model.hidden(tokens, torch.arange(3), PackedAttention([3]))
        assert float((assistant.model.logits(hidden).float() - scores).abs().max()) < 0.05  # bfloat16 here
    export(run.output, tmp_path / "merged", model=str(base), dtype=StoredDtype.FLOAT32)
    whole = LlamaForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").encode("crate") == [ids[0]]
    with torch.no_grad():
        assert float((whole(torch.tensor([[5, *ids]])).logits[0] - scores).abs().max()) < 1e-5
    with pytest.raises(ModelError, match=r"'<\|im_end\|>': is a token already"):
        train(run_config(base, tiny_data, tmp_path / "no", "lora.new_tokens=['<|im_end|>', ' ']"))


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
        (("lora.init=pissa", "lora.rank_pattern={q_proj: 400}"), "q_proj: rank 400, at most 64"),
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
    monkeypatch.setattr(
        "veneer.training.build.load_language_model", lambda *args, **options: pytest.fail("weights were read")
    )
    with pytest.raises(AdapterError, match=words):
        train(run_config(tiny_model, tiny_data, tmp_path / "run", *settings))
