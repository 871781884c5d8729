"""AdamW with both moments in 8 bits (Dettmers et al., 2022, arXiv:2110.02861): 2 bytes a trained number instead of 8.

It follows bitsandbytes: blocks of 256, the signed map for the mean and the unsigned one for the mean square, a step
computed in float32 between decode and encode, and float32 state for small tensors and embeddings. Small tensors (some
are norms) cost nothing. In embeddings the rows of rare tokens have no gradient for a long time, and a square that was
rounded to zero with a mean that was not would make a step without bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from veneer.native.arguments import kernels_accept
from veneer.native.functions import CodedMoment
from veneer.native.library import kernels
from veneer.planning.optimizer import in_8_bits
from veneer.quant.dynamic import ELEMENTS_PER_SCALE, DynamicMap, decode, encode, scales_of, search
from veneer.training.optimizers.adamw import EPSILON, AdamW
from veneer.training.optimizers.base import Member, State, chunks, counter

MEAN, SQUARE = DynamicMap.SIGNED, DynamicMap.UNSIGNED
CODES = {MEAN: "exp_avg", SQUARE: "exp_avg_sq"}
SCALES = {MEAN: "exp_avg_absmax", SQUARE: "exp_avg_sq_absmax"}


@dataclass(frozen=True, slots=True)
class AdamW8bit:
    """The rule of AdamW over coded moments."""

    betas: tuple[float, float]

    def state(self, name: str, parameter: nn.Parameter) -> State:
        """The number of steps, codes and scales; AdamW's own state for small tensors and embeddings."""
        if not in_8_bits(name, parameter.shape):
            return AdamW(self.betas).state(name, parameter)
        scales = torch.zeros(scales_of(parameter.numel()), dtype=torch.float32, device=parameter.device)
        codes = torch.zeros_like(parameter, dtype=torch.uint8, requires_grad=False)
        kept = {"step": counter()}
        for which in (MEAN, SQUARE):
            kept |= {CODES[which]: codes.clone(), SCALES[which]: scales.clone()}
        return kept

    def update(self, members: Sequence[Member], rate: float, weight_decay: float) -> None:
        """Update coded members in a compiled pass, or chunk by chunk; the others in a fused pass."""
        exact = [member for member in members if SCALES[MEAN] not in member.state]
        if exact:
            AdamW(self.betas).update(exact, rate, weight_decay)
        for member in members:
            if SCALES[MEAN] in member.state:
                member.state["step"] += 1
                self._coded(member, rate, weight_decay)

    def _coded(self, member: Member, rate: float, weight_decay: float) -> None:
        step = float(member.state["step"])
        grad = member.grad.contiguous()
        shrink = 1 - rate * weight_decay
        corrected, root = rate / (1 - self.betas[0] ** step), 1 / math.sqrt(1 - self.betas[1] ** step)
        fast = kernels() if kernels_accept(member.parameter, grad) and grad.dtype is torch.float32 else None
        if fast is None:
            step_in_chunks(member.parameter, grad, member.state, self.betas, shrink, corrected, root)
            return
        mean, square = (_moment(member.state, which, grad.device) for which in (MEAN, SQUARE))
        fast.adamw8bit(member.parameter, grad, mean, square, self.betas, shrink, corrected, root, EPSILON)


def _moment(state: State, which: DynamicMap, device: torch.device) -> CodedMoment:
    tables = search(which, device)
    return CodedMoment(state[CODES[which]], state[SCALES[which]], tables.values, tables.below, tables.thresholds)


def step_in_chunks(
    parameter: nn.Parameter,
    grad: Tensor,
    state: State,
    betas: tuple[float, float],
    shrink: float,
    rate: float,
    root: float,
) -> None:
    """The step in torch's own operations: w ← shrink · w − rate · mean / (√square · root + ε).

    Args:
        parameter: the parameter, changed in place.
        grad: its gradient, contiguous.
        state: codes and scales, changed in place.
        betas: the decay rates of mean and square.
        shrink: the factor of the weights before the step.
        rate: the learning rate, including the mean's bias correction.
        root: the bias correction of the square, a factor of its root.
    """
    beta1, beta2 = betas
    weights, grads = parameter.view(-1), grad.view(-1)
    codes = {which: state[CODES[which]].view(-1) for which in (MEAN, SQUARE)}
    for part in chunks(parameter):
        blocks = slice(part.start // ELEMENTS_PER_SCALE, scales_of(part.stop))
        mean, square = (decode(codes[which][part], state[SCALES[which]][blocks], which) for which in (MEAN, SQUARE))
        mean.mul_(beta1).add_(grads[part], alpha=1 - beta1)
        square.mul_(beta2).addcmul_(grads[part], grads[part], value=1 - beta2)
        weights[part].mul_(shrink).addcdiv_(mean, square.sqrt().mul_(root).add_(EPSILON), value=-rate)
        encode(mean, MEAN, codes[MEAN][part], state[SCALES[MEAN]][blocks])
        encode(square, SQUARE, codes[SQUARE][part], state[SCALES[SQUARE]][blocks])
