"""Names of a mixture's experts: from the spelling in files to veneer's, and back to the family's published form.

In veneer every expert has its own linear layers, `{layer}.mlp.experts.{number}.{gate,up,down}_proj.weight` `[out, in]`
(as Qwen3-MoE is published). Files may have instead

    {layer}.block_sparse_moe.experts.{number}.w1, .w3, .w2   gate, up and down by Mixtral's names; the router beside
                                                             them is {layer}.block_sparse_moe.gate
    {layer}.mlp.experts.gate_up_proj [experts, 2 · inner, dim], .down_proj [experts, dim, inner]
                                                             as transformers 5 holds all experts of a layer
    gpt-oss: these names with [experts, dim, 2 · inner] and [experts, inner, dim], gate and up alternating, and `_bias`
    {layer}.mlp.experts.{gate,up,down}_proj.weight [experts, out, in]

From a fused tensor one expert is read at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from veneer.bounds import EXPERTS
from veneer.errors import ModelError, listing
from veneer.io.prequantised import StoredFormat, StoredWeight
from veneer.io.protocol import BlockTensor, Checkpoint, SlicedCheckpoint
from veneer.io.tokenizer import Tokenizer

MIXTURES = ("mixtral", "qwen3_moe", "gpt_oss")
"""Values of `model_type` that are mixtures."""
_MIXTRAL = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
_MIXTRAL_NAME = re.compile(r"(.*)\.block_sparse_moe\.(?:gate|experts\.(\d+)\.(w[123]))(\..*)")
_OWN_NAME = re.compile(r"(.*)\.mlp\.(?:gate|experts\.(\d+)\.(gate|up|down)_proj)(\..*)")
_FUSED_NAME = re.compile(r"(.*\.mlp\.experts)\.(gate_up|gate|up|down)_proj(_bias|\.weight)?")
_GPT_OSS = "gpt_oss"


class _Half(Enum):
    """Outputs of a fused tensor that one expert's layer has."""

    ALL = "all"
    GATE = "gate"
    UP = "up"


@dataclass(frozen=True, slots=True)
class _Place:
    """Place of a tensor in the files: the stored tensor, the expert, and the half of its outputs."""

    name: str
    expert: int | None = None
    half: _Half = _Half.ALL


class _Halves:
    """Halves of fused tensors that were decoded together with the requested ones, each kept until it is requested.

    Models are read expert by expert, and within an expert first gates, then ups: one weight and one bias wait at a
    time. More are not kept, since a caller that reads only gates never requests the others.
    """

    KEPT = 2

    def __init__(self) -> None:
        self._lock = Lock()
        self._found: dict[tuple[_Place, torch.dtype], Tensor] = {}

    def take(self, place: _Place, dtype: torch.dtype) -> Tensor | None:
        """Remove and return a half, or return None if it is not kept."""
        with self._lock:
            return self._found.pop((place, dtype), None)

    def keep(self, place: _Place, half: Tensor) -> None:
        """Keep a half, and let the oldest go."""
        with self._lock:
            self._found[place, half.dtype] = half
            if len(self._found) > self.KEPT:
                del self._found[next(iter(self._found))]


def _own_copy(half: Tensor) -> Tensor:
    """A contiguous copy, which does not keep the whole tensor's memory."""
    return half.clone(memory_format=torch.contiguous_format)


class MixtureCheckpoint:
    """The files of a mixture, with one name for each expert's layer (a `veneer.io.checkpoint.Checkpoint`).

    Args:
        files: the files, by their own names.

    Raises:
        ModelError: a fused tensor has an impossible shape.
    """

    def __init__(self, files: SlicedCheckpoint) -> None:
        self.original = files
        """The files by their own names."""
        self.source = files.source
        self.config = files.config
        self.generation_config = files.generation_config
        self._turned = files.config.get("model_type") == _GPT_OSS
        self._places: dict[str, _Place] = {}
        for name in files.names():
            self._places |= dict(self._own_names(name))
        back = {place.name: name for name, place in self._places.items() if place.expert is None}
        fused = sorted(files.stored.keys() - back.keys())
        if fused:
            raise ModelError(
                f"{self.source} has experts that bitsandbytes quantised as one tensor, which are not read:\n"
                f"{listing(fused)}\nUse the model's unquantised checkpoint, and quantise it here."
            )
        self.stored: Mapping[str, StoredFormat] = {back[name]: kind for name, kind in files.stored.items()}
        self.blocks: Mapping[str, BlockTensor] = {}
        self._halves = _Halves()

    def _own_names(self, name: str) -> Iterator[tuple[str, _Place]]:
        """The names of a stored tensor in this checkpoint."""
        fused = _FUSED_NAME.fullmatch(name)
        if fused is not None:
            yield from self._parts_of(name, *fused.groups())
            return
        found = _MIXTRAL_NAME.fullmatch(name)
        if found is None:
            yield name, _Place(name)
            return
        layer, number, leaf, rest = found.groups()
        inside = "gate" if number is None else f"experts.{number}.{_MIXTRAL[leaf]}"
        yield f"{layer}.mlp.{inside}{rest}", _Place(name)

    def _parts_of(self, name: str, path: str, leaf: str, ending: str | None) -> Iterator[tuple[str, _Place]]:
        shape = self.original.shape(name)
        bias = ending == "_bias"
        if len(shape) != (2 if bias else 3):
            raise ModelError(f"{self.source}: {name} has shape {list(shape)}, which is not that of a layer's experts.")
        if shape[0] > EXPERTS:
            # A tensor without elements may claim any number of experts, each of which would get names here.
            raise ModelError(f"{self.source}: {name} has {shape[0]:,} experts; at most {EXPERTS:,} can be read.")
        kind = "bias" if bias else "weight"
        leaves = {"gate": _Half.GATE, "up": _Half.UP} if leaf == "gate_up" else {leaf: _Half.ALL}
        for expert in range(shape[0]):
            for part, half in leaves.items():
                yield f"{path}.{expert}.{part}_proj.{kind}", _Place(name, expert, half)

    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self._places)

    def _place(self, name: str) -> _Place:
        found = self._places.get(name)
        if found is None:
            raise ModelError(f"{self.source} has no tensor {name!r}; it has {len(self._places)} others.")
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor. Raises ModelError for an unknown name."""
        place = self._place(name)
        shape = self.original.shape(place.name)
        if place.expert is None:
            return shape
        shape = shape[1:]
        if self._turned and len(shape) == 2:
            shape = (shape[1], shape[0])
        return shape if place.half is _Half.ALL else (shape[0] // 2, *shape[1:])

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """One tensor in `dtype`, fresh, contiguous and writable. Raises ModelError if it cannot be read."""
        place = self._place(name)
        if place.expert is None:
            return self.original.read(place.name, dtype)
        if place.half is _Half.ALL:
            return self._entry(place, dtype).contiguous()
        kept = self._halves.take(place, dtype)
        if kept is not None:
            return kept
        whole = self._entry(place, dtype)
        middle = len(whole) // 2
        gate, up = (whole[0::2], whole[1::2]) if self._turned else (whole[:middle], whole[middle:])
        asked, other, name_of_other = (gate, up, _Half.UP) if place.half is _Half.GATE else (up, gate, _Half.GATE)
        self._halves.keep(replace(place, half=name_of_other), _own_copy(other))
        return _own_copy(asked)

    def _entry(self, place: _Place, dtype: torch.dtype) -> Tensor:
        """One expert's part of a fused tensor, `[out, in]` or `[out]`."""
        assert place.expert is not None
        whole = self.original.read_entry(place.name, place.expert, dtype)
        return whole.t() if self._turned else whole  # a bias stays as it is

    def read_stored(self, name: str) -> StoredWeight:
        """Codes and scales of a weight in `stored`. Raises ModelError for another name."""
        return self.original.read_stored(self._place(name).name)

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. Raises ModelError if it is missing or damaged."""
        return self.original.tokenizer()

    def files(self) -> list[Path]:
        """All files of the model, for digests."""
        return self.original.files()


def as_published(config: Mapping[str, Any], tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Tensors with the names and in the form of the family's published files. Those of other models stay as they are.

    Experts of gpt-oss are collected until a layer is complete, so that one fused tensor is in memory.

    Args:
        config: content of config.json.
        tensors: the tensors, by veneer's names.
    """
    kind = config.get("model_type")
    collected: dict[str, _Fused] = {}
    for name, tensor in tensors:
        found = _OWN_NAME.fullmatch(name)
        if found is None or kind not in ("mixtral", _GPT_OSS):
            yield name, tensor
            continue
        layer, number, leaf, rest = found.groups()
        if kind == "mixtral":
            back = {own: spelled for spelled, own in _MIXTRAL.items()}
            inside = "gate" if number is None else f"experts.{number}.{back[f'{leaf}_proj']}"
            yield f"{layer}.block_sparse_moe.{inside}{rest}", tensor
        elif number is None:
            yield name, tensor
        else:
            parameter = "down_proj" if leaf == "down" else "gate_up_proj"
            whole = f"{layer}.mlp.experts.{parameter}{'_bias' if rest == '.bias' else ''}"
            fused = collected.setdefault(whole, _Fused(int(config["num_local_experts"]), leaf != "down"))
            if fused.add(int(number), leaf, tensor):
                yield whole, collected.pop(whole).take()


class _Fused:
    """One tensor of all experts, filled expert by expert: `[experts, in, out]`, or `[experts, out]` for biases."""

    def __init__(self, experts: int, paired: bool) -> None:
        self._experts, self._paired = experts, paired
        self._left = experts * (2 if paired else 1)
        self._whole: Tensor | None = None

    def add(self, expert: int, leaf: str, tensor: Tensor) -> bool:
        """Copy one expert's tensor in. Returns whether all experts are there."""
        turned = tensor.t() if tensor.dim() == 2 else tensor
        if self._whole is None:
            width = turned.shape[-1] * (2 if self._paired else 1)
            self._whole = turned.new_empty(self._experts, *turned.shape[:-1], width)
        own = self._whole[expert]
        if self._paired:
            own = own[..., (0 if leaf == "gate" else 1) :: 2]
        own.copy_(turned)
        self._left -= 1
        return not self._left

    def take(self) -> Tensor:
        """The complete tensor."""
        assert self._whole is not None
        return self._whole


def as_stored(checkpoint: Checkpoint) -> Checkpoint:
    """The files by their own names, with experts as they are stored."""
    return checkpoint.original if isinstance(checkpoint, MixtureCheckpoint) else checkpoint
