from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

from helpers.models.tiny import examples, run_config
from veneer.assistant.load import open_assistant
from veneer.config import ComputeSection
from veneer.data.encoded.chat import Example
from veneer.enums import Dtype
from veneer.evaluation import divergence, scoring
from veneer.evaluation.divergence import row_divergences
from veneer.training.run import train

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    output = tmp_path_factory.mktemp("diverged") / "run"
    return train(run_config(tiny_model, tiny_data, output, "train.steps=20")).output


@torch.no_grad()
def by_definition(base: torch.nn.Module, tuned: torch.nn.Module, row: Example) -> float:
    """Σ p(x) log(p(x) / q(x)) over the vocabulary, at every token before a target, in float64."""
    tokens = torch.tensor(row.tokens, dtype=torch.int64)[None]
    taken = torch.tensor(row.loss_mask[1:])
    p, q = (model(input_ids=tokens).logits[0, :-1][taken].double().log_softmax(-1) for model in (base, tuned))
    return float((p.exp() * (p - q)).sum())


@pytest.mark.parametrize(("max_tokens", "chunk"), [(1, 256), (150, 3), (10**6, 256)])
def test_the_divergence_is_its_definition_on_the_logits_of_peft(
    adapter: Path, tiny_model: Path, tiny_data: Path, max_tokens: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "PASS_TOKENS", max_tokens)
    monkeypatch.setattr(divergence, "CHUNK", chunk)
    rows = examples(tiny_model, tiny_data)[:6]
    assistant = open_assistant(str(tiny_model), adapter=adapter, compute=FLOAT32)
    assert assistant.adapter is not None
    done: list[int] = []
    found = row_divergences(assistant.model, assistant.adapter, rows, on_done=done.append)
    base = LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    tuned = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tiny_model), adapter).float().eval()
    assert found == pytest.approx([by_definition(base, tuned, row) for row in rows], rel=1e-3, abs=1e-4)
    assert min(found) > 0.01
    assert sum(done) == 6
    assert all(layer.enabled for layer in assistant.adapter.outermost.values())


def test_rows_without_targets_and_adapters_without_effect_diverge_by_nothing(
    adapter: Path, tiny_model: Path, tiny_data: Path
) -> None:
    first, second = examples(tiny_model, tiny_data)[:2]
    bare = Example(first.tokens, np.zeros_like(first.loss_mask), "f:1")
    assistant = open_assistant(str(tiny_model), adapter=adapter, compute=FLOAT32)
    assert assistant.adapter is not None
    with torch.no_grad():
        for layer in assistant.adapter.updates().values():
            layer.lora_B.zero_()
    found = row_divergences(assistant.model, assistant.adapter, [first, bare, second])
    assert found == pytest.approx([0.0, 0.0, 0.0], abs=1e-5)
    assert min(found) >= 0.0
