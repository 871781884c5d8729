"""One pass under several adapters has the gradients of separate passes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.models.tiny_models import documents, largest_difference, ours, packed_hidden, tiny_llama
from veneer.adapters.adapter_set import AdapterSet
from veneer.adapters.inject import inject
from veneer.adapters.layers.routed import Route
from veneer.adapters.spec import LoraSpec

TEXTS = documents([21, 8, 30, 1, 17, 25], seed=8)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize(
    "scales", [(2.0, 0.5, 2.0), (2.0, 0.7, 3.0), (0.0, 0.0, 0.0)], ids=["powers of two", "any", "nothing"]
)
def test_gradients_are_those_of_separate_passes(scales: tuple[float, ...], dropout: float, tmp_path: Path) -> None:
    model = ours(tiny_llama(), tmp_path / "base")
    adapters = AdapterSet(model)
    for number, scale in enumerate(scales):
        spec = LoraSpec(rank=4 + 2 * number, alpha=scale * (4 + 2 * number), dropout=dropout)
        adapter = inject(model, spec, seed=number)
        for parameter in adapter.parameters():
            parameter.data.copy_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel() + number))
            )
        adapters.adopt(str(number), adapter)
    model.train()
    texts = TEXTS[:3]

    def gradients(name: str) -> list[Tensor]:
        return [parameter.grad for parameter in adapters[name].parameters() if parameter.grad is not None]

    weights = [torch.randn(len(t), 64, generator=torch.Generator().manual_seed(len(t))) for t in texts]
    separate = []
    for number, (text, weight) in enumerate(zip(texts, weights, strict=True)):
        adapters.use(str(number))
        adapters[str(number)].generator.manual_seed(7)
        (packed_hidden(model, [text]) * weight).sum().backward()
        separate.append([gradient.clone() for gradient in gradients(str(number))])
        for parameter in adapters[str(number)].parameters():
            parameter.grad = None
    for number in range(3):
        adapters[str(number)].generator.manual_seed(7)
    with adapters.routed(["0", "1", "2"]) as route:
        route.lay(["0", "1", "2"], [len(text) for text in texts])
        (packed_hidden(model, texts) * torch.cat(weights)).sum().backward()
    for number, expected in enumerate(separate):
        found = gradients(str(number))
        assert len(found) == len(expected) == 2 * 14
        for own, exact in zip(found, expected, strict=True):
            assert largest_difference(own, exact) < 2e-6 * max(1.0, float(exact.abs().max()))


def test_a_pass_that_was_not_laid_is_refused() -> None:
    route = Route()
    route.lay(["a", "a", "b", "a"], [2, 3, 4, 1])
    assert [(span.name, span.start, span.stop) for span in route.over(10)] == [("a", 0, 5), ("b", 5, 9), ("a", 9, 10)]
    with pytest.raises(ValueError, match="11 tokens"):
        route.over(11)
