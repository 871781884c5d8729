"""A mixture from files to files: trained by the command's own path, resumed, merged, and opened elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from helpers.models.tiny import SPECIAL, TEMPLATE, chat_tokenizer, rows, run_config, tree, write_rows
from helpers.models.tiny_mixtures import KINDS, tiny_mixture
from helpers.models.tiny_models import documents, largest_difference, packed_logits, their_logits
from veneer.adapters.load import load_adapter
from veneer.config import RunConfig
from veneer.errors import AdapterError, Interrupted
from veneer.events import ignore
from veneer.exports.request import StoredDtype
from veneer.exports.run import export
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.training.joint import prepare_joint, train_together
from veneer.training.run import train

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]


def write(folder: Path, kind: str) -> Path:
    """A tiny mixture with a chat tokenizer."""
    backend = chat_tokenizer()
    tiny_mixture(kind, vocab_size=backend.get_vocab_size(), max_position_embeddings=512).save_pretrained(folder)
    backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[2], "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_learns_and_what_it_leaves_is_used_elsewhere(kind: str, method: str, tmp_path: Path) -> None:
    base = write(tmp_path / "base", kind)
    data = write_rows(tmp_path / "rows.jsonl", rows(12))
    settings = (f"method={method}", "train.steps=4", "train.examples_per_step=4", "train.learning_rate=0.01")
    config = run_config(base, data, tmp_path / "run", *settings)
    train(config)
    lines = (tmp_path / "run" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [event["loss"] for event in map(json.loads, lines) if event["event"] == "StepDone"]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    texts = documents([14, 9], vocab=chat_tokenizer().get_vocab_size())
    model = load_model(open_checkpoint(base), Loading(dtype=torch.float32)).eval()
    load_adapter(model, tmp_path / "run")
    with torch.no_grad():
        expected = packed_logits(model, texts)
        theirs = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "run").eval()
        assert largest_difference(their_logits(adapted, texts), expected) < 1e-4
        if method == "lora":
            export(tmp_path / "run", tmp_path / "merged", model=str(base), dtype=StoredDtype.FLOAT32)
            merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
            assert largest_difference(their_logits(merged, texts), expected) < 1e-4


def test_dropout_before_a_router_is_refused_before_the_run(tmp_path: Path) -> None:
    base, data = write(tmp_path / "base", "mixtral"), write_rows(tmp_path / "rows.jsonl", rows(12))
    settings = ("lora.target_modules=[q_proj, gate]", "lora.dropout=0.1")
    with pytest.raises(AdapterError, match="dropout and target a mixture's router or dense layers: PEFT takes them"):
        train(run_config(base, data, tmp_path / "run", *settings))


@pytest.mark.parametrize("method", ["qlora", "full"])
def test_a_run_gone_on_with_ends_in_the_same_bytes(method: str, tmp_path: Path) -> None:
    base = write(tmp_path / "base", "mixtral")
    data = write_rows(tmp_path / "rows.jsonl", rows(12))
    settings = (f"method={method}", "train.steps=4", "train.examples_per_step=4", "train.save_every=2", "train.keep=9")
    one = run_config(base, data, tmp_path / "one", *settings)
    two = run_config(base, data, tmp_path / "two", *settings)
    train(one)

    asked = iter([False, True])
    with pytest.raises(Interrupted):
        train(two, stop=lambda: next(asked))
    train(two, resume=True)
    weights = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    assert tree(tmp_path / "one")[weights] == tree(tmp_path / "two")[weights]
    if method == "full":
        AutoModelForCausalLM.from_pretrained(tmp_path / "one")


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        pytest.param(kind, method, marks=pytest.mark.slow if method == "qlora" and kind != "mixtral" else ())
        for kind in KINDS
        for method in ("lora", "qlora")
    ],
)
def test_runs_over_one_mixture_are_those_that_they_are_alone(kind: str, method: str, tmp_path: Path) -> None:
    base = write(tmp_path / "base", kind)
    data = write_rows(tmp_path / "rows.jsonl", rows(12))
    # AdamW divides each gradient by its own size: the rounding of one that is nearly zero becomes a step of any size.
    common = (f"method={method}", "train.steps=3", "train.examples_per_step=4", "train.learning_rate=1")
    common += ("train.optimizer=sgd",)
    settings = [("lora.rank=2",), ("lora.rank=4", "train.seed=3"), ("lora.target_modules=[q_proj, down_proj]",)]

    def configs(where: str) -> list[RunConfig]:
        folders = (tmp_path / f"{where}-{number}" for number in range(len(settings)))
        return [run_config(base, data, folder, *common, *own) for folder, own in zip(folders, settings, strict=True)]

    for config in configs("alone"):
        train(config)
    train_together([prepare_joint(config) for config in configs("joint")], ignore)
    for number in range(len(settings)):
        alone, joint = (
            load_file(tmp_path / f"{where}-{number}" / "adapter_model.safetensors") for where in ("alone", "joint")
        )
        assert joint.keys() == alone.keys()
        assert all(largest_difference(joint[name], tensor) < 1e-6 for name, tensor in alone.items())
        assert max(float(tensor.abs().max()) for name, tensor in alone.items() if "lora_B" in name) > 1e-2
