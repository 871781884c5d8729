"""A model's files behind one small protocol, its tensors read one at a time.

Safetensors and GGUF are read; pickle is not, because loading one runs the code that is in it. Nothing here holds more
than the tensor that was asked for: files stay memory-mapped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError, safe_open

from veneer.errors import ModelError, listing
from veneer.io.gguf.reader import MAPPED_BYTES, GgufCheckpoint
from veneer.io.prequantised import StoredFormat, StoredTensors, StoredWeight, check_method
from veneer.io.text_part import COMPOSITE, text_config, text_name
from veneer.io.tokenizer import Tokenizer, from_directory

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
HUB_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
"""What is fetched of a hub repository: no pickles, no code."""
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_READABLE = ("F32", "F16", "BF16", "F64")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Checkpoint(Protocol):
    """One model's files: configuration, tensors by Hugging Face name, tokenizer. Tensors are read one at a time."""

    source: str
    """What the user named (directory, hub id or file), for messages and adapter_config."""
    config: Mapping[str, Any]
    """Hugging Face config.json content (made from the metadata for GGUF)."""
    generation_config: Mapping[str, Any]
    """generation_config.json, or empty."""
    stored: Mapping[str, StoredFormat]
    """The weights that the files hold quantised by bitsandbytes, by name. They stand in `names` and have the shape of
    what they decode to; `read` refuses them, `read_stored` hands out their parts."""

    def names(self) -> list[str]:
        """Hugging Face names of all tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor, row-major. Raises ModelError for an unknown name."""
        ...

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """A fresh, contiguous, writable CPU tensor in `dtype`. Raises ModelError where it cannot be read."""
        ...

    def read_stored(self, name: str) -> StoredWeight:
        """The parts of one of `stored`, copied to the CPU as they are. Raises ModelError for another name."""
        ...

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. Raises ModelError where it is missing or damaged."""
        ...

    def files(self) -> list[Path]:
        """Every file that was read, for digests."""
        ...


def open_checkpoint(source: str | Path, *, revision: str | None = None) -> Checkpoint:
    """Open the model that `source` names.

    Args:
        source: a ``.gguf`` file; a directory with config.json and safetensors; a directory with exactly one ``.gguf``
            and no config.json; or a hub id ``owner/name``, which is taken from the cache or downloaded.
        revision: branch, tag or commit of a hub id.

    Raises:
        ModelError: there is no such model, or its files are missing, damaged or of a kind that is not read.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _open_directory(path, str(source))
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelError(f"{path} is a file but not a .gguf: name the model's directory, a .gguf file or a hub id.")
        return GgufCheckpoint(path)
    name = str(source)
    # A string that does not look like a hub id, or names a folder that should be here, is a path that is missing.
    if isinstance(source, Path) or path.suffix.lower() == ".gguf" or not _HUB_ID.fullmatch(name):
        raise ModelError(f"{name} does not exist: name a model's directory, a .gguf file or a hub id 'owner/name'.")
    return _open_directory(_download(name, revision), name)


@dataclass(frozen=True, slots=True)
class Description:
    """A model without its weights."""

    config: Mapping[str, Any]
    """Hugging Face config.json content."""
    tokenizer: Callable[[], Tokenizer]
    """Reads the tokenizer. Raises ModelError where it is missing or damaged."""


def describe(source: str | Path, *, revision: str | None = None) -> Description:
    """What `source` says about a model, whether or not its weights are there.

    Args:
        source: a config.json; a directory with one; a ``.gguf`` file, or a directory with exactly one; or a hub id, of
            which only the small files are fetched.
        revision: branch, tag or commit of a hub id.

    Raises:
        ModelError: there is no such model, or its configuration cannot be read.
    """
    path = Path(source).expanduser()
    if not path.exists() and not isinstance(source, Path) and _HUB_ID.fullmatch(str(source)):
        path = _download(str(source), revision, [pattern for pattern in HUB_PATTERNS if "safetensors" not in pattern])
    file = path / "config.json" if path.is_dir() else path
    if file.suffix == ".json" and file.is_file():
        return Description(text_config(_read_object(file)), lambda: from_directory(file.parent))
    checkpoint = open_checkpoint(source, revision=revision)
    return Description(checkpoint.config, checkpoint.tokenizer)


def _open_directory(path: Path, source: str) -> Checkpoint:
    if (path / "config.json").is_file():
        checkpoint = SafetensorsCheckpoint(path, source=source)
        return TextPart(checkpoint) if checkpoint.config.get("model_type") in COMPOSITE else checkpoint
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) == 1:
        gguf = GgufCheckpoint(ggufs[0])
        gguf.source = source
        return gguf
    if ggufs:
        raise ModelError(f"{path} holds several GGUF files, name one of them:\n{listing(str(file) for file in ggufs)}")
    raise ModelError(f"{path} has no config.json and no .gguf file: it is not a model's directory.")


def _download(name: str, revision: str | None, patterns: list[str] = HUB_PATTERNS) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        at = f" at revision {revision}" if revision else ""
        raise ModelError(
            f"The model {name}{at} is neither a local directory nor could it be fetched from the hub: {first} "
            "Check the name, the network and, for a gated model, `hf auth login`; or name a directory that holds it."
        ) from error


class SafetensorsCheckpoint:
    """A Hugging Face model directory: config.json and model.safetensors, or an index with its shards.

    Args:
        path: the directory.
        source: what the user named; the directory itself where not given.

    Raises:
        ModelError: a file is missing, damaged or of a kind that is not read.
    """

    def __init__(self, path: Path | str, *, source: str | None = None) -> None:
        self.path = Path(path)
        self.source = str(path) if source is None else source
        if not self.path.is_dir():
            raise ModelError(f"{self.path} is not a directory.")
        self.config: Mapping[str, Any] = _read_object(self.path / "config.json")
        check_method(str(self.path), self.config)
        generation = self.path / "generation_config.json"
        self.generation_config: Mapping[str, Any] = _read_object(generation) if generation.is_file() else {}
        self._shards = {file: _open_shard(self.path / file) for file in self._shard_files()}
        self._touched = dict.fromkeys(self._shards, 0)
        self._where: dict[str, str] = {}
        for file, shard in self._shards.items():
            for name in shard.keys():  # noqa: SIM118 - the handle is not a mapping
                if name in self._where:
                    raise ModelError(f"{self.path}: the tensor {name} is in two shards, one of them {file}.")
                self._where[name] = file
        absent = [f"{name} (in {file})" for name, file in self._index.items() if name not in self._where]
        if absent:
            raise ModelError(f"{self.path / INDEX} lists tensors that the shards do not hold:\n{listing(absent)}")
        self._quantised = StoredTensors(str(self.path), self._where, self._raw, self._stored_shape)
        self.stored: Mapping[str, StoredFormat] = self._quantised.formats

    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self._where.keys() - self._quantised.parts)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor. Raises ModelError for an unknown name."""
        return self.stored[name].shape if name in self.stored else self._stored_shape(name)

    def _stored_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._shard(name).get_slice(name).get_shape())

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """One tensor, copied once out of the mapped file and converted to `dtype` on the way.

        Raises:
            ModelError: there is no such tensor, or its stored type is not F32, F16, BF16 or F64.
        """
        kind = self._shard(name).get_slice(name).get_dtype()
        if kind not in _READABLE or name in self.stored:
            raise ModelError(
                f"{self.path}: the tensor {name} is stored as {kind}, and {', '.join(_READABLE)} are read. "
                "Use the model's unquantised checkpoint."
            )
        return self._mapped(name).to(dtype, copy=True, memory_format=torch.contiguous_format)

    def read_stored(self, name: str) -> StoredWeight:
        """The parts of a weight that is stored quantised. Raises ModelError where it is not."""
        if name not in self.stored:
            raise ModelError(f"{self.path}: the tensor {name} is not stored quantised.")
        return self._quantised.read(name)

    def _raw(self, name: str) -> torch.Tensor:
        return self._mapped(name).clone()

    def _mapped(self, name: str) -> torch.Tensor:
        """One tensor in the mapped file, to be copied at once: one that is held keeps its mapping."""
        shard, file = self._shard(name), self._where[name]
        mapped: torch.Tensor = shard.get_tensor(name)
        self._touched[file] += mapped.nbytes
        if self._touched[file] > MAPPED_BYTES:
            self._shards[file], self._touched[file] = _open_shard(self.path / file), 0
        return mapped

    def tokenizer(self) -> Tokenizer:
        """The tokenizer beside the model. Raises ModelError where it is missing or damaged."""
        return from_directory(self.path)

    def files(self) -> list[Path]:
        """Every file of the model that is there: configuration, tensors, tokenizer."""
        names = ["config.json", "generation_config.json", INDEX, *self._shards, *_TOKENIZER_FILES]
        if not self._index:
            names.remove(INDEX)
        return [self.path / name for name in names if (self.path / name).is_file()]

    def _shard_files(self) -> list[str]:
        self._index: dict[str, str] = {}
        if (self.path / SINGLE).is_file():
            return [SINGLE]
        if not (self.path / INDEX).is_file():
            pickles = sorted(file.name for file in self.path.glob("*.bin"))
            if pickles:
                raise ModelError(
                    f"{self.path} holds only {pickles[0]}, a pickle, which is refused because loading it can run any "
                    "code. Use a revision with model.safetensors, or convert it where you trust it."
                )
            raise ModelError(f"{self.path} has neither {SINGLE} nor {INDEX}.")
        weight_map = _read_object(self.path / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelError(f"{self.path / INDEX} has no weight_map.")
        for name, file in weight_map.items():
            if not isinstance(file, str) or "/" in file or "\\" in file or not file.endswith(".safetensors"):
                raise ModelError(
                    f"{self.path / INDEX} puts the tensor {name} into {file!r}, which is not a .safetensors file of "
                    "the same directory: refused."
                )
            self._index[name] = file
        files = sorted(set(self._index.values()))
        missing = [file for file in files if not (self.path / file).is_file()]
        if missing:
            raise ModelError(f"{self.path} lacks shards that its index names:\n{listing(missing)}")
        return files

    def _shard(self, name: str) -> Any:
        # safe_open objects have no public type: `Any` is the handle.
        file = self._where.get(name)
        if file is None:
            raise ModelError(f"{self.path} has no tensor {name!r}; it has {len(self._where)} others.")
        return self._shards[file]


def _open_shard(file: Path) -> Any:
    try:
        # safe_open is a context manager only in part: the object itself is usable, and closes with its last reference.
        return safe_open(str(file), framework="pt", device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{file} is not a usable safetensors file: {error}. Download it again.") from error


def _read_object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{file} holds a {type(value).__name__}, a JSON object is needed.")
    return value


class TextPart:
    """The text model of a checkpoint that holds more than one; see `veneer.io.text_part`."""

    def __init__(self, whole: Checkpoint):
        self._whole = whole
        self.source = whole.source
        self.config = text_config(whole.config)
        self.generation_config = whole.generation_config
        self._names = {own: name for name in whole.names() if (own := text_name(name)) is not None}
        stored = whole.stored
        self.stored: Mapping[str, StoredFormat] = {own: stored[n] for own, n in self._names.items() if n in stored}

    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor. Raises ModelError for an unknown name."""
        return self._whole.shape(self._name(name))

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """A fresh tensor; see `Checkpoint.read`."""
        return self._whole.read(self._name(name), dtype)

    def read_stored(self, name: str) -> StoredWeight:
        """The parts of a weight that is stored quantised; see `Checkpoint.read_stored`."""
        return self._whole.read_stored(self._name(name))

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. Raises ModelError where it is missing or damaged."""
        return self._whole.tokenizer()

    def files(self) -> list[Path]:
        """Every file that was read, for digests."""
        return self._whole.files()

    def _name(self, name: str) -> str:
        if name not in self._names:
            raise ModelError(f"{self.source}: there is no tensor {name} in its text model.")
        return self._names[name]
