"""Every family by its GGUF file: our decoder computes what transformers does, and llama.cpp puts our adapters on it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.gguf.models import CASES, saved_model, write_file
from helpers.models.tiny import write_model
from helpers.models.tiny_models import packed_logits
from veneer.adapters.files.store import save_adapter
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.config import ComputeSection
from veneer.enums import Dtype
from veneer.errors import AdapterError
from veneer.exports.gguf_adapter import write_gguf_adapter
from veneer.exports.llama_cpp import opened
from veneer.exports.request import Target
from veneer.exports.run import export
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.how import Loading
from veneer.loading.load import load_model

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)
TABLED_GELU = 2e-3
"""llama.cpp reads GELU from a table in float16, which Gemma's models show."""
MIXTURES = {"mixtral", "qwen3 moe", "gpt-oss"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tokenizer") / "model")


@pytest.mark.parametrize("case", CASES)
def test_our_decoder_reads_every_family(case: str, tokenizer: Path, tmp_path: Path) -> None:
    theirs, checkpoint = saved_model(CASES[case](), tmp_path / "model")
    write_file(tmp_path / "model.gguf", checkpoint, tokenizer)
    ours = load_model(open_checkpoint(tmp_path / "model.gguf"), Loading(dtype=torch.float32)).eval()
    ids = torch.randint(3, 300, (1, 50), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        difference = packed_logits(ours, [ids[0].tolist()]) - theirs(ids).logits[0]
    assert float(difference.abs().max()) < 1e-4


EXPORTED: dict[str, dict[str, Any]] = {
    "gemma3": {"modules_to_save": ("norm", "q_norm")},
    "phi3": {},
    "stablelm parallel": {},
    "mixtral": {"target_modules": ("v_proj", "gate_up_proj", "down_proj")},
    "qwen3 moe": {},
    "gpt-oss": {"target_modules": ("q_proj", "gate_up_proj", "down_proj")},
}  # fmt: skip


@pytest.mark.parametrize("case", EXPORTED)
def test_merged_models_of_other_families_pass_their_certificate(case: str, tokenizer: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    saved_model(CASES[case](), base)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / file, base / file)
    model = load_model(open_checkpoint(base), Loading(dtype=torch.float32))
    adapter = inject(model, LoraSpec(**({"rank": 4, "alpha": 8.0} | EXPORTED[case])))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_adapter(folder, adapter, base=str(base))
    gap = TABLED_GELU if case.startswith("gemma") else None
    record = export(folder, tmp_path / "out", to=Target.GGUF, quant="f32", gap=gap, compute=FLOAT32)
    assert record.parity is not None
    assert record.parity.tensors is not None
    assert record.parity.tensors.error == 0.0
    assert not list(tmp_path.glob("*.failed"))


@pytest.mark.parametrize("case", CASES)
def test_adapters_of_every_family_in_llama_cpp(case: str, tokenizer: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reference")
    _, checkpoint = saved_model(CASES[case](), tmp_path / "model")
    file = tmp_path / "model.gguf"
    write_file(file, checkpoint, tokenizer)
    model = load_model(checkpoint, Loading(dtype=torch.float32)).eval()
    targets = {"target_modules": ("q_proj", "k_proj", "v_proj", "o_proj")} if case in MIXTURES else {}
    adapter = inject(model, LoraSpec(rank=4, alpha=8.0, **targets))
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


def test_updates_of_experts_are_refused_as_an_adapter(tmp_path: Path) -> None:
    _, checkpoint = saved_model(CASES["mixtral"](), tmp_path / "model")
    model = load_model(checkpoint, Loading(dtype=torch.float32))
    adapter = inject(model, LoraSpec(rank=4, alpha=8.0, target_modules=("v_proj", "down_proj")))
    with pytest.raises(AdapterError, match=r"(?s)mlp\.experts.*an update of experts.*--to gguf"):
        write_gguf_adapter(tmp_path / "adapter.gguf", adapter, checkpoint.config)
    assert not (tmp_path / "adapter.gguf").exists()
