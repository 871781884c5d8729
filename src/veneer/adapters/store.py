"""Adapters on disk, as PEFT writes them: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from veneer.adapters.adapter import Adapter, remove
from veneer.adapters.dora import MAGNITUDE
from veneer.adapters.embedding import TOKENS
from veneer.adapters.experts import read_targets
from veneer.adapters.inject import inject
from veneer.adapters.modules_to_save import SavedModule
from veneer.adapters.peft_config import adapter_config, is_plain, parse_config
from veneer.adapters.spec import LoraSpec
from veneer.adapters.tables import Tables, grow, set_embeddings
from veneer.adapters.targets import EMBEDDING, HEAD, by_pattern
from veneer.enums import Init
from veneer.errors import AdapterError, listing
from veneer.io.files import write_tensors, write_text
from veneer.io.tokenizer import Tokenizer, from_directory
from veneer.model.language import LanguageModel
from veneer.quant.int8 import Int8Linear
from veneer.quant.packed import PackedLinear

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
PREFIX = "base_model.model."
"""What PEFT puts before every module path."""
_UPDATES = tuple(
    f".{name}"
    for name in (
        *("lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_embedding_A", "lora_embedding_B"),
        *(MAGNITUDE, TOKENS, "base_layer.bias"),
    )
)
"""How the names of an adapter's tensors end, besides those of modules that are saved whole."""


def save_adapter(directory: Path, adapter: Adapter, *, base: str, revision: str | None = None) -> None:
    """Write both files of `adapter` into an existing folder.

    Raises:
        AdapterError: a weight is NaN or infinite; nothing is written.
        OutputError: a file cannot be written.
    """
    tensors = {PREFIX + name: tensor.contiguous() for name, tensor in adapter.tensors().items()}
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise AdapterError(f"the adapter holds NaN or infinite values and was not saved:\n{listing(broken)}")
    write_tensors(directory / WEIGHTS_FILE, _unshared(tensors), {"format": "pt"})
    config = adapter_config(adapter, base, revision)
    write_text(directory / CONFIG_FILE, json.dumps(config, indent=2, sort_keys=True) + "\n")


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no memory, as the format needs them: of a tied pair the second is a copy."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        found[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return found


def read_config(directory: Path) -> tuple[LoraSpec, dict[str, Any]]:
    """The adapter's specification and the whole of its `adapter_config.json`.

    Raises:
        AdapterError: no adapter is there, its configuration is broken, or it uses a feature that is not supported.
    """
    path = directory / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AdapterError(
            f"{directory}: no {CONFIG_FILE} there; give the folder that `veneer train` or PEFT's save_pretrained wrote"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AdapterError(f"{path}: cannot be read: {error}") from error
    return parse_config(config, path), config


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """The weights of a saved adapter in float32, under the names of `Adapter.tensors()`.

    Raises:
        AdapterError: the file is missing or damaged, or is a pickle.
    """
    path = directory / WEIGHTS_FILE
    if not path.exists():
        pickle = directory / "adapter_model.bin"
        hint = (
            f"; {pickle.name} is a pickle, which can run code when opened: convert it with PEFT first"
            if pickle.exists()
            else ""
        )
        raise AdapterError(f"{directory}: no {WEIGHTS_FILE} there{hint}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name.removeprefix(PREFIX): file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path}: not a readable safetensors file: {error}") from error


def read_tokenizer(directory: Path, base: Tokenizer) -> Tokenizer:
    """The tokenizer beside an adapter where it knows more tokens than the base's, else the base's.

    Raises:
        ModelError: there is one, and it is damaged.
    """
    if not (directory / TOKENIZER_FILE).is_file():
        return base
    own = from_directory(directory)
    if own.vocab_size <= base.vocab_size:
        return base
    return replace(own, chat_template=own.chat_template or base.chat_template)


def load_adapter(model: LanguageModel, directory: Path) -> Adapter:
    """Put the saved adapter in `directory` on `model`.

    PEFT's shorthand for targets (an expression, or names that match more layers in one model than in another) says
    what was asked for; the tensors say what was trained. The adapter goes on the layers that it has tensors for.

    Raises:
        AdapterError: files are missing, damaged or unsupported, or do not fit `model`, which stays as it was.
    """
    spec, _ = read_config(directory)
    tensors = read_tensors(directory)
    if not tensors:
        raise AdapterError(f"{directory / WEIGHTS_FILE}: holds no tensors")
    if not model.flat:
        return _put_on(model, tensors, spec, directory)
    own, tables = _without_tables(tensors, spec, model, directory)
    before = Tables.of(model)
    set_embeddings(model, tables)
    grow(model, max((token + 1 for ids in spec.trainable_tokens.values() for token in ids), default=0))
    try:
        return _put_on(model, own, spec, directory)
    except AdapterError:
        before.put_back(model)
        raise


def _put_on(model: LanguageModel, tensors: dict[str, Tensor], spec: LoraSpec, directory: Path) -> Adapter:
    adapter = inject(model, _found(tensors, spec, directory))
    try:
        for path, part in adapter.parts:
            if isinstance(part, SavedModule) and path in (EMBEDDING, HEAD) and f"{path}.weight" in tensors:
                part.resize(len(tensors[f"{path}.weight"]))
        adapter.load(tensors if is_plain(spec) else _with_subtracted(tensors, adapter, directory))
    except AdapterError:
        remove(model, adapter)
        raise
    return Adapter(spec, adapter.parts, adapter.generator)


def _found(tensors: Mapping[str, Tensor], spec: LoraSpec, directory: Path) -> LoraSpec:
    """The specification with targets, ranks and saved modules by whole paths, as the tensors say.

    Raises:
        AdapterError: a tensor's name means nothing here.
    """
    named = dict.fromkeys(
        name.rpartition(".lora_")[0] for name in tensors if ".lora_A." in name or ".lora_embedding_A" in name
    )
    updates = read_targets(list(named), spec.target_modules)
    rest = [name for name in tensors if not name.endswith(_UPDATES)]
    whole = dict.fromkeys(name.removesuffix(".weight") for name in rest if name.endswith(".weight"))
    # PEFT takes a name for every path that ends in it, dot or no dot: `norm` means every norm.
    saved = {path: None for path in whole if path.endswith(spec.modules_to_save)}
    strange = [name for name in rest if not name.endswith((".weight", ".bias"))]
    if strange:
        raise AdapterError(f"{directory / WEIGHTS_FILE} holds tensors of no known kind:\n{listing(strange)}")
    if spec.tied_modules and EMBEDDING in saved:
        saved.pop(HEAD, None)  # the embedding's, written twice
    return replace(
        spec,
        target_modules=tuple(updates),
        exclude_modules=(),
        layers_to_transform=None,
        rank_pattern={path: by_pattern(spec.rank_pattern, path, spec.rank) for path in updates},
        alpha_pattern={path: by_pattern(spec.alpha_pattern, path, spec.alpha) for path in updates},
        modules_to_save=tuple(saved),
        init=Init.KAIMING if is_plain(spec) else spec.init,
    )


def _without_tables(
    tensors: dict[str, Tensor], spec: LoraSpec, model: LanguageModel, directory: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors without whole copies of the base's embedding and head, and those of them that have other rows.

    PEFT writes such copies beside an update of an embedding, and wherever the vocabulary was resized; of modules that
    are saved whole it then writes up to three.

    Raises:
        AdapterError: a copy is not what the model has: the adapter was trained on another one.
    """
    homes = {EMBEDDING: model.embedding.get_parameter("weight"), HEAD: model.head_weight}
    copies: dict[str, str] = {}
    for path in homes:
        saved = path.endswith(spec.modules_to_save) or (
            spec.tied_modules and path == HEAD and EMBEDDING.endswith(spec.modules_to_save)
        )
        ends = (".modules_to_save.weight", ".original_module.weight") if saved else (".weight",)
        copies |= {f"{path}{end}": path for end in (*ends, ".base_layer.weight", ".token_adapter.base_layer.weight")}
        if path == HEAD and model.spec.tied_head and EMBEDDING in spec.trainable_tokens:
            copies[f"{path}.{TOKENS}"] = ""  # the embedding's rows, written twice
    problems, tables = [], {}
    for name, path in copies.items():
        held = homes.get(path)
        if name not in tensors or held is None:
            continue
        if held.shape[1] != tensors[name].shape[-1]:
            problems.append(f"{name}: shape {list(tensors[name].shape)}, the model's is {list(held.shape)}")
        elif len(held) != len(tensors[name]):
            tables[path] = tensors[name]
        # Both may have been rounded to a dtype of the user's: what another model has differs by more than that.
        elif not torch.allclose(held.float().cpu(), tensors[name], rtol=2**-6, atol=1e-4):
            problems.append(f"{name}: other values than the model's")
    if problems:
        raise AdapterError(
            f"{directory / WEIGHTS_FILE} was trained over other embeddings than this model's:\n{listing(problems)}\n"
            "Use it with the base model that it was trained on."
        )
    own = {name: tensor for name, tensor in tensors.items() if name not in copies}
    if tables and not model.spec.tied_head:
        lost = [path for path in homes if path not in tables and f"{path}.weight" not in own]
        if lost:
            raise AdapterError(
                f"{directory / WEIGHTS_FILE} was trained over a resized vocabulary, and the new rows of {lost[0]} are "
                "not in it: PEFT saves the ends of the model that are adapted and not the other. Save the adapter "
                "again with save_embedding_layers=True and the other end in modules_to_save."
            )
    return own, tables


def _with_subtracted(tensors: dict[str, Tensor], adapter: Adapter, directory: Path) -> dict[str, Tensor]:
    """A and B of an adapter whose start PEFT takes from the base at every loading, with that start behind them.

    Raises:
        AdapterError: the base is quantised, so that it is not the weight that the start was taken from.
    """
    whole = dict(tensors)
    for path, layer in adapter.updates().items():
        if layer.subtracted_a is None or layer.subtracted_b is None:
            continue
        if isinstance(layer.base, PackedLinear | Int8Linear):
            raise AdapterError(
                f"{directory}: init_lora_weights {adapter.spec.init.value!r} takes its start from the base in full "
                "precision, and this base is quantised; load it with method lora, or convert it with PEFT "
                "(path_initial_model_for_weight_conversion)"
            )
        a, b = f"{path}.lora_A.weight", f"{path}.lora_B.weight"
        if a in tensors and b in tensors:
            whole[a] = torch.cat((tensors[a], layer.subtracted_a.cpu()))
            whole[b] = torch.cat((tensors[b], -layer.subtracted_b.cpu()), 1)
    return whole
