"""The specification of a saved adapter by its tensors: which paths it updates, and which modules it has whole.

The configuration only has the requested names, which may match more, or less, in another model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path

from veneer.adapters.files.names import FACTOR_B_BIAS, FACTOR_PAIRS, MAGNITUDE, TOKEN_ROWS
from veneer.adapters.files.peft_config import is_plain
from veneer.adapters.files.store import WEIGHTS_FILE
from veneer.adapters.layers.experts import paths_of_tensors
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import EMBEDDING, HEAD, Value, value_of_pattern, with_parents
from veneer.enums import Init
from veneer.errors import AdapterError, listing

_UPDATES = tuple(
    f".{name}" for name in (*chain.from_iterable(FACTOR_PAIRS), FACTOR_B_BIAS, MAGNITUDE, TOKEN_ROWS, "base_layer.bias")
)
"""Ends of the names of an adapter's tensors, without those of `modules_to_save`."""
_COPIES = (".base_layer.weight", ".modules_to_save.weight", ".original_module.weight")
"""Ends of the names under which PEFT writes weights of the base, or trained tensors a second time."""


def spec_of_tensors(names: Iterable[str], spec: LoraSpec, directory: Path) -> LoraSpec:
    """The specification with targets, ranks and saved modules by whole paths, as the names of the tensors show them.

    Args:
        names: the names of the tensors, as in `read_tensors`.
        spec: the specification in the configuration.
        directory: the folder of the adapter.

    Raises:
        AdapterError: the name of a tensor is unknown.
    """
    own = [name for name in names if not name.endswith(_COPIES)]
    named = dict.fromkeys(
        name.rpartition(".lora_")[0] for name in own if ".lora_A." in name or ".lora_embedding_A" in name
    )
    updates = paths_of_tensors(list(named), spec.target_modules)
    rest = [name for name in own if not name.endswith(_UPDATES)]
    whole = dict.fromkeys(name.removesuffix(".weight") for name in rest if name.endswith(".weight"))
    # In PEFT a name matches every path that ends in it, with or without a dot: `norm` matches every norm. A module's
    # name stands for all modules in it.
    saved = {path: None for path in whole if is_saved(spec, path)}
    strange = [name for name in rest if not name.endswith((".weight", ".bias"))]
    if strange:
        raise AdapterError(f"{directory / WEIGHTS_FILE} has tensors of unknown kinds:\n{listing(strange)}")
    if spec.tied_modules and EMBEDDING in saved:
        saved.pop(HEAD, None)  # the embedding's, written twice
    return replace(
        spec,
        target_modules=tuple(updates),
        exclude_modules=(),
        layers_to_transform=None,
        rank_pattern=_by_path(spec.rank_pattern, updates, spec.rank),
        alpha_pattern=_by_path(spec.alpha_pattern, updates, spec.alpha),
        modules_to_save=tuple(saved),
        init=Init.KAIMING if is_plain(spec) else spec.init,
    )


def is_saved(spec: LoraSpec, path: str) -> bool:
    """Whether a module, or one that it is in, is in `modules_to_save`."""
    return any(module.endswith(spec.modules_to_save) for module in with_parents(path))


def _by_path(patterns: Mapping[str, Value], paths: Iterable[str], default: Value) -> dict[str, Value]:
    """The value that patterns give each path; empty if there are no patterns, since every path then has the default."""
    return {path: value_of_pattern(patterns, path, default) for path in paths} if patterns else {}
