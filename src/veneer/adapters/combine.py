"""Combining several adapters of one base into one: a plain LoRA in PEFT's format, made without the base.

The result equals that of PEFT's `add_weighted_adapter`, except where that is wrong or silent:

- For rsLoRA adapters PEFT keeps `use_rslora` and sets alpha to the rank, which scales the result by √rank. Here the
  scale of the result is 1.
- PEFT ignores trained biases, trained tokens, DoRA's magnitudes and `modules_to_save` (unless two adapters save one and
  the same module). Here they are refused, since the result would not be their combination.
- PEFT always adds a single adapter linearly. Here it is pruned, or decomposed to a smaller rank, as requested.
- PEFT loses rank patterns in the saved configuration, and compares the largest ranks. Here ranks are compared layer by
  layer, and the result has its own pattern.
- In PEFT a density of 0 makes DARE divide by it, and a missing weight leaves an adapter out. Both are refused here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from veneer.adapters.adapter import Adapter
from veneer.adapters.arithmetic import CombinationType, Majority, Update, UpdateSum
from veneer.adapters.files.names import EMBEDDING_A, EMBEDDING_B, FACTOR_A, FACTOR_B, FACTOR_PAIRS
from veneer.adapters.files.peft_config import SAVE_CONVERTED, is_plain
from veneer.adapters.files.store import CONFIG_FILE, check_expressions, read_spec, read_tensors
from veneer.adapters.init import INITS, TargetLayer, embedding
from veneer.adapters.module import AdapterModule, copy_tensors
from veneer.adapters.overflow import check_updates
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import layer_number, matches
from veneer.enums import Bias, Init, Scaling, Variant
from veneer.errors import AdapterError, listing
from veneer.finite import all_finite


@dataclass(frozen=True, kw_only=True, slots=True)
class Combination:
    """Settings of a combination of adapters."""

    kind: CombinationType = CombinationType.SVD
    density: float | None = None
    """Share of the elements that are kept, above 0 and at most 1; for the kinds that prune or drop."""
    majority: Majority = Majority.TOTAL
    """Rule by which TIES elects a sign (PEFT's `majority_sign_method`)."""
    rank: int | None = None
    """Rank of the result, for the kinds by SVD; None means the largest rank of the adapters."""
    seed: int = 0
    """Seed of DARE's random draws, equal to PEFT's after `torch.manual_seed(seed)`."""


@dataclass(frozen=True, slots=True)
class WeightedAdapter:
    """An adapter with its weight in a combination."""

    name: str
    """The name of the adapter in messages."""
    spec: LoraSpec
    tensors: Mapping[str, Tensor]
    """Its tensors in float32, by the names of `Adapter.tensors()`."""
    weight: float = 1.0

    @classmethod
    def read(cls, folder: Path, weight: float = 1.0) -> WeightedAdapter:
        """Read a saved adapter.

        Raises:
            AdapterError: it cannot be read.
        """
        spec = read_spec(folder)
        tensors = read_tensors(folder)
        check_expressions(spec, tensors, folder)
        return cls(str(folder), spec, tensors, weight)

    def paths(self) -> list[str]:
        """Paths of its updates, in no particular order."""
        return [
            name.partition(".lora_")[0] for name in self.tensors if name.endswith((f".{FACTOR_A}", f".{EMBEDDING_A}"))
        ]

    def update(self, path: str) -> Update | None:
        """Its update at a path, or None."""
        for first, second in FACTOR_PAIRS:
            if f"{path}.{first}" in self.tensors:
                a, b = self.tensors[f"{path}.{first}"], self.tensors[f"{path}.{second}"]
                return Update(a, b, self.spec.scale_of(path), self.weight, turned=first == EMBEDDING_A)
        return None

    def faults(self) -> list[str]:
        """Contents of the adapter that cannot be combined."""
        spec = self.spec
        faulty = {
            "DoRA's magnitudes: the update is not a sum with the weight": spec.variant is Variant.DORA,
            "modules that are saved whole": bool(spec.modules_to_save),
            "trained tokens": bool(spec.trainable_tokens),
            "trained biases": spec.bias is not Bias.NONE,
            "a bias of B's (lora_bias)": spec.factor_bias,
            "updates of experts, whose factors belong to many matrices": any(
                path.endswith((".experts", ".experts.base_layer")) for path in self.paths()
            ),
            f"init_lora_weights {spec.init.value!r}, which takes its start from the base; "
            f"{SAVE_CONVERTED}": not is_plain(spec),
        }
        faults = [text for text, present in faulty.items() if present]
        known = {f"{path}.{name}" for path in self.paths() for name in (*chain.from_iterable(FACTOR_PAIRS), _COPY)}
        if not faults:
            faults += [f"{name}: no update" for name in self.tensors if name not in known]
            faults += self._rank_faults()
        if not self.tensors:
            faults.append("no tensors")
        return [f"{self.name} has {fault}" for fault in faults]

    def _rank_faults(self) -> list[str]:
        """Updates with a missing factor, or with a rank other than the one that the configuration scales them by."""
        faults = []
        for path in self.paths():
            pairs = ((f"{path}.{first}", f"{path}.{second}") for first, second in FACTOR_PAIRS)
            first, second = next(pair for pair in pairs if pair[0] in self.tensors)
            a, b, rank = self.tensors[first], self.tensors.get(second), self.spec.rank_of(path)
            if b is None:
                faults.append(f"{first} and no {second}")
            elif (len(a), b.shape[-1]) != (rank, rank):
                shapes = f"{list(a.shape)} and {list(b.shape)}"
                faults.append(f"{path}: factors of shapes {shapes}, but {CONFIG_FILE} says rank {rank}")
        return faults


_COPY = "base_layer.weight"
"""End of the name of a base weight that PEFT writes together with an update of the embedding or the head."""
_ORDER = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "self_attn.qkv_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.gate_up_proj", "mlp.down_proj"),
)
"""Linear layers in the order of the model, which is the order of PEFT's draws. Phi-3, whose projections are fused, has
the output's first."""


class DetachedUpdate:
    """An update without a module: the result of a combination. See `AdapterModule`."""

    def __init__(self, a: Tensor, b: Tensor, *, embedding: bool):
        names = (EMBEDDING_A, EMBEDDING_B) if embedding else (FACTOR_A, FACTOR_B)
        self.enabled = False
        self.base = None
        self._named = dict(zip(names, (a, b), strict=True))
        self._turned = embedding

    def trained(self) -> dict[str, nn.Parameter]:
        """No parameters."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """A and B, by PEFT's names."""
        return dict(self._named)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Copy in A and B."""
        copy_tensors(self._named, tensors)

    def merge_into(self, tensors: dict[str, Tensor]) -> None:
        """Add B A to the weight."""
        a, b = (tensor.to(tensors["weight"].dtype) for tensor in self._named.values())
        tensors["weight"] = tensors["weight"] + ((b @ a).t() if self._turned else b @ a)


def combine_adapters(adapters: Sequence[WeightedAdapter], how: Combination) -> Adapter:
    """Combine adapters into one plain LoRA.

    Args:
        adapters: at least one adapter, all of one base.
        how: settings of the combination.

    Returns:
        An adapter on no model; `veneer.adapters.files.store.save_adapter` writes it.

    Raises:
        AdapterError: the adapters cannot be combined in this way; the message gives every reason.
    """
    _check_settings(adapters, how)
    updates = _updates(adapters)
    _check_shapes(updates, how.kind)
    for adapter in adapters:
        check_updates(adapter.tensors, adapter.spec.scale_of, adapter.name)
    rank = how.rank or max(max(a.spec.rank, *a.spec.rank_pattern.values(), 0) for a in adapters)
    generator = torch.Generator().manual_seed(how.seed)
    if how.kind.drops:
        _draw_as_a_new_adapter(updates, rank, adapters[0].spec.init, generator)
    modules: list[tuple[str, AdapterModule]] = []
    density = 1.0 if how.density is None else how.density
    adding = UpdateSum(kind=how.kind, generator=generator, density=density, majority=how.majority, rank=rank)
    for path, at_path in updates.items():
        try:
            a, b = adding.of(at_path)
        except OverflowError as error:
            weights = ", ".join(f"{update.weight:g}" for update in at_path)
            raise AdapterError(
                f"these adapters cannot be combined:\n{listing([f'{path}: times {weights} they leave float32'])}\n"
                "Give smaller weights."
            ) from error
        modules.append((path, DetachedUpdate(a, b, embedding=at_path[0].turned)))
    result = Adapter(_spec(adapters, {path: module.tensors() for path, module in modules}), modules, generator)
    check_updates(result.tensors(), result.spec.scale_of, "the combination")
    return result


def _updates(adapters: Sequence[WeightedAdapter]) -> dict[str, list[Update]]:
    """The updates of every path, in the order of the model."""
    paths = {path for adapter in adapters for path in adapter.paths()}
    updates = {path: [update for adapter in adapters if (update := adapter.update(path))] for path in paths}
    return dict(sorted(updates.items(), key=lambda item: _place(item[0], item[1][0])))


def _spec(adapters: Sequence[WeightedAdapter], tensors: Mapping[str, Mapping[str, Tensor]]) -> LoraSpec:
    """Specification of a plain LoRA of scale 1, with the ranks of the result."""
    ranks = {path: next(iter(named.values())).shape[0] for path, named in tensors.items()}
    ((rank, _),) = Counter(ranks.values()).most_common(1)
    deviating = {path: own for path, own in ranks.items() if own != rank}
    return LoraSpec(
        rank=rank,
        alpha=float(rank),
        target_modules=_targets(adapters, list(tensors)),
        rank_pattern=deviating,
        alpha_pattern={path: float(own) for path, own in deviating.items()},
        scaling=Scaling.STANDARD,
        fan_in_fan_out=any(adapter.spec.fan_in_fan_out for adapter in adapters),
        mixture=any(adapter.spec.mixture for adapter in adapters),
    )


def _targets(adapters: Sequence[WeightedAdapter], paths: list[str]) -> tuple[str, ...]:
    """The targets as names if every adapter has only names, plus the paths that no name covers (a head that an adapter
    ties to its embedding); otherwise whole paths.
    """
    names: list[str] = []
    for adapter in adapters:
        spec = adapter.spec
        if isinstance(spec.target_modules, str) or spec.exclude_modules or spec.layers_to_transform is not None:
            return tuple(paths)
        names += spec.target_modules
    return tuple(dict.fromkeys((*names, *(path for path in paths if not matches(names, path)))))


def _place(path: str, update: Update) -> tuple[int, int, int, str]:
    """Sorts paths as the model has them."""
    number = layer_number(path)
    if number is None:
        return (0 if update.turned else 2, 0, 0, path)
    index = next((index for index, end in enumerate(_ORDER) if path.endswith(end)), len(_ORDER))
    return (1, number, index, path)


def _draw_as_a_new_adapter(
    updates: Mapping[str, Sequence[Update]], rank: int, init: Init, generator: torch.Generator
) -> None:
    """Make the draws by which PEFT initialises the new adapter, so that DARE's draws after them are PEFT's too."""
    for path, at_path in updates.items():
        out_features, in_features = at_path[0].b.shape[0], at_path[0].a.shape[1]
        if at_path[0].turned:
            embedding(rank, in_features, out_features, generator)
            continue
        start = INITS[init if init in (Init.GAUSSIAN, Init.ORTHOGONAL) else Init.KAIMING]
        start(
            TargetLayer(
                path=path,
                in_features=in_features,
                out_features=out_features,
                rank=rank,
                scale=1.0,
                generator=generator,
                weight=lambda: torch.empty(0),
            )
        )


def _check_settings(adapters: Sequence[WeightedAdapter], how: Combination) -> None:
    kind, problems = how.kind, [fault for adapter in adapters for fault in adapter.faults()]
    if not adapters:
        problems.append("there is no adapter; give at least one")
    problems += [f"{a.name}: weight {a.weight}, must be finite" for a in adapters if not math.isfinite(a.weight)]
    if kind.sparse and how.density is None:
        problems.append(f"{kind.value} needs a density: the share of the elements to keep, above 0 and at most 1")
    elif how.density is not None and not kind.sparse:
        problems.append(f"{kind.value} has no density: it keeps all elements")
    elif how.density is not None and not 0 < how.density <= 1:
        problems.append(f"density: {how.density}, must be above 0 and at most 1")
    if how.majority is not Combination().majority and not kind.elects:
        problems.append(f"{kind.value} has no majority: it elects no signs; choose one of the kinds of TIES")
    if not 0 <= how.seed < 2**31:
        problems.append(f"seed: {how.seed}, must be at least 0 and below 2^31")
    elif how.seed and not kind.drops:
        problems.append(f"{kind.value} has no seed: it draws nothing; choose one of the kinds of DARE")
    if how.rank is not None and not kind.by_svd:
        problems.append(
            f"{kind.value} has no rank setting: the rank follows from the adapters; choose one of the kinds by svd"
        )
    elif how.rank is not None and how.rank < 1:
        problems.append(f"rank: {how.rank}, must be at least 1")
    if problems:
        raise AdapterError(f"these adapters cannot be combined:\n{listing(problems)}")


def _check_shapes(updates: Mapping[str, Sequence[Update]], kind: CombinationType) -> None:
    problems = []
    for path, at_path in updates.items():
        sizes = {(update.b.shape[0], update.a.shape[1]) for update in at_path}
        ranks = sorted({update.rank for update in at_path})
        if len({update.turned for update in at_path}) > 1:
            problems.append(f"{path}: an embedding in one and a linear layer in another: adapters of different bases")
        elif len(sizes) > 1:
            problems.append(f"{path}: weights of {' and '.join(map(str, sorted(sizes)))}: adapters of different bases")
        elif kind.by_factors and len(ranks) > 1:
            problems.append(f"{path}: ranks {', '.join(map(str, ranks))}, which {kind.value} cannot add")
        if not all(all_finite(update.a) and all_finite(update.b) for update in at_path):
            problems.append(f"{path}: NaN or infinite values")
    if problems:
        raise AdapterError(
            f"these adapters cannot be combined:\n{listing(problems)}\n"
            "Kinds that add factors need equal ranks; cat and the kinds by svd accept any."
        )
