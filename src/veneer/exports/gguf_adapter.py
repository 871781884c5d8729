"""Export `gguf-adapter`: a LoRA adapter as a GGUF file that llama.cpp puts on its base.

llama.cpp adds `adapter.lora.alpha` / rank · B A to a weight, with the rank of that weight's own B. It does not support
rsLoRA, alphas of single layers or DoRA. Scales of other forms are multiplied into B, and anything but a low-rank update
of a matrix is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType as Kind
from torch import Tensor

from veneer.adapters.adapter import Adapter
from veneer.adapters.layers.dora import DoraLinear
from veneer.adapters.layers.embedding import LoraEmbedding, TokenEmbedding, TokenHead
from veneer.adapters.layers.experts import ExpertsUpdate
from veneer.adapters.layers.linear import LoraLinear, TrainedBias
from veneer.adapters.layers.modules_to_save import SavedModule, TrainedNormBias
from veneer.adapters.load import load_adapter
from veneer.adapters.module import AdapterModule
from veneer.assistant.assistant import Assistant, make_assistant
from veneer.errors import AdapterError, ModelError, listing
from veneer.events import Stage
from veneer.exports import llama_cpp as runner
from veneer.exports.base import MergeBase
from veneer.exports.certificate import ReaderOutput
from veneer.exports.expected import ExpectedCheckpoint, dense_config
from veneer.exports.gguf import FORMATS as MODEL_FORMATS
from veneer.exports.gguf import MODEL_FILE, NO_LLAMA_CPP, format_of, settings_of, write_gguf_base
from veneer.exports.input_rounding import load_rounded, rounds
from veneer.exports.inputs import Checks, ExportInputs
from veneer.exports.modelfile import MODELFILE, modelfile, write_modelfile
from veneer.exports.readers import Reader, llama_cpp
from veneer.exports.record import ExportRecord
from veneer.exports.settings import text_differences
from veneer.exports.tensors import ExpectedTensor, MemoryTensors, ModelTensors
from veneer.exports.veneer_reader import ReaderInput, composes, own
from veneer.finite import all_finite
from veneer.io.files import scratch_folder
from veneer.io.gguf.config import completed, context_of, describe, family_of
from veneer.io.gguf.encode import Quant, encode, fitting
from veneer.io.gguf.header import read_header
from veneer.io.gguf.metadata import Value
from veneer.io.gguf.names import Piece, interleaved, pieces
from veneer.io.gguf.reader import decode
from veneer.io.gguf.writer import GgufWriter, Planned
from veneer.io.places import place_named
from veneer.model.families.choose import spec_from_hf

ADAPTER_FILE = "adapter.gguf"
SCRATCH = "llama-cpp-base"
"""The end of the name of the folder that holds the base while llama.cpp is asked."""
REMEDY = "Merge it into the model instead: --to gguf."
BIAS_REMEDY = (
    "If the base has biases, merge the adapter (--to gguf); else there is no place for one: use the adapter on its "
    "base (--to peft)."
)
FORMATS = {kind: MODEL_FORMATS[kind] for kind in (Quant.F32, Quant.F16, Quant.BF16, Quant.Q8_0)}
"""The types that A and B are written in, with their names in `export.json` and in the thresholds."""
NO_PLACE: dict[type[AdapterModule], str] = {
    DoraLinear: "DoRA's magnitudes",
    TrainedBias: "a trained bias",
    TrainedNormBias: "a trained bias",
    LoraEmbedding: "an update of the embedding",
    TokenEmbedding: "trained rows of the embedding",
    TokenHead: "trained rows of the head",
    SavedModule: "a module that was trained whole",
    ExpertsUpdate: "an update of experts",
}
"""The parts that llama.cpp has no place for, in words."""


@dataclass(frozen=True, slots=True)
class AdapterSummary:
    """The contents of a GGUF adapter."""

    architecture: str
    type: str
    alpha: float
    updates: int
    """The number of matrices that it changes."""
    folded: int
    """The number of these whose scale was multiplied into B."""
    bytes: int
    kinds: dict[str, int]
    """Number of tensors by type."""
    notes: tuple[str, ...]


def write_gguf_adapter(
    path: Path, adapter: Adapter, config: Mapping[str, Any], kind: Quant = Quant.F32, *, grown: bool = False
) -> AdapterSummary:
    """Write the low-rank updates of an adapter.

    Args:
        path: a new file. Writing is not atomic by itself: use it inside `atomic_folder`.
        adapter: the adapter on its model.
        config: the base's config.json.
        kind: the type of A and B.
        grown: whether the adapter comes with tokens that the base does not have.

    Raises:
        AdapterError: llama.cpp could not apply some of it, or a value is NaN or infinite; every reason is named.
        ModelError: GGUF files of the base's family are not written.
        OutputError: the file cannot be written.
    """
    family, places = family_of(config), _places(config)
    problems = [*_refused(adapter, places), *(["tokens: the adapter adds some to the vocabulary"] if grown else [])]
    if problems:
        biased = any(update.lora_B_bias is not None for update in adapter.updates().values())
        remedy = BIAS_REMEDY if biased else REMEDY
        raise AdapterError(
            f"llama.cpp cannot apply this adapter as a separate file on its base:\n{listing(problems)}\n{remedy}"
        )
    updates = adapter.updates()
    alpha = adapter.spec.alpha or 1.0
    plan: dict[str, Planned] = {}
    for module, update in updates.items():
        a, b = update.pairs()
        target = places[f"{module}.weight"].name
        for leaf, factor in (("a", a), ("b", b)):
            name = f"{target}.lora_{leaf}"
            plan[name] = Planned(name, tuple(factor.shape), fitting(Kind[kind.name], factor.shape[-1]))
    with GgufWriter(path, _metadata(adapter, config), list(plan.values())) as file:
        for module, update in updates.items():
            for name, factor in factors(update, places[f"{module}.weight"], alpha):
                file.write(name, encode(name, factor, plan[name].kind))
    narrow = sum(planned.kind is not Kind[kind.name] for planned in plan.values())
    return AdapterSummary(
        architecture=family.architecture,
        type=kind.value,
        alpha=float(alpha),
        updates=len(updates),
        folded=sum(_ratio(update, alpha) != 1.0 for update in updates.values()),
        bytes=path.stat().st_size,
        kinds=dict(Counter(planned.kind.name for planned in plan.values())),
        notes=(f"{narrow} factors are F16: their rows are no multiples of 32, as {kind.value} needs",)
        if narrow
        else (),
    )


def _metadata(adapter: Adapter, config: Mapping[str, Any]) -> dict[str, Value]:
    return {
        "general.architecture": family_of(config).architecture,
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": float(adapter.spec.alpha or 1.0),
    }


def _places(config: Mapping[str, Any]) -> dict[str, Piece]:
    """The matrices of a base that an update can be put on, by their Hugging Face names."""
    parts = pieces(family_of(config).names, completed(config))
    return {piece.sources[0]: piece for piece in parts if not piece.stacked}


def factors(update: LoraLinear, piece: Piece, alpha: float) -> Iterator[tuple[str, Tensor]]:
    """A and B of one update under their names in the file, as llama.cpp multiplies them.

    Args:
        update: the update of a linear layer.
        piece: the layer's weight in the base's file.
        alpha: the alpha of the whole file.
    """
    a, b = (factor.detach() for factor in update.pairs())
    ratio = _ratio(update, alpha)
    if ratio != 1.0:
        b = b.double() * ratio
    yield f"{piece.name}.lora_a", a
    # The rows of B are the weight's rows, in the same order.
    yield f"{piece.name}.lora_b", interleaved(b, piece.heads) if piece.heads else b


def _ratio(update: LoraLinear, alpha: float) -> float:
    """The factor on B that makes alpha / rank of the file the update's scale."""
    rank = update.pairs()[1].shape[1]
    return update.scale * rank / alpha


def _refused(adapter: Adapter, places: Mapping[str, Piece]) -> Iterator[str]:
    """Parts that llama.cpp would refuse or, worse, ignore."""
    for path, part in adapter.modules:
        if not isinstance(part, LoraLinear):
            yield f"{path}: {NO_PLACE[type(part)]}"
        elif part.lora_B_bias is not None:
            yield f"{path}: a bias in B"
        elif f"{path}.weight" not in places:
            yield f"{path}: GGUF files of this base have no such matrix (a tied head is the embedding there)"
        elif not all(map(all_finite, part.pairs())):
            yield f"{path}: NaN or infinite values"


# ------------------------------------------------------------------------------------------------- the kind of export


def kind_of(name: str | None) -> Quant:
    """The type of the factors that `--quant` names. See `format_of`."""
    return format_of(name, FORMATS, Quant.F32, "adapters")


def _base(inputs: ExportInputs) -> MergeBase:
    """The base that the adapter is compared on; the export does not depend on it."""
    return MergeBase.DEQUANTISED if inputs.checkpoint.stored else MergeBase.ORIGINAL


def write(inputs: ExportInputs, folder: Path) -> ExportRecord:
    """Write the adapter and a Modelfile.

    Raises:
        ModelError: GGUF cannot hold the base that the adapter would be used on.
    """
    kind, base = kind_of(inputs.request.quant), _base(inputs)
    describe(inputs.checkpoint.config)
    source = inputs.source(base)
    known = inputs.checkpoint.tokenizer()
    more_tokens = source.tokenizer is not None and source.tokenizer.vocab_size > known.vocab_size
    grown = more_tokens or source.model.spec.vocab_size > inputs.description.spec.vocab_size
    with Stage(inputs.emit, f"writing {ADAPTER_FILE} ({kind.value})"):
        written = write_gguf_adapter(folder / ADAPTER_FILE, source.adapter, inputs.checkpoint.config, kind, grown=grown)
    write_modelfile(folder, known, _from(inputs), adapter=f"./{ADAPTER_FILE}")
    return inputs.record(dtype=kind.value, stored_as=FORMATS[kind], merged_into=base, notes=written.notes)


def _from(inputs: ExportInputs) -> str:
    """Where Ollama loads the base from: its file or directory if it is here, else its name."""
    place = place_named(inputs.model, ModelError)
    return str(place.resolve()) if place.exists() else inputs.model


def checks(inputs: ExportInputs, folder: Path, record: ExportRecord) -> Checks:
    """The factors, and llama.cpp with the adapter on a float32 file of the base, which is deleted afterwards."""
    base = MergeBase(record.merged_into)
    kind = kind_of(record.format)
    file = folder / ADAPTER_FILE

    def read(asked: ReaderInput) -> ReaderOutput:
        # Next to an export that is being made, where there must be room for models. A check of an export writes nothing
        # there, because it may have no permission.
        place = Path(gettempdir()) if folder == inputs.request.output else folder.parent
        with scratch_folder(place, SCRATCH) as scratch:
            model = scratch / MODEL_FILE
            write_gguf_base(model, inputs.checkpoint, Quant.F32)
            return llama_cpp(model, adapter=file).read(asked)

    source = cache(lambda: inputs.source(base))
    config = inputs.checkpoint.config
    exact, gelu = kind is Quant.F32, rounds({}, spec_from_hf(config).activation)
    return Checks(
        reference=lambda: inputs.live(base),
        readers=(Reader("llama.cpp", read, rounds=True),) if runner.available() else (),
        tensors=lambda: _expected(source().adapter, config, kind),
        found=lambda: MemoryTensors(read_factors(file)),
        settings=lambda: _settings(inputs, source().adapter, folder),
        expected=None if exact else lambda: _with_rounded_factors(inputs.live(base), kind),
        rounded=None if exact and not gelu else lambda asked: _rounded(inputs, asked),
        notes=() if runner.available() else (NO_LLAMA_CPP,),
        opened=True,
        context=context_of(config),
        composed=composes(inputs.checkpoint.tokenizer()),
    )


def _settings(inputs: ExportInputs, adapter: Adapter, folder: Path) -> Iterator[str]:
    """Metadata, and the Modelfile without its first line, which names the base's place at the export."""
    yield from settings_of(folder / ADAPTER_FILE, _metadata(adapter, inputs.checkpoint.config))
    expected = modelfile(inputs.checkpoint.tokenizer(), _from(inputs), adapter=f"./{ADAPTER_FILE}")
    yield from text_differences(expected, folder / MODELFILE, first=1)


def _rounded(inputs: ExportInputs, asked: ReaderInput) -> ReaderOutput:
    """The adapter with exact factors on a base whose GELU is rounded as llama.cpp's: what rounding moves, both of the
    factors and of their inputs, is of that size."""
    checkpoint = inputs.checkpoint
    files = ExpectedCheckpoint(
        dense_config(checkpoint.config), checkpoint.generation_config, ModelTensors(checkpoint), checkpoint.tokenizer()
    )
    model = load_rounded(files, dict.fromkeys(checkpoint.names(), "F32"), inputs.device)
    adapter = load_adapter(model, inputs.request.adapter)
    return own(make_assistant(model, checkpoint, adapter), asked)


def _with_rounded_factors(assistant: Assistant, kind: Quant) -> Assistant:
    """A live adapter whose factors are those that a file of this type holds."""
    assert assistant.adapter is not None
    alpha = assistant.adapter.spec.alpha or 1.0
    with torch.no_grad():
        for update in assistant.adapter.updates().values():
            a, b = update.pairs()
            ratio, rank = _ratio(update, alpha), update.lora_A.shape[0]
            a, b = _held("A", a, kind), _held("B", b * ratio, kind)
            b = b / ratio if ratio else b  # an alpha of 0 multiplies whatever B is by 0
            update.lora_A.copy_(a[:rank])
            update.lora_B.copy_(b[:, :rank])
            if update.subtracted_a is not None and update.subtracted_b is not None:
                update.subtracted_a.copy_(a[rank:])
                update.subtracted_b.copy_(-b[:, rank:])
    return assistant


def _held(name: str, factor: Tensor, kind: Quant) -> Tensor:
    """A factor as a file of that type holds it."""
    stored = fitting(Kind[kind.name], factor.shape[-1])
    return decode(encode(name, factor.cpu(), stored), stored).reshape(factor.shape)


def _expected(adapter: Adapter, config: Mapping[str, Any], kind: Quant) -> Iterator[ExpectedTensor]:
    places = _places(config)
    for module, update in adapter.updates().items():
        for name, factor in factors(update, places[f"{module}.weight"], adapter.spec.alpha or 1.0):
            yield ExpectedTensor(name, factor, _held(name, factor, kind))


def read_factors(path: Path) -> dict[str, Tensor]:
    """A and B of every matrix of a GGUF adapter, under the names and in the rows of the file.

    Raises:
        ModelError: the file is damaged, or is not an adapter.
    """
    header = read_header(path)
    if header.metadata.get("adapter.type") != "lora":
        raise ModelError(f"{path} is not a LoRA adapter")
    data = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    return {
        name: decode(data[info.offset : info.offset + info.nbytes], info.kind).reshape(info.shape)
        for name, info in header.tensors.items()
    }
