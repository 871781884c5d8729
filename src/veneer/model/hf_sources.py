"""Which tensors in files make the tensors of a model of transformers, and how, by transformers' own rules."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from veneer.errors import ModelError, listing


@dataclass(frozen=True, slots=True)
class TensorSources:
    """The tensors in files that a tensor of the model is made from."""

    names: tuple[str, ...]
    """Names of the tensors in the files, in order."""
    make: Callable[[Sequence[Callable[[], Tensor]]], Tensor] | None = None
    """Converts them, given functions that read each; None if the model's tensor is the file's."""


def find_sources(module: Any, names: Iterable[str]) -> dict[str, TensorSources]:
    """Match the tensors of a model with those in files, by transformers' own rules.

    The rules know prefixes, names that have changed, and experts that are one tensor in memory and many in files.

    Args:
        module: the module of a skeleton.
        names: names of the tensors in the files.

    Raises:
        ModelError: the files lack tensors of the model; all are named.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    rules = get_model_conversion_mapping(module)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    wanted = module.state_dict()
    found: dict[str, list[tuple[str, str | None]]] = {}
    for name in sorted(names, key=dot_natural_key):
        own, pattern = rename_source_key(name, renamings, converters, module.base_model_prefix, wanted)
        if own not in wanted and name in wanted:
            own, pattern = name, None
        if own in wanted:
            found.setdefault(own, []).append((name, pattern))
    sources = {}
    for own, parts in found.items():
        pattern = parts[-1][1]
        if pattern is None:
            sources[own] = TensorSources((parts[-1][0],))
            continue
        rule, files = by_pattern[pattern], tuple(name for name, _ in parts)
        for target in rule.target_patterns:
            # Where there are several targets, the first names the group.
            name = own.replace(rule.target_patterns[0], target)
            if name in wanted:
                sources[name] = TensorSources(files, _maker(module, rule, own, name, parts))
    missing = [name for name in _needed(module) if name not in sources]
    if missing:
        raise ModelError(
            f"{type(module).__name__} of transformers needs tensors that the model's files do not have:\n"
            f"{listing(missing)}"
        )
    return sources


def _maker(
    module: Any, rule: Any, own: str, wanted: str, parts: Sequence[tuple[str, str | None]]
) -> Callable[[Sequence[Callable[[], Tensor]]], Tensor]:
    def make(reads: Sequence[Callable[[], Tensor]]) -> Tensor:
        converter = copy.deepcopy(rule)
        for (name, pattern), read in zip(parts, reads, strict=True):
            converter.add_tensor(own, name, pattern, read)
        made = converter.convert(own, model=module, config=module.config)[wanted]
        tensor: Tensor = made[0] if isinstance(made, list) else made
        return tensor.contiguous()

    return make


def _needed(module: Any) -> Iterator[str]:
    """Names of the weights that must exist. A tied weight is needed only under the name that its others follow."""
    tied = module.all_tied_weights_keys or {}
    yield from (tied.get(name, name) for name, _ in module.named_parameters())


def keeps_float32(module: Any) -> Callable[[str], bool]:
    """A test by name: whether transformers keeps a tensor in float32, regardless of the dtype of the weights."""
    strict = module._keep_in_fp32_modules_strict or ()
    return lambda name: any(part == name or f".{part}." in f".{name}." for part in strict)
