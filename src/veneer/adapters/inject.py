"""Put adapters on a model: which layers, with what rank, and what came of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from veneer.adapters.init import kaiming
from veneer.adapters.linear import LoraLinear
from veneer.errors import AdapterError, listing, nearest
from veneer.model.decoder import CausalLM

ALL_LINEAR = "all-linear"
"""The `target_modules` that means every linear layer but the head."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSpec:
    """What an adapter is: the part of PEFT's `LoraConfig` that veneer trains."""

    rank: int
    alpha: float
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = ALL_LINEAR

    @property
    def scale(self) -> float:
        """The factor of the update, alpha / rank."""
        return self.alpha / self.rank


@dataclass(slots=True)
class Adapter:
    """The adapted layers of a model, by path, in the order of the model."""

    spec: LoraSpec
    layers: dict[str, LoraLinear]
    generator: torch.Generator = field(repr=False)
    """Source of the dropout masks; the training loop seeds it for every step."""

    def parameters(self) -> list[nn.Parameter]:
        """All trainable tensors, A and B of each layer in turn."""
        return [tensor for layer in self.layers.values() for tensor in (layer.lora_A, layer.lora_B)]

    def tensors(self) -> dict[str, Tensor]:
        """The weights under PEFT's module names: `{path}.lora_A.weight`, `{path}.lora_B.weight`."""
        named: dict[str, Tensor] = {}
        for path, layer in self.layers.items():
            named[f"{path}.lora_A.weight"] = layer.lora_A.detach()
            named[f"{path}.lora_B.weight"] = layer.lora_B.detach()
        return named

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Copy weights in, under the names of `tensors()`.

        Raises:
            AdapterError: names or shapes do not fit, or a value is not finite; every offender is named and nothing
                has been changed.
        """
        own = self.tensors()
        problems = [f"{name}: missing from the file" for name in own if name not in tensors]
        problems += [f"{name}: no such layer in the model" for name in tensors if name not in own]
        for name in own.keys() & tensors.keys():
            if own[name].shape != tensors[name].shape:
                problems.append(f"{name}: shape {list(tensors[name].shape)}, the model needs {list(own[name].shape)}")
            elif not bool(torch.isfinite(tensors[name]).all()):
                problems.append(f"{name}: holds NaN or infinite values")
        if problems:
            raise AdapterError(
                f"the adapter does not fit this model:\n{listing(sorted(problems))}\n"
                "Use it with the base model that it was trained on (see base_model_name_or_path in its "
                "adapter_config.json)."
            )
        for name, tensor in own.items():
            tensor.copy_(tensors[name])

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within the block the model is its base: every layer skips its update. Blocks may stand in one another."""
        before = [layer.enabled for layer in self.layers.values()]
        for layer in self.layers.values():
            layer.enabled = False
        try:
            yield
        finally:
            for layer, enabled in zip(self.layers.values(), before, strict=True):
                layer.enabled = enabled


def linear_paths(model: CausalLM) -> list[str]:
    """Paths of the linear layers that can carry an adapter, in model order (the head is not among them)."""
    suffixes = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    return [path for path, _ in model.named_modules() if path.rpartition(".")[2] in suffixes]


def resolve_targets(paths: Sequence[str], target_modules: str | Sequence[str]) -> list[str]:
    """The paths that `target_modules` means, in the order of `paths`.

    A string is `all-linear` or a regular expression for the whole path; a list holds layer names, each either a whole
    path or the end of one (`q_proj`, `self_attn.q_proj`), as in PEFT.

    Raises:
        AdapterError: the expression is invalid or matches nothing, or any name of the list matches nothing.
    """
    leaves = sorted({path.rpartition(".")[2] for path in paths})
    if isinstance(target_modules, str):
        if target_modules == ALL_LINEAR:
            return list(paths)
        try:
            pattern = re.compile(target_modules)
        except re.error as error:
            raise AdapterError(f"target_modules {target_modules!r} is not a regular expression: {error}") from error
        matched = [path for path in paths if pattern.fullmatch(path)]
        if not matched:
            raise AdapterError(
                f"target_modules {target_modules!r} matches no layer; it must match a whole path such as {paths[0]!r}. "
                f"To name layers, give a list of: {', '.join(leaves)}"
            )
        return matched
    unmatched = [name for name in target_modules if not any(_names(name, path) for path in paths)]
    if unmatched or not target_modules:
        offenders = listing(f"{name!r}{nearest(name, leaves)}" for name in unmatched)
        raise AdapterError(
            f"target_modules names layers that the model does not have:\n{offenders}\nIt has: {', '.join(leaves)}"
        )
    return [path for path in paths if any(_names(name, path) for name in target_modules)]


def _names(name: str, path: str) -> bool:
    return path == name or path.endswith("." + name)


def inject(model: CausalLM, spec: LoraSpec, *, seed: int = 0) -> Adapter:
    """Replace the target layers of `model` by `LoraLinear`s over them; everything else is frozen.

    Args:
        model: changed in place; its weights stay where they are.
        spec: rank, alpha, dropout and targets.
        seed: of the initial A.

    Raises:
        AdapterError: a target does not exist, the rank exceeds a target's smaller side, or the model carries an
            adapter already; nothing has been changed.
    """
    if any(isinstance(module, LoraLinear) for module in model.modules()):
        raise AdapterError("the model carries an adapter already; load the base model again for another one")
    paths = resolve_targets(linear_paths(model), spec.target_modules)
    limits = {path: _smaller_side(model.get_submodule(path)) for path in paths}
    too_wide = [f"{path}: at most {limit}" for path, limit in limits.items() if spec.rank > limit]
    if too_wide:
        raise AdapterError(f"rank {spec.rank} exceeds the smaller side of these layers:\n{listing(too_wide)}")
    model.requires_grad_(False)
    draws = torch.Generator().manual_seed(seed)
    masks = torch.Generator(device=model.device).manual_seed(seed)
    layers: dict[str, LoraLinear] = {}
    for path in paths:
        base = model.get_submodule(path)
        a, b = kaiming(base.in_features, base.out_features, spec.rank, draws)  # type: ignore[arg-type]
        layers[path] = LoraLinear(
            base,  # type: ignore[arg-type]
            a.to(model.device),
            b.to(model.device),
            scale=spec.scale,
            dropout=spec.dropout,
            generator=masks,
        )
        layers[path].train(model.training)
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layers[path])
    return Adapter(spec, layers, masks)


def remove(model: CausalLM, adapter: Adapter) -> None:
    """Put the base layers back where `inject` found them."""
    for path, layer in adapter.layers.items():
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer.base)


def _smaller_side(layer: nn.Module) -> int:
    return min(int(layer.in_features), int(layer.out_features))  # type: ignore[arg-type]
