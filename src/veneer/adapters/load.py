"""A saved adapter is put on a model: what its configuration asks for, on the layers that it has tensors for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from veneer.adapters.adapter import Adapter, remove
from veneer.adapters.embedding import TOKEN_ROWS
from veneer.adapters.experts import refuse_router_biases, refuse_single_experts, target_paths
from veneer.adapters.found import found_spec, is_saved
from veneer.adapters.inject import inject, module_paths
from veneer.adapters.modules_to_save import SavedModule
from veneer.adapters.overflow import check_updates
from veneer.adapters.peft_config import is_plain
from veneer.adapters.spec import LoraSpec
from veneer.adapters.store import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    check_expressions,
    read_any_config,
    read_config,
    read_reward_config,
    read_tensors,
)
from veneer.adapters.targets import EMBEDDING, HEAD, Value, is_router, layer_number, selects
from veneer.adapters.vocabulary import EmbeddingSnapshot, resize_embeddings, set_embeddings
from veneer.enums import Bias, Scaling
from veneer.errors import AdapterError, listing
from veneer.model.language import LanguageModel
from veneer.quant.blocks import BlockLinear
from veneer.quant.int8 import Int8Linear
from veneer.quant.packed import PackedLinear
from veneer.tables import HoldsTable, TokenTable, parts

UNTRAINED_ROWS = 256
"""Most rows that an adapter adds to the vocabulary without training them. There are some where the base's tokenizer has
tokens beyond the base's rows, or where only some of several new tokens are trained."""


def load_adapter(model: LanguageModel, directory: Path) -> Adapter:
    """Load a saved adapter onto a model.

    The targets in the configuration tell what was asked for (an expression, or names that may match other layers in
    another model). The tensors tell what was trained, so that the adapter is put on the layers that it has tensors for.
    A targeted layer of this model without tensors is an error, and so is a module of `modules_to_save`.

    Raises:
        AdapterError: files are missing, damaged or unsupported, or do not fit `model`, which stays as it was.
    """
    return _loaded(model, directory, read_config(directory)[0])


def load_reward_adapter(model: LanguageModel, directory: Path) -> Adapter:
    """Load the saved adapter of a reward model onto its base: its `score` is the head.

    Raises:
        AdapterError: as `load_adapter`, or it is none of a reward model.
    """
    return _loaded(model, directory, read_reward_config(directory))


def tensors_to_go_on_from(model: LanguageModel, directory: Path) -> dict[str, Tensor]:
    """The tensors that a saved adapter has trained, for a run that goes on with it on a model that has none yet.

    Raises:
        AdapterError: files are missing or damaged, or were trained over other embeddings, over a resized vocabulary or
            with factors that embedding and head have in common; or tensors are missing that the configuration names.
    """
    spec, tensors = read_any_config(directory)[0], read_tensors(directory)
    if not model.flat:
        _check_complete(model, spec, found_spec(tensors, spec, directory), directory)
        return tensors
    if not model.spec.tied_head:
        spec = replace(spec, tied_modules=False)  # PEFT ties nothing where the model does not
    if spec.tied_modules and f"{EMBEDDING}.lora_embedding_A" in tensors:
        raise AdapterError(
            f"{directory} cannot be gone on with: embedding and head have one update in common (ensure_weight_tying "
            f"in {CONFIG_FILE}), and a run would train two; merge it into the base (veneer export), and start a new "
            "adapter on that"
        )
    own, resized = _without_copies(tensors, spec, model, directory)
    if resized:
        path, weight = next(iter(resized.items()))
        raise AdapterError(
            f"{directory} cannot be gone on with: {path} has {len(weight):,} rows in {WEIGHTS_FILE}, and "
            f"{model.spec.vocab_size:,} in the base, whose vocabulary a run does not resize for it; merge it into the "
            "base (veneer export), and start a new adapter on that"
        )
    _check_complete(model, spec, found_spec(own, spec, directory), directory)
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
        spec = replace(spec, tied_modules=False)  # PEFT ties nothing where the model does not
    _check_ranks(spec, tensors, directory)
    if not model.flat:
        return _put_on(model, tensors, spec, directory)
    own, embeddings = _without_copies(tensors, spec, model, directory)
    with ExitStack() as undo:
        # Whatever goes wrong, the model has its own vocabulary again.
        undo.callback(EmbeddingSnapshot.of(model).restore, model)
        set_embeddings(model, embeddings)
        _check_tokens(spec, own, model.spec.vocab_size, directory)
        resize_embeddings(model, max((token + 1 for ids in spec.trainable_tokens.values() for token in ids), default=0))
        adapter = _put_on(model, own, spec, directory)
        undo.pop_all()
    return adapter


def _refuse_start_of_tied_head(spec: LoraSpec, tensors: Mapping[str, Tensor], directory: Path) -> None:
    """Refuse a start that PEFT took out of a head that is the embedding too: its model has another embedding.

    Raises:
        AdapterError: the adapter has such a start.
    """
    if not is_plain(spec) and f"{HEAD}.lora_A.weight" in tensors:
        raise AdapterError(
            f"{directory}: init_lora_weights {spec.init.value!r} takes its start out of {HEAD}'s weight, which is the "
            "embedding's too in this model (tie_word_embeddings), so that PEFT goes on with another embedding. Train "
            f"the adapter with init_lora_weights true, or without {HEAD} among its target_modules"
        )


def _check_ranks(spec: LoraSpec, tensors: Mapping[str, Tensor], directory: Path) -> None:
    """Refuse ranks beyond the tensors' sizes, which would be allocated before they are compared.

    Raises:
        AdapterError: naming every such tensor.
    """
    problems = []
    for name, tensor in tensors.items():
        path, end = name.rpartition(".lora_")[::2]
        if end in ("A.weight", "embedding_A") and spec.rank_of(path) > len(tensor):
            problems.append(f"{name}: shape {list(tensor.shape)}, the rank is {spec.rank_of(path)}")
    if problems:
        raise AdapterError(f"{directory}: {CONFIG_FILE} names ranks that its tensors do not have:\n{listing(problems)}")


def _check_tokens(spec: LoraSpec, tensors: Mapping[str, Tensor], vocab: int, directory: Path) -> None:
    """Refuse trained tokens without rows, and those far beyond the vocabulary: its rows up to them would be allocated.

    Raises:
        AdapterError: naming every end of the model with such tokens.
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
    """The update of a tied head where the adapter's files have that of the embedding alone.

    With `ensure_weight_tying` PEFT puts the embedding's factors on the head too, the other way round: the rows of the
    embedding are the head's outputs. It writes them twice, and makes them where they are not in the file.
    """
    a, b = (tensors.get(f"{EMBEDDING}.lora_embedding_{factor}") for factor in "AB")
    if a is None or b is None or f"{HEAD}.lora_A.weight" in tensors:
        return {}
    return {f"{HEAD}.lora_A.weight": b.t().contiguous(), f"{HEAD}.lora_B.weight": a.t().contiguous()}


def _of_tied_head(spec: LoraSpec, tensors: Mapping[str, Tensor]) -> LoraSpec:
    """The specification of an adapter on a model whose head is tied to its embedding.

    With `ensure_weight_tying` the head's factors are the embedding's, of its rank, and are scaled by the rank and alpha
    that the configuration has for the head. Trained tokens that both ends name are one set of rows.
    """
    tokens = spec.trainable_tokens
    if HEAD in tokens and tokens[HEAD] == tokens.get(EMBEDDING):
        spec = replace(spec, trainable_tokens={path: ids for path, ids in tokens.items() if path != HEAD})
    factor = tensors.get(f"{HEAD}.lora_A.weight")
    if not spec.tied_modules or factor is None or f"{EMBEDDING}.lora_embedding_A" not in tensors:
        return spec
    rank, scale = len(factor), spec.scale_of(HEAD)
    if rank == spec.rank_of(HEAD):
        return spec
    alpha = scale * (math.sqrt(rank) if spec.scaling is Scaling.RSLORA else rank)
    # The first key that fits a path counts.
    return replace(
        spec,
        rank_pattern={HEAD: rank, **_without(HEAD, spec.rank_pattern)},
        alpha_pattern={HEAD: alpha, **_without(HEAD, spec.alpha_pattern)},
    )


def _without(key: str, patterns: Mapping[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in patterns.items() if name != key}


def _put_on(model: LanguageModel, tensors: dict[str, Tensor], spec: LoraSpec, directory: Path) -> Adapter:
    if model.spec.mixture is not None:
        refuse_single_experts(tensors, directory)
        refuse_router_biases(tensors, directory)
    found = found_spec(tensors, spec, directory)
    _check_complete(model, spec, found, directory)
    check_updates(tensors, found.scale_of, str(directory / WEIGHTS_FILE))
    adapter = inject(model, found, drawn=False)
    with ExitStack() as undo:
        # Whatever goes wrong, a lack of memory too, the model has no half-loaded adapter on it.
        undo.callback(remove, model, adapter)
        for path, module in adapter.modules:
            if isinstance(module, SavedModule) and path in (EMBEDDING, HEAD) and f"{path}.weight" in tensors:
                module.resize(len(tensors[f"{path}.weight"]))
        adapter.load(tensors if is_plain(spec) else _with_subtracted(tensors, adapter, directory))
        undo.pop_all()
    spec = replace(spec, mixture=adapter.spec.mixture)
    return Adapter(spec, adapter.modules, adapter.generator, adapter.score)


def _check_complete(model: LanguageModel, spec: LoraSpec, found: LoraSpec, directory: Path) -> None:
    """Refuse an adapter without tensors for layers that its configuration targets, or for modules of `modules_to_save`.

    Raises:
        AdapterError: some are missing; all are named.
    """
    paths = [path for path in target_paths(model.linear_paths(), model.spec) if not is_router(path)]
    paths += [EMBEDDING, HEAD] if model.flat else []
    settings, layers = (spec.target_modules, spec.exclude_modules), spec.layers_to_transform
    if layers is not None:
        # Earlier versions trained nothing outside of them, although a whole path was among the targets.
        paths = [path for path in paths if layer_number(path) in layers]
    there = {*found.target_modules, *found.modules_to_save}
    if spec.tied_modules and EMBEDDING in there:
        there.add(HEAD)  # the embedding's
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


def _without_copies(
    tensors: dict[str, Tensor], spec: LoraSpec, model: LanguageModel, directory: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors without copies of the base's embedding and head, and those copies that have another number of rows.

    PEFT writes such copies beside an update of an embedding, and wherever the vocabulary was resized. For
    `modules_to_save` it then writes up to three, of biases too. The copy of a head that a start was taken out of stays:
    `_with_subtracted` compares it.

    Raises:
        AdapterError: a copy differs from the model's weight: the adapter was trained on another base.
    """
    held = {EMBEDDING: model.embedding, HEAD: model.lm_head}
    weights = {path: module.table if isinstance(module, HoldsTable) else None for path, module in held.items()}
    copies: dict[str, str] = {}
    for path in weights:
        saved = path.endswith(spec.modules_to_save) or (
            spec.tied_modules and path == HEAD and EMBEDDING.endswith(spec.modules_to_save)
        )
        ends = (".modules_to_save.weight", ".original_module.weight") if saved else (".weight",)
        copies |= {f"{path}{end}": path for end in (*ends, ".base_layer.weight", ".token_adapter.base_layer.weight")}
        if path == HEAD and model.spec.tied_head and spec.trainable_tokens.keys() == {EMBEDDING}:
            copies[f"{path}.{TOKEN_ROWS}"] = ""  # the embedding's rows, written twice
        if not is_plain(spec) and f"{path}.lora_A.weight" in tensors:
            copies.pop(f"{path}.base_layer.weight")
        if path == HEAD and spec.tied_modules and saved and f"{path}.lora_A.weight" in tensors:
            copies[f"{path}.weight"] = ""  # the embedding's, under a head that parts from it by an update
    problems, resized = [], {}
    for name, path in copies.items():
        weight = weights.get(path)
        if name not in tensors or weight is None:
            continue
        if tensors[name].dim() != 2 or weight.shape[1] != tensors[name].shape[1]:
            problems.append(f"{name}: shape {list(tensors[name].shape)}, the model's is {list(weight.shape)}")
        elif weight.shape[0] != len(tensors[name]):
            resized[path] = tensors[name]
        elif not _alike(weight, tensors[name]):
            problems.append(f"{name}: other values than the model's")
    if problems:
        raise _other_embeddings(problems, directory)
    own = {name: tensor for name, tensor in tensors.items() if name not in copies and not _is_second_bias(name, spec)}
    if resized and not model.spec.tied_head:
        lost = [path for path in weights if path not in resized and f"{path}.weight" not in own]
        if lost:
            raise AdapterError(
                f"{directory / WEIGHTS_FILE} was trained over a resized vocabulary, and the new rows of {lost[0]} are "
                "not in it: PEFT saves the ends of the model that are adapted and not the other. Save the adapter "
                "again with save_embedding_layers=True and the other end in modules_to_save."
            )
    return own, resized


def _other_embeddings(problems: list[str], directory: Path) -> AdapterError:
    return AdapterError(
        f"{directory / WEIGHTS_FILE} was trained over other embeddings than this model's:\n{listing(problems)}\n"
        "Use it with the base model that it was trained on."
    )


def _is_second_bias(name: str, spec: LoraSpec) -> bool:
    """Whether a tensor is a bias of a saved module that PEFT writes again (`bias: all`), trained or as in the base."""
    ends = (".modules_to_save.bias", ".original_module.bias")
    return spec.bias is Bias.ALL and name.endswith(ends) and is_saved(spec, name.rpartition(".")[0])


def _alike(weight: TokenTable, copy: Tensor) -> bool:
    return all(_equal_but_rounded(part, copy[at]) for at, part in parts(weight))


def _equal_but_rounded(weight: Tensor, copy: Tensor) -> bool:
    # Both may have been rounded to another dtype. The weights of another model differ by more than that.
    return weight.shape == copy.shape and torch.allclose(weight.float().cpu(), copy, rtol=2**-6, atol=1e-4)


def _with_subtracted(tensors: dict[str, Tensor], adapter: Adapter, directory: Path) -> dict[str, Tensor]:
    """The tensors with the subtracted pair behind A and B, for initialisations that PEFT repeats at every loading.

    Raises:
        AdapterError: the base is quantised, so that its weight is not the one that A and B were initialised from, or
            PEFT's copy of the head differs from this model's head without its start.
    """
    whole = dict(tensors)
    for path, layer in adapter.updates().items():
        if layer.subtracted_a is None or layer.subtracted_b is None:
            continue
        if isinstance(layer.base, PackedLinear | Int8Linear) and not isinstance(layer.base, BlockLinear):
            raise AdapterError(
                f"{directory}: init_lora_weights {adapter.spec.init.value!r} takes its start from the base in full "
                "precision, and this base is quantised; load it with method lora, or convert it with PEFT "
                "(path_initial_model_for_weight_conversion)"
            )
        a, b = f"{path}.lora_A.weight", f"{path}.lora_B.weight"
        if a in tensors and b in tensors:
            whole[a] = torch.cat((tensors[a], layer.subtracted_a.cpu()))
            whole[b] = torch.cat((tensors[b], -layer.subtracted_b.cpu()), 1)
        name = f"{path}.base_layer.weight"
        copy = whole.pop(name, None)
        if copy is not None:
            left = layer.base.dequantize(torch.float32) - layer.scale * layer.subtracted_b.mm(layer.subtracted_a)
            if not _equal_but_rounded(left, copy):
                raise _other_embeddings([f"{name}: other values than the model's without its start"], directory)
    return whole
