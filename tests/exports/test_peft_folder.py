"""Adapters of every kind that PEFT makes, merged from file to file, against what the live adapter computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import LlamaForCausalLM

from helpers.models.damaged_checkpoints import retensor, rewrite
from helpers.models.tiny import rows, run_config, write_rows
from helpers.models.tiny_models import documents, largest_difference, packed_logits, their_logits, tiny_llama
from veneer.assistant.load import open_assistant
from veneer.config import ComputeSection
from veneer.enums import Dtype
from veneer.errors import AdapterError
from veneer.exports.peft_folder import NO_DIRECTORY
from veneer.exports.record import PARITY_FILE
from veneer.exports.request import StoredDtype, Target
from veneer.exports.run import export
from veneer.training.run import train

pytestmark = [
    pytest.mark.filterwarnings("ignore::peft.utils.warning.PeftWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)
TEXTS = documents([21, 8], seed=8)
SOME = [TEXTS[0][5], TEXTS[1][1], TEXTS[0][2]]
TIED, BIASED = {"tie_word_embeddings": True}, {"attention_bias": True}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    # PEFT's settings, what the model is like, and whether embedding and head are one tensor in the merged model.
    "rslora and patterns": ({"use_rslora": True, "rank_pattern": {"down_proj": 7}}, TIED, True),
    "dora": ({"use_dora": True}, TIED, True),
    "dora with biases": ({"use_dora": True, "bias": "all"}, BIASED, False),
    "a bias of B": ({"lora_bias": True, "target_modules": ["q_proj"]}, BIASED, False),
    "embedding": ({"target_modules": ["q_proj", "embed_tokens"]}, {}, False),
    "embedding, tied": ({"target_modules": ["q_proj", "embed_tokens"]}, TIED, False),
    "head, tied": ({"target_modules": ["v_proj", "lm_head"]}, TIED, False),
    "both ends, tied": ({"target_modules": ["embed_tokens", "lm_head"]}, TIED, False),
    "a saved head": ({"modules_to_save": ["lm_head"]}, {}, False),
    "saved norms": ({"modules_to_save": ["norm"]}, TIED, True),
    "a saved embedding with its head": (
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, TIED, True,
    ),
    "embedding with its head": (
        {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}, TIED, False,
    ),
    "both ends as one": (
        {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}, TIED, False,
    ),
    "embedding with its head, rslora": (
        {"target_modules": ["embed_tokens"], "ensure_weight_tying": True, "use_rslora": True}, TIED, False,
    ),
    "embedding with its head, of another rank and alpha": (
        {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True,
         "rank_pattern": {"embed_tokens": 2}, "alpha_pattern": {"embed_tokens": 3}}, TIED, False,
    ),
    "embedding with its head, which has a rank of its own": (
        {"target_modules": ["embed_tokens"], "ensure_weight_tying": True, "use_rslora": True,
         "rank_pattern": {"lm_head": 2}}, TIED, False,
    ),
    "tokens of both ends as one": (
        {"trainable_token_indices": {"embed_tokens": SOME, "lm_head": SOME}}, TIED, True,
    ),
    "other tokens at each end": (
        {"trainable_token_indices": {"embed_tokens": SOME, "lm_head": SOME[:1]}}, TIED, False,
    ),
    "tied tokens": ({"trainable_token_indices": SOME, "ensure_weight_tying": True}, TIED, True),
    "tokens": ({"trainable_token_indices": SOME}, {}, False),
    "tokens, tied": ({"trainable_token_indices": SOME}, TIED, True),
}  # fmt: skip


def write(folder: Path, tokenizer: Path, changes: dict[str, Any]) -> LlamaForCausalLM:
    """A tiny model as a directory, with any tokenizer."""
    model = tiny_llama(changes={"vocab_size": 300, **changes})
    if changes.get("tie_word_embeddings"):
        with torch.no_grad():
            model.model.embed_tokens.weight.mul_(0.15)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)
    return model


def adapt(model: LlamaForCausalLM, settings: dict[str, Any], folder: Path) -> peft.PeftModel:
    """PEFT's adapter with everything in it away from where it started, saved."""
    base = {"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", "target_modules": "all-linear"}
    adapted = peft.get_peft_model(model, peft.LoraConfig(**(base | settings)))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder)
    return adapted.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_the_merged_model_is_the_live_adapter(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    """Both compute in float64, so that what differs is the merged weights' own rounding."""
    settings, changes, tied = KINDS[kind]
    base = write(tmp_path / "base", tiny_model, changes)
    with torch.no_grad():
        before = their_logits(base, TEXTS)
        live = their_logits(adapt(base, settings, tmp_path / "adapter").double(), TEXTS)
        record = export(tmp_path / "adapter", tmp_path / "out", model=str(tmp_path / "base"), dtype=StoredDtype.FLOAT32)
        merged = LlamaForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).double().eval()
        found = their_logits(merged, TEXTS)
    assert largest_difference(live, before) > 1e-2
    assert largest_difference(found, live) < 1e-5
    assert record.written.tied is tied
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is tied


@pytest.mark.parametrize("excluded", [["lm_head"], r".*(lm_head|\.1\.mlp\.up_proj)"])
def test_a_head_that_is_excluded_and_tied_is_updated_in_the_written_folder_too(
    excluded: list[str] | str, tiny_model: Path, tmp_path: Path
) -> None:
    """PEFT's `ensure_weight_tying` goes before the exclusion of the head."""
    base = write(tmp_path / "base", tiny_model, TIED)
    settings = {"target_modules": ["up_proj", "embed_tokens"], "ensure_weight_tying": True, "exclude_modules": excluded}
    with torch.no_grad():
        live = their_logits(adapt(base, settings, tmp_path / "adapter"), TEXTS)
        export(tmp_path / "adapter", tmp_path / "out", model=str(tmp_path / "base"), to=Target.PEFT)
        model = LlamaForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32).eval()
        found = their_logits(peft.PeftModel.from_pretrained(model, tmp_path / "out").eval(), TEXTS)
    assert largest_difference(found, live) < 1e-5


@pytest.mark.parametrize("written_by_peft", [False, True])
def test_an_embedding_whose_head_is_tied_comes_out_right(
    written_by_peft: bool, tiny_model: Path, tmp_path: Path
) -> None:
    """PEFT puts the embedding's factors on the head too, and writes them twice; a file may have them once."""
    base = write(tmp_path / "base", tiny_model, TIED)
    folder = tmp_path / "adapter"
    adapt(base, {"target_modules": ["embed_tokens"], "ensure_weight_tying": written_by_peft}, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "ensure_weight_tying": True}))

    def by_peft(adapter: Path) -> torch.Tensor:
        model = LlamaForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32).eval()
        with torch.no_grad():
            return their_logits(peft.PeftModel.from_pretrained(model, adapter).eval(), TEXTS)

    tied = by_peft(folder)
    export(folder, tmp_path / "out", model=str(tmp_path / "base"), to=Target.PEFT)
    assert largest_difference(by_peft(tmp_path / "out"), tied) < 1e-5
    if written_by_peft:
        return
    (folder / "adapter_config.json").write_text(json.dumps({**config, "ensure_weight_tying": False}))
    assert largest_difference(by_peft(folder), tied) > 1e-2


def test_a_bias_that_the_architecture_has_not_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    adapt(write(tmp_path / "base", tiny_model, {}), {"lora_bias": True}, tmp_path / "adapter")
    with pytest.raises(
        AdapterError, match=r"adds model\.layers\.0\.\S+\.bias, for which the architecture has no place"
    ):
        export(tmp_path / "adapter", tmp_path / "out", model=str(tmp_path / "base"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings",
    [
        ("lora.variant=dora",), ("lora.init=pissa",), ("lora.init=loftq",), ("lora.modules_to_save=[embed_tokens]",),
        ("lora.target_modules=[q_proj, embed_tokens]", "lora.variant=dora"),
    ],
)  # fmt: skip
def test_beside_a_4_bit_base_what_is_merged_into_it_is_the_live_adapter(
    settings: tuple[str, ...], tiny_model: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", rows(20))
    config = run_config(tiny_model, data, tmp_path / "run", "method=qlora", "train.steps=5", *settings)
    adapter = train(config).output
    export(adapter, tmp_path / "out", model=str(tiny_model), dtype=StoredDtype.FLOAT32)
    live = open_assistant(str(tiny_model), adapter=adapter, compute=FLOAT32)
    merged = open_assistant(str(tmp_path / "out"), compute=FLOAT32)
    assert live.adapter is not None
    with torch.no_grad():
        found, expected = packed_logits(merged.model, TEXTS), packed_logits(live.model, TEXTS)
        with live.adapter.disabled():
            assert largest_difference(packed_logits(live.model, TEXTS), expected) > 1e-3
    assert largest_difference(found, expected) < 2e-5


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("saved", [["embed_tokens", "lm_head"], ["embed_tokens"], ["lm_head"], None])
def test_rows_of_a_vocabulary_that_peft_resized_are_written_or_refused(
    saved: list[str] | None, tied: bool, tiny_model: Path, tmp_path: Path
) -> None:
    write(tmp_path / "base", tiny_model, {"tie_word_embeddings": tied})
    base = LlamaForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    base.resize_token_embeddings(302, mean_resizing=False)
    adapted = adapt(base, {"target_modules": ["q_proj"], "modules_to_save": saved}, tmp_path / "adapter")
    adapter, output = tmp_path / "adapter", tmp_path / "out"
    if saved is None or len(saved) < 2:
        with pytest.raises(AdapterError, match=r"(?s)over a resized vocabulary.*Use the adapter as it is, or merge it"):
            export(adapter, output, model=tmp_path / "base", to=Target.PEFT)
        assert not output.exists()
        return
    export(adapter, output, model=tmp_path / "base", to=Target.PEFT)
    again = LlamaForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    again.resize_token_embeddings(302, mean_resizing=False)
    texts = [[*TEXTS[0], 300, 301], TEXTS[1]]
    with torch.no_grad():
        found = their_logits(peft.PeftModel.from_pretrained(again, output).eval(), texts)
        assert largest_difference(found, their_logits(adapted, texts)) < 1e-5


def test_an_adapter_beside_a_base_in_fp8_is_not_held_to_how_transformers_reads_that(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """transformers reads no block that the rows do not fill, and rounds activations to fp8 on a card."""
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    settings = {"quant_method": "fp8", "weight_block_size": [48, 48], "activation_scheme": "dynamic"}
    rewrite(base, quantization_config=settings)
    name = "model.layers.0.mlp.up_proj.weight"
    codes = torch.zeros(128, 64).to(torch.float8_e4m3fn)
    retensor(base, {name: codes, f"{name}_scale_inv": torch.ones(3, 2)})
    adapter = train(run_config(base, tiny_data, tmp_path / "adapter", "train.steps=2")).output
    export(adapter, tmp_path / "out", to=Target.PEFT, compute=FLOAT32)
    assert NO_DIRECTORY in json.loads((tmp_path / "out" / PARITY_FILE).read_text(encoding="utf-8"))["notes"]
