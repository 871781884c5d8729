"""Puts an adapter on a model: updates of layers, modules to save, biases and tokens; everything else is frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from veneer.adapters.adapter import Adapter
from veneer.adapters.exclusions import refuse_beyond_linear, refuse_on
from veneer.adapters.init import INITS, TargetLayer, embedding, undrawn
from veneer.adapters.layers.dora import DoraLinear
from veneer.adapters.layers.dropout import Dropout
from veneer.adapters.layers.embedding import LoraEmbedding, TokenEmbedding, TokenHead, TokenRows
from veneer.adapters.layers.experts import ExpertFactors, ExpertsUpdate, by_experts, target_paths
from veneer.adapters.layers.linear import LoraLinear, TrainedBias
from veneer.adapters.layers.modules_to_save import SavedModule, TrainedNormBias, trainable_copy
from veneer.adapters.layers.score import ScoreHead
from veneer.adapters.module import AdapterModule, ModulePlace
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import ALL_LINEAR, EMBEDDING, HEAD, expert_parameter, is_router
from veneer.enums import Bias, Factors, Init, Task, Variant
from veneer.errors import AdapterError
from veneer.model.experts import Experts
from veneer.model.language import LanguageModel
from veneer.model.leaves import DenseLinear, WideNorm
from veneer.products import BaseLinear
from veneer.tables import HoldsTable, TokenLookup


@dataclass(frozen=True, kw_only=True, slots=True)
class InitSources:
    """What the initialisation of an adapter may need in addition to the model."""

    original: Callable[[str], Tensor] | None = None
    """A function that reads a weight before quantisation, by its full name, in float32. LoftQ needs it."""
    directions: Mapping[str, Tensor] | None = None
    """EVA's directions `[rank, in_features]`, by path."""


def inject(
    model: LanguageModel,
    spec: LoraSpec,
    *,
    seed: int = 0,
    sources: InitSources | None = None,
    targets: Sequence[str] | None = None,
    drawn: bool = True,
) -> Adapter:
    """Replace modules of `model` by adapter modules around them, and freeze everything else.

    Args:
        model: the model, which is changed in place. Its weights stay where they are.
        spec: specification of the adapter.
        seed: seed of the initial factors and of dropout.
        sources: further inputs of the initialisation.
        targets: paths that get an update, from a caller that has resolved them and refused options that exclude each
            other. By default both are done here.
        drawn: whether A of KAIMING is drawn at random, and DoRA's magnitudes are measured. A caller that loads all
            tensors afterwards passes False and saves the time; until then they are uninitialised.

    Raises:
        AdapterError: settings contradict each other, name something that does not exist or exceed a layer's size, or
            the model already has an adapter; nothing has been changed.
    """
    if any(isinstance(module, LoraLinear | LoraEmbedding | TokenRows) for module in model.modules()):
        raise AdapterError("the model already has an adapter; load the base model again for another one")
    if targets is None:
        targets = _checked_targets(model, spec)
    mixture = model.spec.mixture is not None
    spec = replace(_spelled_out(spec, model), fan_in_fan_out=model.fan_in_fan_out, mixture=mixture)
    spec = spec.on_tied_model() if model.spec.tied_head else spec
    saved = spec.saved(module_paths(model), targets)
    spec.check_tokens(model.spec.vocab_size, tied=model.spec.tied_head, busy={*saved, *targets})
    spec.check_ranks({path: _limit(model, path) for path in targets})
    model.requires_grad_(False)
    maker = _Maker(
        model=model,
        spec=spec,
        draws=torch.Generator().manual_seed(seed),
        masks=torch.Generator(device=model.device).manual_seed(seed),
        sources=sources or InitSources(),
        drawn=drawn,
    )
    experts = by_experts(targets)
    starts = [(path, maker.update(path)) for path in targets if expert_parameter(path) is None]
    starts += [(path, maker.experts(path, parameters)) for path, parameters in experts.items()]
    modules: list[tuple[str, AdapterModule]] = []
    own: dict[str, AdapterModule] = {}
    for path, module in (*starts, *maker.biases(dict(starts), saved), *maker.saved(saved, targets), *maker.tokens()):
        if path in own and module.base is not own[path]:
            raise AssertionError(f"two modules of the adapter are at {path}, and one of them would have no effect")
        own[path] = module
        if isinstance(module, nn.Module):
            module.train(model.training)
            ModulePlace.of(model, path).put(module)
        modules.append((path, module))
    score = None
    if spec.task is Task.SEQ_CLS:
        score = ScoreHead.drawn(model.spec.hidden_size, maker.draws, model.device)
    return Adapter(spec, modules, maker.masks, score)


def _checked_targets(model: LanguageModel, spec: LoraSpec) -> list[str]:
    if not model.flat:
        refuse_beyond_linear(spec)
    targets = spec.targets(target_paths(model.linear_paths(), model.spec))
    refuse_on(spec, targets, model.spec)
    return targets


def _spelled_out(spec: LoraSpec, model: LanguageModel) -> LoraSpec:
    """The specification with whole paths for `all-linear`, if the last names of its layers match other modules too.

    An adapter is saved with last names.
    """
    if model.flat:
        return spec
    paths = model.linear_paths()
    leaves = {path.rpartition(".")[2] for path in paths}
    named = [path for path, _ in model.named_modules() if path.rpartition(".")[2] in leaves]
    if spec.target_modules != ALL_LINEAR or sorted(named) == sorted(paths):
        return spec
    return replace(spec, target_modules=tuple(paths))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Maker:
    """Makes the modules of an adapter. None of its functions changes the model."""

    model: LanguageModel
    spec: LoraSpec
    draws: torch.Generator
    masks: torch.Generator
    sources: InitSources
    drawn: bool

    def update(self, path: str) -> AdapterModule:
        """Make the update of a linear layer, of the head or of the embedding."""
        spec, device = self.spec, self.model.device
        rank, scale = spec.rank_of(path), spec.scale_of(path)
        base = self.model.get_submodule(path)
        if isinstance(base, TokenLookup):
            vocab, dim = base.table.shape
            a, b = embedding(rank, vocab, dim, self.draws)
            return LoraEmbedding(base, a.to(device), b.to(device), scale=scale, magnitudes=spec.variant is Variant.DORA)
        linear = cast(BaseLinear, base)
        # Neither a head nor a router is ever quantised, so that LoftQ has no error to correct.
        exact = path == HEAD or is_router(path)
        init = Init.KAIMING if spec.init is Init.LOFTQ and exact else spec.init
        start = (undrawn if init is Init.KAIMING and not self.drawn else INITS[init])(
            TargetLayer(
                path=path,
                in_features=linear.in_features,
                out_features=linear.out_features,
                rank=rank,
                scale=scale,
                generator=self.draws,
                weight=lambda: linear.dequantize(torch.float32).detach(),
                original=self._original(path, base),
                directions=None if self.sources.directions is None else self.sources.directions.get(path),
            )
        )
        layer = LoraLinear(
            linear,
            start.a.to(device),
            start.b.to(device),
            scale=scale,
            dropout=Dropout(probability=spec.dropout, generator=self.masks),
            factor_bias=torch.zeros(linear.out_features, device=device) if spec.factor_bias else None,
            subtracted=start.subtracted,
        )
        layer.lora_A.requires_grad_(spec.factors is Factors.BOTH)
        return DoraLinear(layer, measured=self.drawn) if spec.variant is Variant.DORA else layer

    def experts(self, path: str, parameters: list[str]) -> AdapterModule:
        """Make the updates of a layer's experts."""
        base, mixture = cast(Experts, self.model.get_submodule(path)), self.model.spec.mixture
        assert mixture is not None
        updates = {}
        for parameter in parameters:
            own = f"{path}.{parameter}"
            rank, scale, hidden = self.spec.rank_of(own), self.spec.scale_of(own), self.model.spec.hidden_size
            layer = TargetLayer(
                path=own,
                in_features=mixture.inputs_of(parameter, hidden),
                out_features=mixture.outputs_of(parameter, hidden),
                rank=rank * mixture.experts,
                scale=scale,
                generator=self.draws,
                weight=_no_weight,
            )
            start = INITS[self.spec.init](layer)
            # The standard deviation follows from the rank of one expert.
            a = start.a * mixture.experts if self.spec.init is Init.GAUSSIAN else start.a
            updates[parameter] = ExpertFactors(a.to(self.model.device), start.b.to(self.model.device), scale)
        return ExpertsUpdate(base, updates)

    def _original(self, path: str, base: nn.Module) -> Callable[[], Tensor] | None:
        read = self.sources.original
        if read is None or isinstance(base, DenseLinear):
            return None
        return lambda: read(f"{path}.weight").to(self.model.device)

    def biases(self, updates: Mapping[str, AdapterModule], saved: list[str]) -> Iterator[tuple[str, AdapterModule]]:
        """Make trained biases of the layers that have one, and of norms."""
        if self.spec.bias is Bias.NONE:
            return
        for path in self.model.linear_paths():
            layer = updates.get(path)
            if path in saved or (layer is None and self.spec.bias is Bias.LORA_ONLY):
                continue
            base = cast(BaseLinear, self.model.get_submodule(path) if layer is None else layer)
            if base.bias is not None:
                yield path, TrainedBias(base, adapted=layer is not None)
        if self.spec.bias is Bias.ALL:
            yield from self._norm_biases(saved)

    def _norm_biases(self, saved: list[str]) -> Iterator[tuple[str, AdapterModule]]:
        for path, norm in list(self.model.named_modules()):
            if isinstance(norm, WideNorm) and norm.bias is not None and path not in saved:
                yield path, TrainedNormBias(ModulePlace.of(self.model, path), norm)

    def saved(self, paths: list[str], targets: Sequence[str]) -> Iterator[tuple[str, AdapterModule]]:
        """Make copies of `modules_to_save`. A tied embedding is followed by its head, unless the head differs from it
        by an update or a copy of its own.
        """
        tied = self.model.spec.tied_head and self.spec.tied_modules and HEAD not in (*paths, *targets)
        for path in paths:
            base = self.model.get_submodule(path)
            own = trainable_copy(base, path)
            yield path, SavedModule(ModulePlace.of(self.model, path), base, own)
            if path == EMBEDDING and tied:
                head = self.model.get_submodule(HEAD)
                same = DenseLinear(own.get_parameter("weight"))
                yield HEAD, SavedModule(ModulePlace.of(self.model, HEAD), head, same, tied=True)

    def tokens(self) -> Iterator[tuple[str, AdapterModule]]:
        """Make trained token rows of the embedding, and of a head that is tied to it or has rows of its own."""
        chosen = self.spec.trainable_tokens
        if not chosen:
            return
        embedding_rows = None
        if EMBEDDING in chosen:
            base = cast(TokenLookup, self.model.get_submodule(EMBEDDING))
            embedding_rows = TokenRows(base.table, chosen[EMBEDDING])
            yield EMBEDDING, TokenEmbedding(base, embedding_rows)
        head = self.model.get_submodule(HEAD)
        if HEAD in chosen:
            own_rows = TokenRows(cast(HoldsTable, head).table, chosen[HEAD])
            yield HEAD, TokenHead(cast(BaseLinear, head), own_rows, tied=False)
        elif embedding_rows is not None and self.model.spec.tied_head:
            yield HEAD, TokenHead(cast(BaseLinear, head), embedding_rows, tied=True)


def module_paths(model: LanguageModel) -> list[str]:
    """Paths of the modules that hold weights of their own, in model order."""
    linears = set(model.linear_paths())
    return [
        path
        for path, module in model.named_modules()
        if path in linears or isinstance(module, HoldsTable) or next(module.parameters(recurse=False), None) is not None
    ]


def _no_weight() -> Tensor:
    raise AssertionError("experts' factors start without a look at the weights")


def _limit(model: LanguageModel, path: str) -> int:
    parameter, mixture = expert_parameter(path), model.spec.mixture
    if parameter is None or mixture is None:
        return _smaller_side(model.get_submodule(path))
    hidden = model.spec.hidden_size
    return min(mixture.inputs_of(parameter, hidden), mixture.outputs_of(parameter, hidden))


def _smaller_side(module: nn.Module) -> int:
    if isinstance(module, TokenLookup):
        return min(module.table.shape)
    return min(int(module.in_features), int(module.out_features))  # type: ignore[arg-type]
