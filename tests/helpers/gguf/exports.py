"""Random adapters to export as GGUF, and llama.cpp beside veneer on what was exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from helpers.models.tiny_models import packed_logits
from veneer.adapters.files.store import save_adapter
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.config import ComputeSection
from veneer.enums import Dtype
from veneer.exports.llama_cpp import opened
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)


def adapter_on(base: Path, folder: Path, seed: int = 0, **settings: Any) -> tuple[CausalLM, Path]:
    """A random adapter: the model with it, live, and its folder."""
    model = load_model(open_checkpoint(base), Loading(dtype=torch.float32)).eval()
    adapter = inject(model, LoraSpec(**({"rank": 4, "alpha": 8.0} | settings)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    folder.mkdir()
    save_adapter(folder, adapter, base=str(base))
    return model, folder


def gap_to(model: CausalLM, file: Path, prompt: list[int], *, adapter: Path | None = None) -> float:
    """The largest difference of llama.cpp's ten best log-probabilities to ours, along four greedy tokens."""
    with opened(file, context=256, adapter=adapter) as server:
        answer = server.continued(prompt, 4)
    with torch.no_grad():
        own = packed_logits(model, [[*prompt, *answer.tokens]]).double().log_softmax(-1)
    return max(
        abs(float(own[len(prompt) - 1 + at, token]) - value)
        for at, step in enumerate(answer.steps)
        for token, value in zip(step.ids, step.logprobs, strict=True)
    )
