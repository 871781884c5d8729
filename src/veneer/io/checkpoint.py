"""Opening a model's files, whatever their format, and reading their tensors one at a time.

Safetensors and GGUF are read. Pickle is not, because loading a pickle can run code. Files stay memory-mapped, so that
only the requested tensor is in memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from veneer.bounds import check_token_ids
from veneer.errors import ModelError, listing
from veneer.io.experts import MIXTURES, MixtureCheckpoint
from veneer.io.finite import check_finite
from veneer.io.gguf.reader import MAPPED_BYTES, GgufCheckpoint
from veneer.io.headers import repeated_names
from veneer.io.hub import (
    HUB_FOLDER,
    HUB_ID,
    INDEX,
    SETTINGS,
    SINGLE,
    download,
    refuse_without_weights,
    without_weights,
)
from veneer.io.json_objects import object_in
from veneer.io.places import look, missing, place_named
from veneer.io.prequantised import CONFIG_KEY, StoredFormat, StoredTensors, StoredWeight, check_method
from veneer.io.protocol import BlockTensor
from veneer.io.protocol import Checkpoint as Checkpoint
from veneer.io.scaled import FLOAT8, ScaledTensors
from veneer.io.text_part import COMPOSITE, text_config, text_name
from veneer.io.tokenizer import Tokenizer, from_directory
from veneer.machine.large_pages import copied

WEIGHTS = "model*.safetensors"
"""Names of the files of weights, shards among them."""
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_FLOATS = {"F64": torch.float32, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Dtypes of weights by their names in a header; float64 is held as float32."""
_READABLE = ("F32", "F16", "BF16", "F64", *FLOAT8)
_SHARD = re.compile(r"[^/\\\0]+\.safetensors")


def model_name(source: str) -> str:
    """The name of a model for other people: never a path of this machine.

    A hub id is its own name. A path into the hub's cache (`models--OWNER--NAME/snapshots/…`) contains the id. For any
    other path, the last part is the name.
    """
    path = Path(os.path.expanduser(source))
    # Unlike `Path.exists`, this is false for a path that cannot be accessed, which still has a name.
    if not os.path.exists(path) and HUB_ID.fullmatch(source):
        return source
    cached = next((part for part in path.parts if part.startswith(HUB_FOLDER)), None)
    return path.resolve().name if cached is None else cached.removeprefix(HUB_FOLDER).replace("--", "/")


def open_checkpoint(source: str | Path, *, revision: str | None = None, named_by: Path | None = None) -> Checkpoint:
    """Open the files of a model.

    Args:
        source: a ``.gguf`` file; a directory with config.json and safetensors; a directory with exactly one ``.gguf``
            and no config.json; or a hub id ``owner/name``, which is taken from the cache or downloaded.
        revision: branch, tag or commit of a hub id.
        named_by: the record that `source` comes from where the user did not name it, for the error that nothing is
            there: whoever stands in another folder by now does not know the name.

    Raises:
        ModelError: there is no such model, its files are missing, damaged or of an unsupported kind, or a revision is
            given for files of this machine.
    """
    path = place_named(source, ModelError)
    _refuse_revision(path, revision)
    if path.is_dir():
        return _open_directory(path, str(source))
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelError(f"{path} is a file but not a .gguf: name the model's directory, a .gguf file or a hub id.")
        return GgufCheckpoint(path)
    name = str(source)
    # A string that does not look like a hub id is the path of a file or folder that is missing.
    if isinstance(source, Path) or path.suffix.lower() == ".gguf" or not HUB_ID.fullmatch(name):
        if named_by is not None:
            raise ModelError(f"{missing(path)}: {named_by} names the base model so; give --model, where it is now.")
        raise ModelError(f"{missing(path)}: name a model's directory, a .gguf file or a hub id 'owner/name'.")
    folder = download(name, revision)
    refuse_without_weights(name, revision, folder)
    return _open_directory(folder, name)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Configuration and tokenizer of a model, without its weights."""

    source: str
    """What the user named: a config.json, a directory, a file or a hub id."""
    config: Mapping[str, Any]
    """Content of config.json."""
    tokenizer: Callable[[], Tokenizer]
    """A function that reads the tokenizer. It raises ModelError if the tokenizer is missing or damaged."""
    weights: tuple[Path, ...] = ()
    """The safetensors files next to config.json, if they exist; only their headers are read."""
    blocks: Mapping[str, BlockTensor] = field(default_factory=dict)
    """Matrices in blocks of a GGUF file; see `Checkpoint`."""

    def files(self) -> list[Path]:
        """The files of weights that are there."""
        return list(self.weights)


def read_model_config(source: str | Path, *, revision: str | None = None) -> ModelConfig:
    """Read configuration and tokenizer of a model, with or without its weights.

    Args:
        source: a config.json; a directory with one; a ``.gguf`` file, or a directory with exactly one; or a hub id, of
            which only the small files are downloaded.
        revision: branch, tag or commit of a hub id.

    Raises:
        ModelError: there is no such model, its configuration cannot be read, its weights are quantised in an
            unsupported way, or a revision is given for files of this machine.
    """
    path = place_named(source, ModelError)
    _refuse_revision(path, revision)
    if not path.exists() and not isinstance(source, Path) and HUB_ID.fullmatch(str(source)):
        path = download(str(source), revision, SETTINGS)
    file = path / "config.json" if path.is_dir() else path
    look(file, ModelError)  # the folder itself may be one that may not be entered
    if file.suffix == ".json" and file.is_file():
        weights = tuple(sorted(path.glob(WEIGHTS))) if path.is_dir() else ()
        content = object_in(file)
        check_method(str(source), content)
        return ModelConfig(str(source), text_config(content), lambda: from_directory(file.parent), weights)
    checkpoint = open_checkpoint(source, revision=revision)
    return ModelConfig(checkpoint.source, checkpoint.config, checkpoint.tokenizer, blocks=checkpoint.blocks)


def _refuse_revision(path: Path, revision: str | None) -> None:
    if revision is not None and path.exists():
        raise ModelError(
            f"revision {revision!r} is for a model of the hub, but {path} is local: its files are used as they are. "
            "Leave revision out, or take back the one that a run has recorded by --set revision=null."
        )


def _open_directory(path: Path, source: str) -> Checkpoint:
    look(path / "config.json", ModelError)  # the folder itself may be one that may not be entered
    if (path / "config.json").is_file():
        files = SafetensorsCheckpoint(path, source=source)
        if str(files.config.get("model_type")) in COMPOSITE:
            return TextPart(files)
        return MixtureCheckpoint(files) if files.config.get("model_type") in MIXTURES else files
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) == 1:
        gguf = GgufCheckpoint(ggufs[0])
        gguf.source = source
        return gguf
    if ggufs:
        raise ModelError(f"{path} has several GGUF files, name one of them:\n{listing(str(file) for file in ggufs)}")
    raise ModelError(f"{path} has no config.json and no .gguf file: it is not a model's directory; name one.")


class SafetensorsCheckpoint:
    """A Hugging Face model directory: config.json and model.safetensors, or an index with its shards.

    Args:
        path: the directory.
        source: name of the model in messages; None means the directory.

    Raises:
        ModelError: a file is missing, damaged or of an unsupported kind.
    """

    def __init__(self, path: Path | str, *, source: str | None = None) -> None:
        self.path = Path(path)
        self.source = str(path) if source is None else source
        if not self.path.is_dir():
            raise ModelError(f"{self.path} is not a directory.")
        self.config: Mapping[str, Any] = object_in(self.path / "config.json")
        check_method(str(self.path), self.config)
        self.generation_config: Mapping[str, Any] = _generation_config(self.path, self.config)
        self._shards = {file: _open_shard(self.path / file) for file in self._shard_files()}
        self._touched = dict.fromkeys(self._shards, 0)
        self._where: dict[str, str] = {}
        for file, shard in self._shards.items():
            repeated = repeated_names(self.path / file)
            if repeated:
                raise ModelError(f"{self.path / file} has tensors twice in its header:\n{listing(repeated)}")
            for name in shard.keys():  # noqa: SIM118 - the handle is not a mapping
                if name in self._where:
                    raise ModelError(f"{self.path}: the tensor {name} is in two shards, one of them {file}.")
                self._where[name] = file
        absent = [f"{name} (in {file})" for name, file in self._index.items() if name not in self._where]
        if absent:
            raise ModelError(f"{self.path / INDEX} lists tensors that the shards do not have:\n{listing(absent)}")
        self._quantised = StoredTensors(str(self.path), self._where, self._raw, self._stored_shape)
        self.stored: Mapping[str, StoredFormat] = self._quantised.formats
        self.blocks: Mapping[str, BlockTensor] = {}
        self._scaled = ScaledTensors(
            str(self.path),
            self._where,
            kind=self._kind,
            shape=self._stored_shape,
            raw=self._raw,
            settings=self.config.get(CONFIG_KEY) or {},
        )

    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        found = self._where.keys() | self._scaled.shapes.keys()
        return sorted(found - self._quantised.parts - self._scaled.parts)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor. Raises ModelError for an unknown name."""
        if name in self._scaled:
            return self._scaled.shapes[name]
        return self.stored[name].shape if name in self.stored else self._stored_shape(name)

    def _stored_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._shard(name).get_slice(name).get_shape())

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """One tensor in `dtype`, copied once out of the mapped file.

        Raises:
            ModelError: there is no such tensor, its stored dtype is not supported, or a value is NaN or infinite, in
                the file or in `dtype`.
        """
        return self._read(name, dtype, None)

    def read_entry(self, name: str, index: int, dtype: torch.dtype) -> torch.Tensor:
        """One entry along a tensor's first dimension, in `dtype`. Only this entry is read."""
        return self._read(name, dtype, index)

    def _read(self, name: str, dtype: torch.dtype, index: int | None) -> torch.Tensor:
        if name in self._scaled:
            decoded = self._scaled.read(name, dtype, index)
            check_finite(self.source, name, decoded, lambda: self._scaled.read(name, torch.float32, index))
            return decoded
        kind = self._kind(name)
        if kind not in _READABLE or name in self.stored:
            raise ModelError(
                f"{self.path}: the tensor {name} is stored as {kind}, and {', '.join(_READABLE)} are read. "
                "Use the model's unquantised checkpoint."
            )
        mapped = self._mapped(name, index)
        tensor = copied(mapped, dtype)
        check_finite(self.source, name, tensor, lambda: mapped)
        return tensor

    def read_stored(self, name: str) -> StoredWeight:
        """Codes and scales of a quantised weight.

        Raises:
            ModelError: the weight is not stored quantised, or a scale is NaN or infinite.
        """
        if name not in self.stored:
            raise ModelError(f"{self.path}: the tensor {name} is not stored quantised.")
        stored = self._quantised.read(name)
        for scales in (stored.scales, stored.nested_scales, torch.tensor(stored.nested_offset)):
            if scales is not None:
                check_finite(self.source, f"the scales of {name}", scales)
        return stored

    def _kind(self, name: str) -> str:
        return str(self._shard(name).get_slice(name).get_dtype())

    def _raw(self, name: str, index: int | None = None) -> torch.Tensor:
        return self._mapped(name, index).clone()

    def _mapped(self, name: str, index: int | None = None) -> torch.Tensor:
        """One tensor in the mapped file, or one entry of it.

        The caller must copy it at once, since the tensor keeps the whole mapping alive.
        """
        shard, file = self._shard(name), self._where[name]
        mapped: torch.Tensor = shard.get_tensor(name) if index is None else shard.get_slice(name)[index]
        self._touched[file] += mapped.nbytes
        if self._touched[file] > MAPPED_BYTES:
            self._shards[file], self._touched[file] = _open_shard(self.path / file), 0
        return mapped

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. Raises ModelError if it is missing or damaged."""
        return from_directory(self.path)

    def files(self) -> list[Path]:
        """All existing files of the model: configuration, tensors and tokenizer."""
        names = ["config.json", "generation_config.json", INDEX, *self._shards, *_TOKENIZER_FILES]
        if not self._index:
            names.remove(INDEX)
        return [self.path / name for name in names if (self.path / name).is_file()]

    def _shard_files(self) -> list[str]:
        self._index: dict[str, str] = {}
        if (self.path / SINGLE).is_file():
            return [SINGLE]
        if not (self.path / INDEX).is_file():
            names = [file.name for file in self.path.iterdir()]
            raise ModelError(without_weights(str(self.path), names, "Name one of these, with its folder"))
        weight_map = object_in(self.path / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelError(f"{self.path / INDEX} has no weight_map.")
        for name, file in weight_map.items():
            if not isinstance(file, str) or len(file) > 255 or not _SHARD.fullmatch(file):
                raise ModelError(
                    f"{self.path / INDEX} puts the tensor {name} into {file!r:.300}, which is not a .safetensors "
                    "file of the same directory: refused."
                )
            self._index[name] = file
        files = sorted(set(self._index.values()))
        missing = [file for file in files if not (self.path / file).is_file()]
        if missing:
            raise ModelError(f"{self.path} lacks shards that its index names; download it again:\n{listing(missing)}")
        return files

    def _shard(self, name: str) -> Any:
        # safe_open objects have no public type: `Any` is the handle.
        file = self._where.get(name)
        if file is None:
            raise ModelError(f"{self.path} has no tensor {name!r}; it has {len(self._where)} others.")
        return self._shards[file]


def dtypes_in_headers(files: Iterable[Path]) -> set[torch.dtype]:
    """The dtypes of the matrices of floats in safetensors files, by their headers.

    Raises:
        ModelError: a file is damaged.
    """
    found: set[torch.dtype] = set()
    for file in files:
        if file.suffix == ".safetensors":
            shard = _open_shard(file)
            slices = [shard.get_slice(name) for name in shard.keys()]  # noqa: SIM118 - the handle is not a mapping
            found |= {
                _FLOATS[one.get_dtype()] for one in slices if one.get_dtype() in _FLOATS and len(one.get_shape()) > 1
            }
    return found


def dtype_in_headers(files: Iterable[Path]) -> torch.dtype | None:
    """The widest dtype of `dtypes_in_headers`, and of two with 16 bits the one with the larger range; None if there is
    none.

    Raises:
        ModelError: a file is damaged.
    """
    found = dtypes_in_headers(files)
    return max(found, key=lambda dtype: (dtype.itemsize, torch.finfo(dtype).max), default=None)


def _open_shard(file: Path) -> Any:
    try:
        # The object is usable without the context manager, and closes with its last reference.
        return safe_open(str(file), framework="pt", device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        _refuse_unreadable(file)
        raise ModelError(f"{file} is not a usable safetensors file: {error}. Download it again.") from error


def _refuse_unreadable(file: Path) -> None:
    """Works around the library, which reports an unreadable file as missing."""
    try:
        file.open("rb").close()
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}.") from error


def _generation_config(path: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Content of generation_config.json; without this file the ends in config.json, as for transformers.

    Raises:
        ModelError: the file is damaged, or ends are not token ids.
    """
    file, key = path / "generation_config.json", "eos_token_id"
    own = text_config(config)
    found = object_in(file) if file.is_file() else {key: own[key]} if own.get(key) is not None else {}
    check_token_ids(found, str(file if file.is_file() else path / "config.json"))
    return found


class TextPart:
    """The text model of a checkpoint with more than one model. See `veneer.io.text_part`."""

    def __init__(self, whole: Checkpoint):
        self._whole = whole
        self.source = whole.source
        self.config = text_config(whole.config)
        self.generation_config = whole.generation_config
        self._names = {own: name for name in whole.names() if (own := text_name(name)) is not None}
        stored = whole.stored
        self.stored: Mapping[str, StoredFormat] = {own: stored[n] for own, n in self._names.items() if n in stored}
        self.blocks: Mapping[str, BlockTensor] = {}

    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor. Raises ModelError for an unknown name."""
        return self._whole.shape(self._name(name))

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """One tensor in `dtype`. See `Checkpoint.read`."""
        return self._whole.read(self._name(name), dtype)

    def read_stored(self, name: str) -> StoredWeight:
        """Codes and scales of a quantised weight. See `Checkpoint.read_stored`."""
        return self._whole.read_stored(self._name(name))

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. Raises ModelError if it is missing or damaged."""
        return self._whole.tokenizer()

    def files(self) -> list[Path]:
        """All files of the model, for digests."""
        return self._whole.files()

    def _name(self, name: str) -> str:
        if name not in self._names:
            raise ModelError(f"{self.source}: there is no tensor {name} in its text model.")
        return self._names[name]
