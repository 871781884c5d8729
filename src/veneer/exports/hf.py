"""Merging for models that transformers computes: the files of the base, tensor by tensor, with the updates added."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from veneer.adapters.adapter import Adapter
from veneer.adapters.files.store import check_adapter
from veneer.adapters.load import load_adapter
from veneer.backends.files import HfFiles
from veneer.backends.load import load_hf
from veneer.errors import AdapterError
from veneer.exports.base import FileLinear, MergeBase, TrainingBase
from veneer.exports.merge import MergeSummary, rounded
from veneer.exports.tensors import ModelTensors
from veneer.io.checkpoint import Checkpoint
from veneer.io.model_files import stream_files
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.model.hf import HfModel, build
from veneer.model.hf_skeleton import make_skeleton
from veneer.model.hf_sources import keeps_float32
from veneer.quant.packed import PackedLinear


@dataclass(frozen=True, slots=True)
class HfSource:
    """A base with an adapter on it, for reading and not for computing."""

    files: HfFiles
    model: HfModel
    adapter: Adapter
    wide: Callable[[str], bool]
    """Whether a tensor stays in float32."""

    def stored(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """The tensors in the files for a tensor of the base, by their names and in float32; quantised weights are
        decoded."""
        path, _, leaf = name.rpartition(".")
        held = self.adapter.base_of(path) or self.model.get_submodule(path)
        if leaf == "weight" and isinstance(held, PackedLinear):
            yield self.files.file_name(name), self.files.turned(name, held.dequantize(torch.float32))
            return
        for file in self.files.file_names(name):
            yield file, ModelTensors(self.files.checkpoint).read(file, torch.float32)


def open_hf_source(checkpoint: Checkpoint, adapter: Path, base: MergeBase, trained: TrainingBase) -> HfSource:
    """Put the adapter in a folder on a base whose weights stay in their files, unless they are quantised.

    Raises:
        ModelError, AdapterError: they cannot be used, or do not fit each other.
    """
    check_adapter(adapter)
    skeleton = make_skeleton(checkpoint.config, torch.float32)
    files, wide = HfFiles(checkpoint, skeleton), keeps_float32(skeleton.module)
    if base is MergeBase.DEQUANTISED:
        model = load_hf(
            checkpoint,
            Loading(form=WeightForm.QUANTIZED, dtype=torch.float32, quant=trained.quant, quantised_from=trained.dtype),
        )
    else:
        model = build(skeleton, _FileWeights(files), torch.float32, torch.device("cpu"))
    return HfSource(files, model, load_adapter(model, adapter), wide)


@dataclass(frozen=True, slots=True)
class _FileWeights:
    """Leaves without values (`veneer.model.hf.HfWeights`): linear layers read theirs from the files when asked."""

    files: HfFiles

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        return FileLinear(self.files, path, in_features, out_features, bias)

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        return nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)

    def buffer(self, path: str) -> Tensor | None:
        return None


def write_merged_hf(
    folder: Path, source: HfSource, dtype: torch.dtype, progress: Callable[[str], None] = lambda name: None
) -> MergeSummary:
    """Write base and adapter as one model into an existing folder, holding one tensor at a time.

    The files keep the base's names and layout; tensors that transformers' class has no place for are left out.

    Args:
        folder: gets config.json, model.safetensors, the tokenizer and the generation settings.
        source: base and adapter.
        dtype: the dtype of the weights, except those that transformers keeps in float32.
        progress: called with the name of every tensor that is written.

    Raises:
        ModelError: a value does not fit into `dtype`, or a changed weight is made of several of the files.
        AdapterError: the adapter adds tensors that the architecture has no place for.
        OutputError: a file cannot be written.
    """
    files = source.files
    written: set[str] = set()
    changed: set[str] = set()

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for file, tensor, wide, new in merged_files(source):
            progress(file)
            written.add(file)
            if new:
                changed.add(file)
            yield file, rounded(file, tensor, torch.float32 if wide else dtype)

    stream_files(folder, files.checkpoint.names(), tensors(), dtype, files.checkpoint)
    return MergeSummary(len(changed), len(written), source.model.spec.tied_head)


def merged_files(source: HfSource) -> Iterator[tuple[str, Tensor, bool, bool]]:
    """The merged model under its files' names, before anything is rounded.

    Yields the name, the tensor, whether it stays in float32, and whether the adapter changed it.

    Raises:
        AdapterError: the adapter adds tensors that the architecture has no place for.
        ModelError: a changed weight is made of several of the files.
    """
    files = source.files
    known = files.names()
    changed: set[str] = set()
    seen: set[str] = set()

    def parts() -> Iterator[tuple[str, Iterable[tuple[str, Tensor]]]]:
        for name, tensor in source.adapter.merged():
            if name not in known:
                raise AdapterError(
                    f"the adapter adds {name}, for which the architecture has no place; use the adapter unmerged, on "
                    "its base"
                )
            changed.add(name)
            yield name, [(files.file_name(name), files.turned(name, tensor))]
        yield from ((name, source.stored(name)) for name in known if name not in changed)

    for name, stored in parts():
        for file, tensor in stored:
            # One of the files may be in several tensors of the model.
            if file not in seen:
                seen.add(file)
                yield file, tensor, source.wide(name), name in changed
