"""LoRA+ has the groups of PEFT's optimiser, and its steps."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from torch import Tensor, nn

from veneer.training.optimizers.adamw import AdamW
from veneer.training.optimizers.base import RuleOptimizer
from veneer.training.optimizers.loraplus import EMBEDDING_RATE, rate_factors

PEAK, RATIO = 3e-3, 16.0


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(11, 8)
        self.up_proj = nn.Linear(8, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.up_proj(self.embed_tokens(tokens))))  # type: ignore[no-any-return]


def adapted(*, dora: bool = False) -> PeftModel:
    torch.manual_seed(0)
    targets = ["up_proj"] if dora else ["up_proj", "embed_tokens"]
    config = LoraConfig(r=2, target_modules=targets, bias="all", modules_to_save=["norm", "head"], use_dora=dora)
    return get_peft_model(Net(), config)


def named(model: PeftModel) -> dict[str, nn.Parameter]:
    """Trainable parameters by the names of PEFT's files."""
    return {
        name.removeprefix("base_model.model.").replace(".default", "").replace(".modules_to_save", ""): p
        for name, p in model.named_parameters()
        if p.requires_grad
    }


@pytest.mark.parametrize("dora", [False, True])
def test_groups_and_steps_are_those_of_peft(dora: bool) -> None:
    ours, theirs = named(adapted(dora=dora)), adapted(dora=dora)
    optimizer = RuleOptimizer(
        ours, AdamW((0.9, 0.999)), weight_decay=0.0, rates=rate_factors(ours, ratio=RATIO, learning_rate=PEAK)
    )
    peer = create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=PEAK, loraplus_lr_ratio=RATIO, eps=1e-8)
    peaks = [group["lr"] for group in peer.param_groups]
    start = {name: p.detach().clone() for name, p in ours.items()}
    for step, share in enumerate((0.5, 1.0, 0.7, 0.1)):
        generator = torch.Generator().manual_seed(step)
        for name, p in named(theirs).items():
            p.grad = torch.randn(p.shape, generator=generator)
            ours[name].grad = p.grad.clone()
        for group, peak in zip(peer.param_groups, peaks, strict=True):
            group["lr"] = share * peak
        optimizer.step(share * PEAK)
        peer.step()
    for name, p in named(theirs).items():
        # By what was moved, since the embedding's factors move by millionths.
        assert torch.allclose(ours[name] - start[name], p - start[name], rtol=1e-3, atol=1e-9), name
    assert any(name.endswith("lora_magnitude_vector.weight") for name in ours) is dora


def test_what_gets_the_ratio() -> None:
    shapes = {
        "layers.0.q_proj.lora_A.weight": (2, 8), "layers.0.q_proj.lora_B.weight": (8, 2),
        "layers.0.q_proj.lora_B.bias": (8,), "layers.0.q_proj.lora_magnitude_vector": (8,),
        "embed_tokens.lora_embedding_A": (2, 9), "embed_tokens.lora_embedding_B": (8, 2),
        "lm_head.weight": (9, 8), "norm.weight": (8,),
    }  # fmt: skip
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    tiny = EMBEDDING_RATE / PEAK
    found = rate_factors(tensors, ratio=RATIO, learning_rate=PEAK)
    assert list(found.values()) == [1.0, RATIO, RATIO, RATIO, tiny, tiny, 1.0, RATIO]
    assert set(rate_factors(tensors, ratio=1.0, learning_rate=PEAK).values()) == {1.0}
