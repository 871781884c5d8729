"""SGD with momentum is torch's."""

from __future__ import annotations

import pytest
import torch

from helpers.training.tiny_parameters import gradients, parameters
from veneer.training.optimizers.base import RuleOptimizer
from veneer.training.optimizers.sgd import SGD

RATES = [0.1, 0.05, 0.2, 0.01, 0.1]


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_torch_in_float64(momentum: float, decay: float) -> None:
    """Matrices shrink before the step, which the decay does not enter otherwise."""
    ours, theirs = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    optimizer = RuleOptimizer(ours, SGD(momentum), weight_decay=decay)
    peer = torch.optim.SGD(theirs.values(), lr=1.0, momentum=momentum)
    for step, rate in enumerate(RATES):
        for name, grad in gradients(step, ours).items():
            ours[name].grad, theirs[name].grad = grad.clone(), grad.clone()
        optimizer.step(rate)
        with torch.no_grad():
            for each in theirs.values():
                each.mul_(1 - rate * decay if each.dim() > 1 else 1.0)
        peer.param_groups[0]["lr"] = rate
        peer.step()
    assert all(torch.allclose(p, theirs[name], rtol=1e-12, atol=1e-14) for name, p in ours.items())
