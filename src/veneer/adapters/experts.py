"""Updates of a mixture's experts, as PEFT stores what it calls `target_parameters`.

transformers holds a layer's experts as two parameters, `mlp.experts.gate_up_proj` and `mlp.experts.down_proj`, and PEFT
hangs one pair of factors beside each: A `[experts · rank, in]`, B `[out, rank · experts]` (`ExpertsLora` has the
order). Gate and up of an expert therefore share its A. In PEFT's files the factors of a parameter have no name of their
own: those of the parameter that was wrapped last stand under `mlp.experts`, those of the one before it under
`mlp.experts.base_layer`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from veneer.adapters.module import copy_in
from veneer.adapters.targets import Names, expert_parameter, means
from veneer.errors import AdapterError, listing
from veneer.model.decoder import BaseLinear
from veneer.model.experts import Experts, ExpertsLora, Routes, factors, halves
from veneer.model.language import ModelSpec
from veneer.model.mixture import DOWN, GATE_UP

INNER = "base_layer."
"""What PEFT puts before the factors of a parameter where another one is wrapped too."""


class ExpertFactors(nn.Module):
    """A and B of one parameter of all experts.

    Args:
        a: `[experts · rank, in]` float32.
        b: `[out, rank · experts]` float32.
        scale: alpha / rank.
    """

    def __init__(self, a: Tensor, b: Tensor, scale: float):
        super().__init__()
        self.lora_A, self.lora_B = nn.Parameter(a), nn.Parameter(b)
        self.scale = scale

    def lora(self) -> ExpertsLora:
        """As the experts take them."""
        return ExpertsLora(self.lora_A, self.lora_B, self.scale)


class ExpertsUpdate(nn.Module):
    """All experts of a layer with updates of their parameters (a `AdapterModule`).

    Args:
        base: the frozen experts.
        updates: by parameter, `GATE_UP` or `DOWN`; at least one.
    """

    def __init__(self, base: Experts, updates: Mapping[str, ExpertFactors]):
        super().__init__()
        self.base = base
        self.updates = nn.ModuleDict(updates)
        self.enabled = True

    def _update(self, parameter: str) -> ExpertFactors | None:
        return cast(ExpertFactors, self.updates[parameter]) if parameter in self.updates else None

    def forward(self, x: Tensor, routes: Routes) -> Tensor:
        """As `Experts.forward`, `[tokens, dim]`."""
        if not self.enabled:
            return cast(Tensor, self.base(x, routes))
        opened, closed = self._update(GATE_UP), self._update(DOWN)
        return cast(
            Tensor,
            self.base(x, routes, None if opened is None else opened.lora(), None if closed is None else closed.lora()),
        )

    def trained(self) -> dict[str, nn.Parameter]:
        """A and B of each parameter; see `AdapterModule`."""
        found: dict[str, nn.Parameter] = {}
        for parameter, prefix in prefixes(list(self.updates)).items():
            update = cast(ExpertFactors, self.updates[parameter])
            found |= {f"{prefix}lora_A.weight": update.lora_A, f"{prefix}lora_B.weight": update.lora_B}
        return found

    def tensors(self) -> dict[str, Tensor]:
        """The same; see `AdapterModule`."""
        return {name: tensor.detach() for name, tensor in self.trained().items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take them; see `AdapterModule`."""
        copy_in(self.tensors(), tensors)

    def fold(self, tensors: dict[str, Tensor]) -> None:
        """Add the update to weights of experts, given as `{number}.{linear}.weight`; see `AdapterModule`."""
        for name, weight in tensors.items():
            number, linear, kind = name.split(".")
            update = self._update(DOWN if linear == "down_proj" else GATE_UP)
            if update is None or kind != "weight":
                continue
            a, b = (
                part.detach().to(weight.dtype)
                for part in factors(update.lora_A, update.lora_B, int(number), self.count)
            )
            if linear != "down_proj":
                b = halves(b, interleaved=self.base.interleaved)[0 if linear == "gate_proj" else 1]
            tensors[name] = torch.addmm(weight, b, a, alpha=update.scale)

    @property
    def count(self) -> int:
        """Experts of the layer."""
        return len(self.base)

    def merged(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight that the update changes, with it, in float64: `{number}.{linear}.weight`, one at a time."""
        leaves = [
            leaf
            for parameter, own in ((GATE_UP, ("gate_proj", "up_proj")), (DOWN, ("down_proj",)))
            if parameter in self.updates
            for leaf in own
        ]
        for leaf in leaves:
            for number in range(self.count):
                linear = cast(BaseLinear, self.base.expert(number).get_submodule(leaf))
                name = f"{number}.{leaf}.weight"
                tensors = {name: linear.dequantize(torch.float32).detach().double()}
                self.fold(tensors)
                yield name, tensors[name]


def target_paths(linears: Sequence[str], spec: ModelSpec) -> list[str]:
    """What an adapter can go on, besides embedding and head: linear layers, and of a mixture parameters of experts in
    the place of the experts' own layers, and routers. Modules come first, as PEFT draws their factors first.

    Args:
        linears: paths of the decoder's linear layers, experts' own among them or not.
        spec: of the model.
    """
    if spec.mixture is None:
        return list(linears)
    own = [path for path in linears if ".experts." not in path]
    return [*own, *spec.mixture.parameters(spec.num_layers), *spec.mixture.routers(spec.num_layers)]


def on_experts(targets: Sequence[str]) -> bool:
    """Whether an adapter on these paths is one on experts."""
    return any(expert_parameter(path) is not None for path in targets)


def prefixes(parameters: Sequence[str]) -> dict[str, str]:
    """What PEFT writes before the factors of each of these parameters of one layer's experts."""
    ordered = [parameter for parameter in (GATE_UP, DOWN) if parameter in parameters]
    return {parameter: INNER if parameter != ordered[-1] else "" for parameter in ordered}


def written_targets(adapter_paths: Sequence[str], *, everywhere: bool) -> tuple[list[str], list[str]]:
    """`target_modules` and `target_parameters` for PEFT, of an adapter on a mixture.

    Routers are no linear layers in transformers, and their weight is targeted as a parameter. So is that of a dense
    feed-forward block among mixtures, since PEFT takes `up_proj` for the name that an expert's layer had.

    Args:
        adapter_paths: of all updates, experts by their parameters.
        everywhere: whether they are all that there are, so that the end of a path says enough.
    """
    modules, parameters = [], []
    for path in adapter_paths:
        short = ".".join(path.split(".")[3:]) if everywhere and path.startswith("model.layers.") else path
        if expert_parameter(path) is not None:
            parameters.append(short)
        elif ".mlp." in path:
            parameters.append(f"{short}.weight")
        else:
            modules.append(short.rpartition(".")[2] if everywhere else path)
    return sorted(set(modules)), sorted(set(parameters))


def read_targets(prefixes_found: Sequence[str], names: Names) -> list[str]:
    """Paths of what an adapter updates, from what stands before `.lora_` in the names of its tensors.

    Args:
        prefixes_found: with PEFT's `base_layer` for a parameter of experts that was wrapped first.
        names: the targets in its configuration, which say what a lone pair of factors of experts is for.

    Raises:
        AdapterError: they do not say so.
    """
    found, unknown = [], []
    inner = INNER.removesuffix(".")
    for path in prefixes_found:
        if path.endswith(f".experts.{inner}"):
            found.append(f"{path.removesuffix(inner)}{GATE_UP}")
        elif not path.endswith(".mlp.experts"):
            found.append(path)
        elif f"{path}.{inner}" in prefixes_found:
            found.append(f"{path}.{DOWN}")
        else:
            meant = [f"{path}.{parameter}" for parameter in (GATE_UP, DOWN) if means(names, f"{path}.{parameter}")]
            found += meant
            unknown += [] if meant else [path]
    if unknown:
        raise AdapterError(
            f"the adapter has factors for experts, and its target_parameters name no parameter of theirs:\n"
            f"{listing(unknown)}"
        )
    return found


def grouped(paths: Sequence[str]) -> dict[str, list[str]]:
    """Parameters of experts by the path of the experts that they are of; other paths are left out."""
    found: dict[str, list[str]] = {}
    for path in paths:
        parameter = expert_parameter(path)
        if parameter is not None:
            found.setdefault(path.removesuffix(f".{parameter}"), []).append(parameter)
    return found
