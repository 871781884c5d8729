"""LoRA updates of a mixture's experts, in the format of PEFT's `target_parameters`.

transformers holds a layer's experts as two parameters, `mlp.experts.gate_up_proj` and `mlp.experts.down_proj`. PEFT has
one pair of factors for each: A `[experts · rank, in]` and B `[out, rank · experts]` (`ExpertsLora` has the order). Gate
and up of an expert therefore share its A. PEFT's files do not name the parameter: the factors of the parameter that was
wrapped last are under `mlp.experts`, those of the other under `mlp.experts.base_layer`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from veneer.adapters.files.names import FACTOR_A, FACTOR_B
from veneer.adapters.module import SavesTrained
from veneer.adapters.targets import Names, expert_parameter, is_router, matches
from veneer.errors import AdapterError, listing
from veneer.model.experts import Experts, ExpertsLora, Routes, factors, halves
from veneer.model.language import ModelSpec
from veneer.model.mixture import DOWN, GATE_UP
from veneer.products import BaseLinear

_ONE_EXPERT = re.compile(r"\.experts\.\d+\..*\.lora_")
INNER = "base_layer."
"""PEFT's prefix of the factors of the parameter that was wrapped first, if both are wrapped."""


class ExpertFactors(nn.Module):
    """A and B of one parameter of all experts.

    Args:
        a: initial A, `[experts · rank, in]` float32.
        b: initial B, `[out, rank · experts]` float32.
        scale: factor of the update, usually alpha / rank.
    """

    def __init__(self, a: Tensor, b: Tensor, scale: float):
        super().__init__()
        self.lora_A, self.lora_B = nn.Parameter(a), nn.Parameter(b)
        self.scale = scale

    def lora(self) -> ExpertsLora:
        """The factors in the form that `Experts.forward` needs."""
        return ExpertsLora(self.lora_A, self.lora_B, self.scale)


class ExpertsUpdate(nn.Module, SavesTrained):
    """All experts of a layer with LoRA updates of their parameters (an `AdapterModule`).

    Args:
        base: the frozen experts.
        updates: at least one update, by parameter (`GATE_UP` or `DOWN`).
    """

    def __init__(self, base: Experts, updates: Mapping[str, ExpertFactors]):
        super().__init__()
        self.base = base
        self.updates = nn.ModuleDict(updates)
        self.enabled = True

    def _update(self, parameter: str) -> ExpertFactors | None:
        return cast(ExpertFactors, self.updates[parameter]) if parameter in self.updates else None

    def forward(self, x: Tensor, routes: Routes) -> Tensor:
        """The weighted sum of the experts' outputs, `[tokens, dim]`. See `Experts.forward`."""
        if not self.enabled:
            return cast(Tensor, self.base(x, routes))
        gate_up, down = self._update(GATE_UP), self._update(DOWN)
        return cast(
            Tensor,
            self.base(x, routes, None if gate_up is None else gate_up.lora(), None if down is None else down.lora()),
        )

    def trained(self) -> dict[str, nn.Parameter]:
        """A and B of each parameter. See `AdapterModule.trained`."""
        found: dict[str, nn.Parameter] = {}
        for parameter, prefix in prefixes(list(self.updates)).items():
            update = cast(ExpertFactors, self.updates[parameter])
            found |= {f"{prefix}{FACTOR_A}": update.lora_A, f"{prefix}{FACTOR_B}": update.lora_B}
        return found

    def merge_into(self, tensors: dict[str, Tensor]) -> None:
        """Add the update to weights of experts, by names `{number}.{linear}.weight`. See `AdapterModule.merge_into`."""
        for name, weight in tensors.items():
            number, linear, kind = name.split(".")
            update = self._update(DOWN if linear == "down_proj" else GATE_UP)
            if update is None or kind != "weight":
                continue
            a, b = (
                factor.detach().to(weight.dtype)
                for factor in factors(update.lora_A, update.lora_B, int(number), self.count)
            )
            if linear != "down_proj":
                b = halves(b, interleaved=self.base.interleaved)[0 if linear == "gate_proj" else 1]
            tensors[name] = torch.addmm(weight, b, a, alpha=update.scale)

    @property
    def count(self) -> int:
        """Number of experts of the layer."""
        return len(self.base)

    def merged(self) -> Iterator[tuple[str, Tensor]]:
        """Merged weights in float64, one at a time, with their names `{number}.{linear}.weight`."""
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
                self.merge_into(tensors)
                yield name, tensors[name]


def target_paths(linears: Sequence[str], spec: ModelSpec) -> list[str]:
    """The paths that an adapter can target, without embedding and head.

    They are linear layers; in a mixture also routers, and the experts' parameters instead of the experts' own layers.
    Modules come first, as PEFT draws their factors first.

    Args:
        linears: paths of the decoder's linear layers, with or without those of experts.
        spec: sizes of the model.
    """
    if spec.mixture is None:
        return list(linears)
    own = [path for path in linears if ".experts." not in path]
    return [*own, *spec.mixture.parameters(spec.num_layers), *spec.mixture.routers(spec.num_layers)]


def on_experts(targets: Sequence[str]) -> bool:
    """Whether any of these paths is a parameter of experts."""
    return any(expert_parameter(path) is not None for path in targets)


def on_feed_forward(targets: Sequence[str], spec: ModelSpec) -> bool:
    """Whether any of these paths is a router or a dense feed-forward layer of a mixture: parameters in PEFT too."""
    return spec.mixture is not None and any(".mlp." in path and expert_parameter(path) is None for path in targets)


def prefixes(parameters: Sequence[str]) -> dict[str, str]:
    """PEFT's prefix of the factors of each of these parameters of one layer's experts."""
    ordered = [parameter for parameter in (GATE_UP, DOWN) if parameter in parameters]
    return {parameter: INNER if parameter != ordered[-1] else "" for parameter in ordered}


def targets_for_peft(adapter_paths: Sequence[str], *, everywhere: bool) -> tuple[list[str], list[str]]:
    """PEFT's `target_modules` and `target_parameters` of an adapter on a mixture.

    Routers are not linear layers in transformers, so that their weights are targeted as parameters. So are the layers
    of a dense feed-forward block in a mixture, since PEFT takes `up_proj` for a name of experts.

    Args:
        adapter_paths: paths of all updates, with the experts' parameters.
        everywhere: whether all possible targets are among them, so that ends of paths are enough.
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


def refuse_single_experts(names: Iterable[str], directory: Path) -> None:
    """Refuse separate factors for each expert, on a mixture whose experts are one parameter in PEFT.

    Args:
        names: names of the adapter's tensors.
        directory: the folder of the adapter.

    Raises:
        AdapterError: there are such factors.
    """
    single = sorted({name.partition(".lora_")[0] for name in names if _ONE_EXPERT.search(name)})
    if single:
        raise AdapterError(
            f"{directory}: the adapter has separate factors for each expert, as PEFT made them with transformers "
            f"4:\n{listing(single)}\nOpen it with PEFT and transformers 5 and save it again "
            "(PeftModel.from_pretrained, save_pretrained); that writes one pair of factors for all experts of a layer"
        )


def refuse_router_biases(names: Iterable[str], directory: Path) -> None:
    """Refuse biases of routers, which PEFT trains with `bias: all` in addition to those of linear layers.

    The bias of a router that is saved whole is ignored here: the router itself is refused.

    Args:
        names: names of the adapter's tensors.
        directory: the folder of the adapter.

    Raises:
        AdapterError: there are such biases.
    """
    known = set(names)
    biases = sorted(
        name
        for name in known
        if name.endswith(".bias")
        and is_router(router := name.removesuffix(".bias"))
        and f"{router}.weight" not in known
    )
    if biases:
        raise AdapterError(
            f"{directory}: the adapter has trained biases of routers, as PEFT does with bias: all, but only biases of "
            f"linear layers can be read:\n{listing(biases)}\nTrain it with bias: lora_only, or merge it by PEFT "
            "(merge_and_unload, save_pretrained) and use the merged model"
        )


def paths_of_tensors(prefixes_found: Sequence[str], names: Names) -> list[str]:
    """The paths that an adapter updates, by the names of its tensors before `.lora_`.

    Args:
        prefixes_found: the names before `.lora_`, with PEFT's `base_layer` for a parameter that was wrapped first.
        names: the targets in the configuration. They say which parameter a single pair of factors of experts is for.

    Raises:
        AdapterError: the targets do not say it.
    """
    paths, unknown = [], []
    inner = INNER.removesuffix(".")
    for path in prefixes_found:
        if path.endswith(f".experts.{inner}"):
            paths.append(f"{path.removesuffix(inner)}{GATE_UP}")
        elif not path.endswith(".mlp.experts"):
            paths.append(path)
        elif f"{path}.{inner}" in prefixes_found:
            paths.append(f"{path}.{DOWN}")
        else:
            meant = [f"{path}.{parameter}" for parameter in (GATE_UP, DOWN) if matches(names, f"{path}.{parameter}")]
            paths += meant
            unknown += [] if meant else [path]
    if unknown:
        raise AdapterError(
            f"the adapter has factors for experts, but its target_parameters name none of the experts' parameters:\n"
            f"{listing(unknown)}"
        )
    return paths


def by_experts(paths: Sequence[str]) -> dict[str, list[str]]:
    """The experts' parameters among `paths`, by the path of the experts. Other paths are left out."""
    parameters: dict[str, list[str]] = {}
    for path in paths:
        parameter = expert_parameter(path)
        if parameter is not None:
            parameters.setdefault(path.removesuffix(f".{parameter}"), []).append(parameter)
    return parameters
