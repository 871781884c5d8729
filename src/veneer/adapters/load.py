"""Puts a saved adapter on a model, on the layers that it has tensors for, as its configuration says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from veneer.adapters.adapter import Adapter, remove
from veneer.adapters.files.copies import with_subtracted, without_copies
from veneer.adapters.files.names import EMBEDDING_A, EMBEDDING_B, FACTOR_A, FACTOR_B, TOKEN_ROWS
from veneer.adapters.files.peft_config import is_plain
from veneer.adapters.files.store import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    check_expressions,
    read_reward_spec,
    read_spec,
    read_tensors,
)
from veneer.adapters.files.tensor_spec import is_saved, spec_of_tensors
from veneer.adapters.inject import inject, module_paths
from veneer.adapters.layers.experts import refuse_router_biases, refuse_single_experts, target_paths
from veneer.adapters.layers.modules_to_save import SavedModule
from veneer.adapters.overflow import check_updates
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import EMBEDDING, HEAD, Value, is_router, layer_number, selects
from veneer.adapters.vocabulary import EmbeddingSnapshot, resize_embeddings, set_embeddings
from veneer.enums import Scaling
from veneer.errors import AdapterError, listing
from veneer.model.language import LanguageModel

UNTRAINED_ROWS = 256
"""The largest number of untrained rows that an adapter may add to the vocabulary. Some are needed if the base's
tokenizer has more tokens than the base has rows, or if only some of several new tokens are trained."""


def load_adapter(model: LanguageModel, directory: Path) -> Adapter:
    """Load a saved adapter onto a model.

    The targets in the configuration are what was requested (an expression, or names that may match other layers in
    another model). The tensors show what was trained, so that the adapter is put on the layers that it has tensors for.
    A targeted layer of this model without tensors is an error, and so is a module of `modules_to_save` without tensors.

    Raises:
        AdapterError: files are missing, damaged or unsupported, or do not fit `model`, which stays as it was.
    """
    return _loaded(model, directory, read_spec(directory))


def load_reward_adapter(model: LanguageModel, directory: Path) -> Adapter:
    """Load the saved adapter of a reward model onto its base: its `score` is the head.

    Raises:
        AdapterError: see `load_adapter`, or the adapter is not that of a reward model.
    """
    return _loaded(model, directory, read_reward_spec(directory))


def tensors_to_go_on_from(model: LanguageModel, directory: Path, spec: LoraSpec) -> dict[str, Tensor]:
    """The trained tensors of a saved adapter, for a run that trains it further on a model without an adapter.

    Args:
        model: the base.
        directory: the folder of the adapter.
        spec: the specification that was read from the adapter's configuration.

    Raises:
        AdapterError: files are missing or damaged; the adapter was trained with other embeddings, with a resized
            vocabulary or with factors that embedding and head share; or tensors are missing that the configuration
            names.
    """
    tensors = read_tensors(directory)
    if not model.flat:
        _check_complete(model, spec, spec_of_tensors(tensors, spec, directory), directory)
        return tensors
    if not model.spec.tied_head:
        spec = replace(spec, tied_modules=False)  # PEFT ties nothing if the model does not
    if spec.tied_modules and f"{EMBEDDING}.{EMBEDDING_A}" in tensors:
        raise AdapterError(
            f"{directory} cannot be trained further: embedding and head share one update (ensure_weight_tying in "
            f"{CONFIG_FILE}), but a run would train two; merge it into the base (veneer export), and start a new "
            "adapter on that"
        )
    own, resized = without_copies(tensors, spec, model, directory)
    if resized:
        path, weight = next(iter(resized.items()))
        raise AdapterError(
            f"{directory} cannot be trained further: {path} has {len(weight):,} rows in {WEIGHTS_FILE}, but "
            f"{model.spec.vocab_size:,} in the base, and a run does not resize the base's vocabulary for it; merge it "
            "into the base (veneer export), and start a new adapter on that"
        )
    _check_complete(model, spec, spec_of_tensors(own, spec, directory), directory)
    return own


def _loaded(model: LanguageModel, directory: Path, spec: LoraSpec) -> Adapter:
    tensors = read_tensors(directory)
    if not tensors:
        raise AdapterError(f"{directory / WEIGHTS_FILE}: holds no tensors")
    check_expressions(spec, [*model.linear_paths(), *tensors], directory)
    if model.spec.tied_head:
        _refuse_start_of_tied_head(spec, tensors, directory)
        if spec.tied_modules:
            tensors |= _tied_head(tensors)
        spec = _of_tied_head(spec, tensors)
    else:
        spec = replace(spec, tied_modules=False)  # PEFT ties nothing if the model does not
    _check_ranks(spec, tensors, directory)
    if not model.flat:
        return _put_on(model, tensors, spec, directory)
    own, embeddings = without_copies(tensors, spec, model, directory)
    with ExitStack() as undo:
        # After any error, the model has its own vocabulary again.
        undo.callback(EmbeddingSnapshot.of(model).restore, model)
        set_embeddings(model, embeddings)
        _check_tokens(spec, own, model.spec.vocab_size, directory)
        resize_embeddings(model, max((token + 1 for ids in spec.trainable_tokens.values() for token in ids), default=0))
        adapter = _put_on(model, own, spec, directory)
        undo.pop_all()
    return adapter


def _refuse_start_of_tied_head(spec: LoraSpec, tensors: Mapping[str, Tensor], directory: Path) -> None:
    """Refuse a start that PEFT subtracted from a head that is also the embedding, since this changed the embedding.

    Raises:
        AdapterError: the adapter has such a start.
    """
    if not is_plain(spec) and f"{HEAD}.{FACTOR_A}" in tensors:
        raise AdapterError(
            f"{directory}: init_lora_weights {spec.init.value!r} subtracts its start from the weight of {HEAD}, which "
            "is also the embedding in this model (tie_word_embeddings), so PEFT changes the embedding too. Train the "
            f"adapter with init_lora_weights true, or without {HEAD} among its target_modules"
        )


def _check_ranks(spec: LoraSpec, tensors: Mapping[str, Tensor], directory: Path) -> None:
    """Refuse ranks beyond the tensors' sizes, which would be allocated before they are compared.

    Raises:
        AdapterError: there are such ranks; every such tensor is named.
    """
    problems = []
    for name, tensor in tensors.items():
        path = name.rpartition(".lora_")[0]
        if name.endswith((f".{FACTOR_A}", f".{EMBEDDING_A}")) and spec.rank_of(path) > len(tensor):
            problems.append(f"{name}: shape {list(tensor.shape)}, the rank is {spec.rank_of(path)}")
    if problems:
        raise AdapterError(f"{directory}: {CONFIG_FILE} names ranks that its tensors do not have:\n{listing(problems)}")


def _check_tokens(spec: LoraSpec, tensors: Mapping[str, Tensor], vocab: int, directory: Path) -> None:
    """Refuse trained tokens without rows, and those far beyond the vocabulary: its rows up to them would be allocated.

    Raises:
        AdapterError: there are such tokens; the embedding and the head are named if they have any.
    """
    problems = []
    for path, ids in spec.trainable_tokens.items():
        name = f"{path}.{TOKEN_ROWS}"
        if name not in tensors:
            problems.append(f"{name}: missing from the file")
        elif list(tensors[name].shape[:1]) != [len(ids)]:
            problems.append(f"{name}: shape {list(tensors[name].shape)}, {CONFIG_FILE} names {len(ids):,} tokens")
        new = {token for token in ids if token >= vocab}
        grown = max(new, default=vocab - 1) + 1 - vocab
        if grown > len(new) + UNTRAINED_ROWS:
            problems.append(
                f"{path}: token {max(new)} makes {grown:,} new rows, of which {len(new):,} are trained; the "
                f"model's vocabulary has {vocab:,} tokens, and at most {UNTRAINED_ROWS} new rows may be untrained"
            )
    if problems:
        raise AdapterError(
            f"{directory}: trainable_token_indices of {CONFIG_FILE} do not fit this model:\n{listing(problems)}\n"
            "The adapter was trained over other embeddings; use it with the base model that it was trained on."
        )


def _tied_head(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The update of a tied head if the adapter's files have only the update of the embedding.

    With `ensure_weight_tying` PEFT puts the embedding's factors on the head too, transposed: the rows of the embedding
    are the head's outputs. It writes them twice, and creates them if they are not in the file.
    """
    a, b = (tensors.get(f"{EMBEDDING}.{factor}") for factor in (EMBEDDING_A, EMBEDDING_B))
    if a is None or b is None or f"{HEAD}.{FACTOR_A}" in tensors:
        return {}
    return {f"{HEAD}.{FACTOR_A}": b.t().contiguous(), f"{HEAD}.{FACTOR_B}": a.t().contiguous()}


def _of_tied_head(spec: LoraSpec, tensors: Mapping[str, Tensor]) -> LoraSpec:
    """The specification of an adapter on a model whose head is tied to its embedding.

    With `ensure_weight_tying` the head's factors are the embedding's and have its rank. They are scaled by the rank and
    alpha that the configuration has for the head. Trained tokens that both name are one set of rows.
    """
    tokens = spec.trainable_tokens
    if HEAD in tokens and tokens[HEAD] == tokens.get(EMBEDDING):
        spec = replace(spec, trainable_tokens={path: ids for path, ids in tokens.items() if path != HEAD})
    factor = tensors.get(f"{HEAD}.{FACTOR_A}")
    if not spec.tied_modules or factor is None or f"{EMBEDDING}.{EMBEDDING_A}" not in tensors:
        return spec
    rank, scale = len(factor), spec.scale_of(HEAD)
    if rank == spec.rank_of(HEAD):
        return spec
    alpha = scale * (math.sqrt(rank) if spec.scaling is Scaling.RSLORA else rank)
    # The first key that fits a path counts.
    return replace(
        spec,
        rank_pattern={HEAD: rank, **_without_head(spec.rank_pattern)},
        alpha_pattern={HEAD: alpha, **_without_head(spec.alpha_pattern)},
    )


def _without_head(patterns: Mapping[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in patterns.items() if name != HEAD}


def _put_on(model: LanguageModel, tensors: dict[str, Tensor], spec: LoraSpec, directory: Path) -> Adapter:
    if model.spec.mixture is not None:
        refuse_single_experts(tensors, directory)
        refuse_router_biases(tensors, directory)
    trained = spec_of_tensors(tensors, spec, directory)
    _check_complete(model, spec, trained, directory)
    check_updates(tensors, trained.scale_of, str(directory / WEIGHTS_FILE))
    adapter = inject(model, trained, drawn=False)
    with ExitStack() as undo:
        # After any error, including a lack of memory, the model has no half-loaded adapter.
        undo.callback(remove, model, adapter)
        for path, module in adapter.modules:
            if isinstance(module, SavedModule) and path in (EMBEDDING, HEAD) and f"{path}.weight" in tensors:
                module.resize(len(tensors[f"{path}.weight"]))
        adapter.load(tensors if is_plain(spec) else with_subtracted(tensors, adapter, directory))
        undo.pop_all()
    # It is saved again under the names of its configuration.
    return replace(adapter, spec=replace(spec, mixture=adapter.spec.mixture))


def _check_complete(model: LanguageModel, spec: LoraSpec, trained: LoraSpec, directory: Path) -> None:
    """Refuse an adapter without tensors for layers that its configuration targets, or for modules of `modules_to_save`.

    Args:
        model: the base.
        spec: the specification in the configuration.
        trained: the specification by its tensors.
        directory: the folder of the adapter.

    Raises:
        AdapterError: some are missing; all are named.
    """
    paths = [path for path in target_paths(model.linear_paths(), model.spec) if not is_router(path)]
    paths += [EMBEDDING, HEAD] if model.flat else []
    settings, layers = (spec.target_modules, spec.exclude_modules), spec.layers_to_transform
    if layers is not None:
        # Earlier versions trained nothing outside these layers, even if a whole path was among the targets.
        paths = [path for path in paths if layer_number(path) in layers]
    there = {*trained.target_modules, *trained.modules_to_save}
    if spec.tied_modules and EMBEDDING in there:
        there.add(HEAD)  # it uses the embedding's
    absent = {
        "the updates of layers that {} targets": [path for path in paths if selects(path, *settings, layers)],
        "the weights of modules that {} names in modules_to_save": [
            path for path in module_paths(model) if is_saved(spec, path)
        ],
    }
    for what, wanted in absent.items():
        missing = [path for path in wanted if path not in there]
        if missing:
            raise AdapterError(
                f"{directory / WEIGHTS_FILE} lacks {what.format(CONFIG_FILE)}:\n{listing(missing)}\n"
                "Save the adapter again, or use it with the base model that it was trained on."
            )
