"""Every family by its GGUF file: our decoder computes what transformers does, and llama.cpp puts our adapters on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gguf_models import CASES, saved_model, write_file
from tiny import write_model
from tiny_models import packed_logits
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.exports.gguf_adapter import write_gguf_adapter
from veneer.exports.llama_cpp import opened
from veneer.io.checkpoint import open_checkpoint
from veneer.load import load_model
from veneer.model.spec import FAMILIES

TABLED_GELU = 2e-3
"""llama.cpp reads GELU from a table in float16, which Gemma's models show."""
MIXTURES = {"mixtral", "qwen3 moe", "gpt-oss"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tokenizer") / "model")


def configured(case: str) -> Any:
    config = CASES[case]()
    if config.model_type not in FAMILIES:
        pytest.skip(f"the decoder has no {config.model_type} yet")
    return config


@pytest.mark.parametrize("case", CASES)
def test_our_decoder_reads_every_family(case: str, tokenizer: Path, tmp_path: Path) -> None:
    theirs, checkpoint = saved_model(configured(case), tmp_path / "model")
    write_file(tmp_path / "model.gguf", checkpoint, tokenizer)
    ours = load_model(open_checkpoint(tmp_path / "model.gguf"), dtype=torch.float32).eval()
    ids = torch.randint(3, 300, (1, 50), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        difference = packed_logits(ours, [ids[0].tolist()]) - theirs(ids).logits[0]
    assert float(difference.abs().max()) < 1e-4


@pytest.mark.parametrize("case", [case for case in CASES if case not in MIXTURES])
def test_adapters_of_every_family_in_llama_cpp(case: str, tokenizer: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reference")
    _, checkpoint = saved_model(configured(case), tmp_path / "model")
    file = tmp_path / "model.gguf"
    write_file(file, checkpoint, tokenizer)
    model = load_model(checkpoint, dtype=torch.float32).eval()
    adapter = inject(model, LoraSpec(rank=4, alpha=8.0))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    write_gguf_adapter(tmp_path / "adapter.gguf", adapter, checkpoint.config)
    prompt = torch.randint(3, 300, (20,), generator=generator).tolist()
    with torch.no_grad():
        own = packed_logits(model, [prompt])[-1].log_softmax(-1)
        with adapter.disabled():
            base = packed_logits(model, [prompt])[-1].log_softmax(-1)
    with opened(file, adapter=tmp_path / "adapter.gguf", context=256) as server:
        step = server.logprobs(prompt)
    gap = max(abs(float(own[token]) - value) for token, value in zip(step.ids, step.logprobs, strict=True))
    assert gap < (TABLED_GELU if case.startswith("gemma") else 1e-4)
    assert max(abs(float(base[token]) - float(own[token])) for token in step.ids) > 0.05
