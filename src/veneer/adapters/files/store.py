"""The files of an adapter in PEFT's format, written and read: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from veneer.adapters.adapter import Adapter
from veneer.adapters.files.integrity import check_unchanged
from veneer.adapters.files.origin import write_base
from veneer.adapters.files.peft_config import adapter_config, parse_config, unknown_settings
from veneer.adapters.files.shapes import odd_shapes
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import with_parents
from veneer.enums import Task
from veneer.errors import AdapterError, listing
from veneer.finite import all_finite
from veneer.io.files import write_tensors, write_text
from veneer.io.headers import repeated_names, tensor_names
from veneer.io.tokenizer import Tokenizer, from_directory
from veneer.text.strict_json import to_text

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
TOKENIZER_FILE, TOKENIZER_CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
PEFT_PREFIX = "base_model.model."
"""PEFT's prefix of every module path."""
_READABLE = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_DEFAULT = re.compile(r"(\.(?:lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector))\.default(?=\.|$)")
"""The adapter's name `default` in the names of tensors. PEFT's models have it, and its files do not."""


def save_adapter(
    directory: Path,
    adapter: Adapter,
    *,
    base: str | None,
    revision: str | None = None,
    base_files: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write the files of an adapter into an existing folder.

    Args:
        directory: the folder.
        adapter: the adapter.
        base: the name of its base model, if it is known.
        revision: the base's branch, tag or commit.
        base_files: the SHA-256 of the base's files, by name; if they are known, they are written into the folder too.

    Raises:
        AdapterError: a weight is NaN or infinite; nothing is written.
        OutputError: a file cannot be written.
    """
    tensors = {PEFT_PREFIX + name: tensor.contiguous() for name, tensor in adapter.tensors().items()}
    broken = [name for name, tensor in tensors.items() if not all_finite(tensor)]
    if broken:
        raise AdapterError(f"the adapter has NaN or infinite values and was not saved:\n{listing(broken)}")
    write_tensors(directory / WEIGHTS_FILE, _unshared(tensors), {"format": "pt"})
    config = adapter_config(adapter, base, revision)
    write_text(directory / CONFIG_FILE, to_text(config, indent=2, sort_keys=True) + "\n")
    write_base(directory, base_files)


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no memory, as safetensors needs them. The second of a tied pair is copied."""
    seen: set[int] = set()
    unshared = {}
    for name, tensor in tensors.items():
        unshared[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return unshared


def read_spec(directory: Path) -> LoraSpec:
    """Specification of a saved adapter of a language model.

    Raises:
        AdapterError: the folder has no adapter, or one of a reward model, or the configuration is broken, has changed
            since its run wrote it, or uses a feature that is not supported.
    """
    spec = read_any_spec(directory)
    if spec.task is Task.SEQ_CLS:
        raise AdapterError(
            f"{directory} is the adapter of a reward model (task_type SEQ_CLS): it scores text and writes none, so "
            "that it cannot answer, be merged, combined or exported; score text with veneer.open_reward_model"
        )
    return spec


def check_adapter(directory: Path) -> None:
    """Refuse a folder that `read_spec` cannot read, before more is done with it.

    Raises:
        AdapterError: see `read_spec`.
    """
    read_spec(directory)


def read_any_spec(directory: Path) -> LoraSpec:
    """Specification of a saved adapter of any task.

    Raises:
        AdapterError: see `read_spec`, but for a reward model's.
    """
    return _read(directory)[0]


def read_content(directory: Path) -> dict[str, Any]:
    """The content of a saved adapter's `adapter_config.json`.

    Raises:
        AdapterError: see `read_any_spec`.
    """
    return _read(directory)[1]


def _read(directory: Path) -> tuple[LoraSpec, dict[str, Any]]:
    path = directory / CONFIG_FILE
    check_unchanged(directory, CONFIG_FILE)
    try:
        config = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AdapterError(
            f"{directory}: no {CONFIG_FILE} there; give the folder of a run that has ended, of one of its checkpoints, "
            "or that PEFT's save_pretrained wrote"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: cannot be read: {error}") from error
    return parse_config(config, path), config


def read_reward_spec(directory: Path) -> LoraSpec:
    """Specification of the saved adapter of a reward model.

    Raises:
        AdapterError: see `read_any_spec`, or the adapter is not that of a reward model.
    """
    spec = read_any_spec(directory)
    if spec.task is not Task.SEQ_CLS:
        raise AdapterError(
            f"{directory} is not the adapter of a reward model (task_type {spec.task.value}): it has no score head; "
            "train one with objective: reward"
        )
    return spec


def config_warnings(directory: Path, spec: LoraSpec) -> list[str]:
    """Warnings about a saved adapter's configuration, from which `spec` was read."""
    warnings = []
    unknown = unknown_settings(read_content(directory))
    if unknown:
        warnings.append(
            f"{directory / CONFIG_FILE} has keys that neither PEFT nor veneer knows. They are switched off, and are "
            f"ignored:\n{listing(unknown)}"
        )
    unsaved = _without_weights(spec, directory / WEIGHTS_FILE)
    if unsaved:
        warnings.append(
            f"{directory / CONFIG_FILE} names modules in modules_to_save of which {WEIGHTS_FILE} has no weights. They "
            f"are ignored, as PEFT ignores modules that a model does not have:\n{listing(unsaved)}"
        )
    return warnings


def _without_weights(spec: LoraSpec, weights: Path) -> list[str]:
    """Names in `modules_to_save` for which the file has no tensor; empty if the file cannot be read."""
    if not spec.modules_to_save or not weights.is_file():
        return []
    modules = {path for name in tensor_names(weights) for path in with_parents(name.rpartition(".")[0])}
    return [name for name in spec.modules_to_save if modules and not any(path.endswith(name) for path in modules)]


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """Weights of a saved adapter in float32, by the names of `Adapter.tensors()`.

    Raises:
        AdapterError: the file is missing, damaged, a pickle or not what its run wrote, or a tensor has no float dtype,
            has a shape that no part of an adapter has, or is there twice.
    """
    path = directory / WEIGHTS_FILE
    check_unchanged(directory, WEIGHTS_FILE)
    if not path.exists():
        pickle = directory / "adapter_model.bin"
        hint = (
            f"; {pickle.name} is a pickle, which can run code when opened: convert it with PEFT first"
            if pickle.exists()
            else ""
        )
        raise AdapterError(f"{directory}: no {WEIGHTS_FILE} there{hint}")
    try:
        # The file is read as a whole: safe_open's get_tensor leaks two integers per tensor (safetensors 0.8), and a
        # server reads adapters for months.
        problems = [f"{name}: is twice in the header" for name in repeated_names(path)]
        # They are sorted, because safetensors returns them in a different order each time, and errors list them.
        raw = {} if problems else dict(sorted(load(path.read_bytes()).items()))
    except (SafetensorError, OSError, KeyError) as error:  # KeyError: a dtype that torch does not have
        raise AdapterError(f"{path}: not a readable safetensors file: {error}") from error
    problems += [f"{name}: stored as {tensor.dtype}" for name, tensor in raw.items() if tensor.dtype not in _READABLE]
    tensors: dict[str, Tensor] = {}
    for name, tensor in raw.items():
        plain = _plain(name)
        if plain in tensors:
            problems.append(f"{name}: is {plain} a second time")
        tensors[plain] = tensor
    problems += odd_shapes(tensors)
    if problems:
        readable = ", ".join(str(dtype).removeprefix("torch.") for dtype in _READABLE)
        raise AdapterError(f"{path} cannot be used (tensors are read as {readable}):\n{listing(problems)}")
    return {name: tensor.float() for name, tensor in tensors.items()}


def held_names(directory: Path) -> list[str]:
    """Names of the tensors that `read_tensors` would read, from the header of their file if it can be read.

    Raises:
        AdapterError: see `read_tensors`, if the header has no names.
    """
    path = directory / WEIGHTS_FILE
    names = tensor_names(path) if path.is_file() else []
    return [_plain(name) for name in names] or list(read_tensors(directory))


def _plain(name: str) -> str:
    """The name of `Adapter.tensors()` for one of a file."""
    return _DEFAULT.sub(r"\1", name.removeprefix(PEFT_PREFIX).replace(".modules_to_save.default.", "."))


def read_tokenizer(directory: Path, base: Tokenizer) -> Tokenizer:
    """The tokenizer in the folder of an adapter if it has more tokens than the base's, else the base's.

    Raises:
        ModelError: the tokenizer in the folder is damaged.
        AdapterError: its files are not what the adapter's run wrote.
    """
    if not (directory / TOKENIZER_FILE).is_file():
        return base
    for name in (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE):
        check_unchanged(directory, name)
    own = from_directory(directory)
    if own.vocab_size <= base.vocab_size:
        return base
    if own.chat_template is not None or own.named_templates:
        return own
    return replace(own, chat_template=base.chat_template, named_templates=base.named_templates)


def has_own_tokens(directory: Path, base: Tokenizer) -> bool:
    """Whether the tokenizer in the folder of an adapter has tokens that the base's lacks. PEFT and TRL save the base's
    tokenizer beside an adapter. A token for padding does not count, because no text has it.

    Raises:
        ModelError: the tokenizer in the folder is damaged.
        AdapterError: its files are not what the adapter's run wrote.
    """
    own = read_tokenizer(directory, base)
    if own is base:
        return False
    tokens, known = (one.backend.get_vocab(with_added_tokens=True).keys() for one in (own, base))
    return bool(tokens - known - {own.pad_token})


def check_expressions(spec: LoraSpec, names: Iterable[str], directory: Path) -> None:
    """Try the regular expressions of a saved adapter, before they are used here.

    Args:
        spec: the specification that was read.
        names: paths of modules, or names of tensors, in which the paths come before `.lora_`.
        directory: the folder of the adapter.

    Raises:
        AdapterError: an expression is invalid, or does not end.
    """
    problems = spec.unusable_expressions(sorted({name.partition(".lora_")[0] for name in names}))
    if problems:
        raise AdapterError(f"{directory / CONFIG_FILE} has expressions that cannot be used:\n{listing(problems)}")
