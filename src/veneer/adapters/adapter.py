"""An adapter on a model: its modules by path, and what can be done with all of them together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from veneer.adapters.layers.dora import DoraLinear
from veneer.adapters.layers.embedding import TokenHead
from veneer.adapters.layers.experts import ExpertsUpdate
from veneer.adapters.layers.linear import LoraLinear
from veneer.adapters.layers.modules_to_save import SavedModule
from veneer.adapters.layers.rounded import RoundedFactors
from veneer.adapters.layers.score import SCORE_WEIGHT, ScoreHead
from veneer.adapters.module import AdapterModule, ModulePlace
from veneer.adapters.spec import LoraSpec
from veneer.errors import AdapterError, listing
from veneer.finite import all_finite
from veneer.model.language import Modules
from veneer.model.leaves import NormModule, WideNorm
from veneer.products import BaseLinear
from veneer.tables import TokenLookup, copied_table


@dataclass(slots=True)
class Adapter:
    """An adapter on a model. Its modules are in the order of the model; of two nested ones the inner is first."""

    spec: LoraSpec
    modules: list[tuple[str, AdapterModule]]
    generator: torch.Generator = field(repr=False)
    """Generator of the dropout masks. The training loop seeds it for every step."""
    score: ScoreHead | None = None
    """The head of a reward model, which is not a module of the language model."""
    _rounded: RoundedFactors | None = field(default=None, repr=False)

    @property
    def outermost(self) -> dict[str, AdapterModule]:
        """The outermost adapter module of every path."""
        return dict(self.modules)

    def updates(self) -> dict[str, LoraLinear]:
        """The low-rank updates of linear layers, by path."""
        found = [(path, part.lora if isinstance(part, DoraLinear) else part) for path, part in self.modules]
        return {path: part for path, part in found if isinstance(part, LoraLinear)}

    def round_ahead(self, dtype: torch.dtype) -> None:
        """Keep the factors of plain updates rounded to `dtype`, if it has 16 bits."""
        pairs = [update.pairs() for update in self._plain_updates()]
        if pairs and dtype.itemsize == 2:
            self._rounded = RoundedFactors(pairs, dtype)
            self.round_again()

    def round_again(self) -> None:
        """Round the factors as they are now, if they are kept rounded."""
        if self._rounded is not None:
            for update, rounded in zip(self._plain_updates(), self._rounded.refresh(), strict=True):
                update.rounded = rounded

    def _plain_updates(self) -> list[LoraLinear]:
        return [update for update in self.updates().values() if update.subtracted_a is None]

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """All trained parameters, by the names of `tensors()`."""
        found = {f"{path}.{name}": tensor for path, part in self.modules for name, tensor in part.trained().items()}
        return found if self.score is None else found | {SCORE_WEIGHT: self.score.weight}

    def parameters(self) -> list[nn.Parameter]:
        """All trained parameters."""
        return list(self.named_parameters().values())

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that are saved, by PEFT's names: `{path}.lora_A.weight`, `{path}.lora_B.weight`, …"""
        found = {f"{path}.{name}": tensor for path, part in self.modules for name, tensor in part.tensors().items()}
        return found if self.score is None else found | {SCORE_WEIGHT: self.score.weight.detach()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Copy weights in, by the names of `tensors()`.

        Raises:
            AdapterError: names or shapes do not fit, or a value is not finite; the message names every offender, and
                nothing has been changed.
        """
        own = self.tensors()
        problems = [f"{name}: missing from the file" for name in own if name not in tensors]
        problems += [f"{name}: no such layer in the model" for name in tensors if name not in own]
        for name in own.keys() & tensors.keys():
            if own[name].shape != tensors[name].shape:
                problems.append(f"{name}: shape {list(tensors[name].shape)}, the model needs {list(own[name].shape)}")
            elif not all_finite(tensors[name]):
                problems.append(f"{name}: holds NaN or infinite values")
        if problems:
            raise AdapterError(
                f"the adapter does not fit this model:\n{listing(sorted(problems))}\n"
                "Use it with the base model that it was trained on (see base_model_name_or_path in its "
                "adapter_config.json)."
            )
        for path, part in self.modules:
            part.load({name: tensors[f"{path}.{name}"] for name in part.tensors()})
        if self.score is not None:
            self.score.weight.detach().copy_(tensors[SCORE_WEIGHT])

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within the block the model is its base: every update is skipped. Blocks may be nested."""
        before = [part.enabled for _, part in self.modules]
        for _, part in self.modules:
            part.enabled = False
        try:
            yield
        finally:
            for (_, part), enabled in zip(self.modules, before, strict=True):
                part.enabled = enabled

    @property
    def keeps_tie(self) -> bool:
        """Whether a trained embedding and the head that is tied to it stay one weight."""
        return any(isinstance(part, TokenHead | SavedModule) and part.tied for _, part in self.modules)

    def base_of(self, path: str) -> nn.Module | None:
        """The base module that the adapter replaced at a path, or None if it replaced none."""
        for place, part in self.modules:
            if place == path:
                return cast(nn.Module, part.base)
            if isinstance(part, ExpertsUpdate) and path.startswith(f"{place}."):
                return part.base.get_submodule(path.removeprefix(f"{place}."))
        return None

    def merged(self) -> Iterator[tuple[str, Tensor]]:
        """Merged tensors: weight and bias of each module that the adapter changes, with the update in them.

        Yields the full name (`model.layers.0.self_attn.q_proj.weight`) and the tensor in float64, so that it is rounded
        only once, when it is written. Embedding and head of a tied model are two tensors here: unless `keeps_tie`, a
        change of one unties them.
        """
        found: dict[str, list[AdapterModule]] = {}
        for path, part in self.modules:
            found.setdefault(path, []).append(part)
        for path, parts in found.items():
            if isinstance(parts[0], ExpertsUpdate):
                # One expert at a time: all of them in float64 would need more memory than everything else.
                yield from ((f"{path}.{name}", tensor) for name, tensor in parts[0].merged())
                continue
            tensors = base_tensors(parts[0].base)
            for part in parts:
                part.merge_into(tensors)
            yield from ((f"{path}.{name}", tensor) for name, tensor in tensors.items())


def base_tensors(base: object) -> dict[str, Tensor]:
    """Weight and bias of a frozen module in float64; a quantised weight is decoded."""
    if isinstance(base, TokenLookup):
        return {"weight": copied_table(base.table, torch.float64)}
    if isinstance(base, NormModule):
        weight: Tensor = base.weight
        bias: Tensor | None = base.bias if isinstance(base, WideNorm) else None
    else:
        linear = cast(BaseLinear, base)
        weight, bias = linear.dequantize(torch.float32), linear.bias
    found = {"weight": weight.detach().double()}
    return found if bias is None else found | {"bias": bias.detach().double()}


def remove(model: Modules, adapter: Adapter) -> None:
    """Put the base modules back in their places."""
    for path, part in reversed(adapter.modules):
        part.enabled = False
        ModulePlace.of(model, path).put(cast(nn.Module, part.base))
