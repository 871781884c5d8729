"""The parts of the base in PEFT's files: copies of its embedding and head, and starts that were subtracted from its
weights.

Copies are compared with the model and left out. Starts are computed again from the model.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from veneer.adapters.adapter import Adapter
from veneer.adapters.files.names import FACTOR_A, FACTOR_B, TOKEN_ROWS
from veneer.adapters.files.peft_config import SAVE_CONVERTED, is_plain
from veneer.adapters.files.store import WEIGHTS_FILE
from veneer.adapters.files.tensor_spec import is_saved
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import EMBEDDING, HEAD
from veneer.enums import Bias
from veneer.errors import AdapterError, listing
from veneer.model.language import LanguageModel
from veneer.quant.blocks import BlockLinear
from veneer.quant.int8 import Int8Linear
from veneer.quant.packed import PackedLinear
from veneer.tables import HoldsTable, TokenTable, parts


def without_copies(
    tensors: dict[str, Tensor], spec: LoraSpec, model: LanguageModel, directory: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors without copies of the base's embedding and head, and those copies that have another number of rows.

    PEFT writes such copies together with an update of an embedding, and whenever the vocabulary was resized. Modules
    that are saved whole are then written three times, also their biases: as in the base, and twice as trained. The copy
    of a head from which a start was subtracted stays: `with_subtracted` compares it.

    Raises:
        AdapterError: a copy differs from the model's weight: the adapter was trained on another base.
    """
    held = {EMBEDDING: model.embedding, HEAD: model.lm_head}
    weights = {path: module.table if isinstance(module, HoldsTable) else None for path, module in held.items()}
    compared, written_twice = _copies(tensors, spec, tied_head=model.spec.tied_head)
    problems, resized = [], {}
    for name, path in compared.items():
        weight = weights[path]
        if name not in tensors or weight is None:
            continue
        if tensors[name].dim() != 2 or weight.shape[1] != tensors[name].shape[1]:
            problems.append(f"{name}: shape {list(tensors[name].shape)}, the model's is {list(weight.shape)}")
        elif weight.shape[0] != len(tensors[name]):
            resized[path] = tensors[name]
        elif not _alike(weight, tensors[name]):
            problems.append(f"{name}: its values differ from the model's")
    if problems:
        raise _other_embeddings(problems, directory)
    left_out = {*compared, *written_twice}
    own = {name: tensor for name, tensor in tensors.items() if name not in left_out and not _is_second_bias(name, spec)}
    if resized and not model.spec.tied_head:
        lost = [path for path in weights if path not in resized and f"{path}.weight" not in own]
        if lost:
            raise AdapterError(
                f"{directory / WEIGHTS_FILE} was trained over a resized vocabulary, but the new rows of {lost[0]} are "
                "not in it: PEFT saves the ends of the model that are adapted and not the other. Save the adapter "
                "again with save_embedding_layers=True and the other end in modules_to_save."
            )
    return own, resized


def _copies(tensors: dict[str, Tensor], spec: LoraSpec, *, tied_head: bool) -> tuple[dict[str, str], set[str]]:
    """Names of copies of the base's weights, each with the path of its module, and names of trained tensors that are
    written a second time."""
    compared: dict[str, str] = {}
    written_twice: set[str] = set()
    for path in (EMBEDDING, HEAD):
        adapted = f"{path}.{FACTOR_A}" in tensors
        saved = path.endswith(spec.modules_to_save) or (
            spec.tied_modules and path == HEAD and EMBEDDING.endswith(spec.modules_to_save)
        )
        own = ".original_module.weight" if saved else ".weight"
        names = [f"{path}{end}" for end in (own, ".base_layer.weight", ".token_adapter.base_layer.weight")]
        if saved:
            written_twice.add(f"{path}.modules_to_save.weight")
        if adapted and not is_plain(spec):
            names.remove(f"{path}.base_layer.weight")
        compared |= dict.fromkeys(names, path)
        if path == HEAD and tied_head and spec.trainable_tokens.keys() == {EMBEDDING}:
            written_twice.add(f"{path}.{TOKEN_ROWS}")  # the embedding's rows
        if path == HEAD and spec.tied_modules and saved and adapted:
            written_twice.add(f"{path}.weight")  # the embedding's, under a head that differs from it by an update
    return compared, written_twice


def _other_embeddings(problems: list[str], directory: Path) -> AdapterError:
    return AdapterError(
        f"{directory / WEIGHTS_FILE} was trained with embeddings that differ from this model's:\n{listing(problems)}\n"
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


def with_subtracted(tensors: dict[str, Tensor], adapter: Adapter, directory: Path) -> dict[str, Tensor]:
    """The tensors with the subtracted pair appended to A and B, for initialisations that PEFT repeats at every loading.

    Raises:
        AdapterError: the base is quantised, so that A and B were initialised from another weight, or PEFT's copy of the
            head differs from this model's head without its start.
    """
    whole = dict(tensors)
    for path, layer in adapter.updates().items():
        if layer.subtracted_a is None or layer.subtracted_b is None:
            continue
        if isinstance(layer.base, PackedLinear | Int8Linear) and not isinstance(layer.base, BlockLinear):
            raise AdapterError(
                f"{directory}: init_lora_weights {adapter.spec.init.value!r} takes its start from the base in full "
                f"precision, but this base is quantised; load it with method lora, or {SAVE_CONVERTED}"
            )
        a, b = f"{path}.{FACTOR_A}", f"{path}.{FACTOR_B}"
        if a in tensors and b in tensors:
            whole[a] = torch.cat((tensors[a], layer.subtracted_a.cpu()))
            whole[b] = torch.cat((tensors[b], -layer.subtracted_b.cpu()), 1)
        name = f"{path}.base_layer.weight"
        copy = whole.pop(name, None)
        if copy is not None:
            left = layer.base.dequantize(torch.float32) - layer.scale * layer.subtracted_b.mm(layer.subtracted_a)
            if not _equal_but_rounded(left, copy):
                raise _other_embeddings([f"{name}: its values differ from the model's without its start"], directory)
    return whole
