"""AdamW with both moments in 8 bits (Dettmers et al., 2022, arXiv:2110.02861): 2 bytes a trained number instead of 8.

As bitsandbytes does it: blocks of 256, the signed map for the mean and the unsigned one for the mean square, a step
computed in float32 between decode and encode, and float32 state where a tensor is small or an embedding. Small ones
because they cost nothing (and there are norms among them); embeddings because the rows of rare tokens go without a
gradient for long, and a square that was rounded to zero beside a mean that was not is a step without bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from veneer.plan.optimizer import in_8_bits
from veneer.quant.dynamic import BLOCK, DynamicMap, decode, encode, scales_of
from veneer.training.optimizers.adamw import EPSILON, AdamW
from veneer.training.optimizers.base import Member, State, chunks, counter

MEAN, SQUARE = DynamicMap.SIGNED, DynamicMap.UNSIGNED


@dataclass(frozen=True, slots=True)
class AdamW8bit:
    """The rule of AdamW over coded moments."""

    betas: tuple[float, float]

    def state(self, name: str, parameter: nn.Parameter) -> State:
        """Steps, codes and scales; AdamW's own state for small tensors and embeddings."""
        if not in_8_bits(name, parameter.shape):
            return AdamW(self.betas).state(name, parameter)
        scales = torch.zeros(scales_of(parameter.numel()), dtype=torch.float32, device=parameter.device)
        codes = torch.zeros_like(parameter, dtype=torch.uint8, requires_grad=False)
        return {
            "step": counter(),
            "exp_avg": codes,
            "exp_avg_absmax": scales,
            "exp_avg_sq": codes.clone(),
            "exp_avg_sq_absmax": scales.clone(),
        }

    def update(self, members: Sequence[Member], rate: float, weight_decay: float) -> None:
        """The coded ones a chunk at a time, the others fused."""
        exact = [member for member in members if "exp_avg_absmax" not in member.state]
        if exact:
            AdamW(self.betas).update(exact, rate, weight_decay)
        for member in members:
            if "exp_avg_absmax" in member.state:
                self._step(member, rate, weight_decay)

    def _step(self, member: Member, rate: float, weight_decay: float) -> None:
        beta1, beta2 = self.betas
        member.state["step"] += 1
        step = float(member.state["step"])
        corrected, root = 1 - beta1**step, math.sqrt(1 - beta2**step)
        weights, grads = member.parameter.view(-1), member.grad.reshape(-1)
        codes = [member.state[kind].view(-1) for kind in ("exp_avg", "exp_avg_sq")]
        scales = [member.state[kind] for kind in ("exp_avg_absmax", "exp_avg_sq_absmax")]
        for part in chunks(member.parameter):
            blocks = slice(part.start // BLOCK, scales_of(part.stop))
            grad = grads[part]
            mean = decode(codes[0][part], scales[0][blocks], MEAN).mul_(beta1).add_(grad, alpha=1 - beta1)
            square = decode(codes[1][part], scales[1][blocks], SQUARE).mul_(beta2)
            square.addcmul_(grad, grad, value=1 - beta2)
            weights[part].mul_(1 - rate * weight_decay)
            weights[part].addcdiv_(mean, square.sqrt().div_(root).add_(EPSILON), value=-rate / corrected)
            encode(mean, MEAN, codes[0][part], scales[0][blocks])
            encode(square, SQUARE, codes[1][part], scales[1][blocks])
