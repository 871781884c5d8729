"""Export `gguf`: a base with an adapter merged in as one GGUF model, for llama.cpp and programs built on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from gguf.constants import GGMLQuantizationType as Kind
from torch import Tensor

from veneer.assistant.assistant import make_assistant
from veneer.data.encoded.chat import stop_tokens
from veneer.data.encoded.encoding import encoder_of
from veneer.errors import ConfigError, nearest
from veneer.events import Stage
from veneer.exports import llama_cpp as runner
from veneer.exports.base import MergeBase, Source
from veneer.exports.certificate import ReaderOutput
from veneer.exports.expected import ExpectedCheckpoint, dense_config, model_of
from veneer.exports.input_rounding import BY_TYPE, load_rounded, rounds
from veneer.exports.input_rounding import rounded as rounded_inputs
from veneer.exports.inputs import Checks, ExportInputs
from veneer.exports.merge import HEAD, merged_config, merged_in_memory, merged_tensors
from veneer.exports.modelfile import MODELFILE, modelfile, write_modelfile
from veneer.exports.readers import Reader, llama_cpp, veneer_folder
from veneer.exports.record import ExportRecord
from veneer.exports.settings import differences, text_differences
from veneer.exports.tensors import ExpectedTensor, ModelTensors, Tensors
from veneer.exports.veneer_reader import ReaderInput, composes, own
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.io.gguf.config import completed, context_of, family_of
from veneer.io.gguf.encode import Quant, encode
from veneer.io.gguf.header import read_header
from veneer.io.gguf.metadata import Value
from veneer.io.gguf.model import WrittenGguf, divisors, metadata, needed, plan_kinds, write_model
from veneer.io.gguf.names import EMBEDDING, Piece, pieces
from veneer.io.gguf.reader import decode
from veneer.io.gguf.rope import read_divisors
from veneer.io.tokenizer import Tokenizer

GGUF, MODEL_FILE = "gguf", "model.gguf"
DEFAULT = Quant.F16
FORMATS = {
    Quant.F32: "float32",
    Quant.F16: "float16",
    Quant.BF16: "bfloat16",
    Quant.Q8_0: "q8_0",
    Quant.Q4_0: "q4_0",
    Quant.Q4_K_M: "q4_k_m",
}
"""The names in `export.json` and in the thresholds."""
ROUNDED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NO_LLAMA_CPP = "not read by llama.cpp, because it is not installed: pip install 'veneer[llama-cpp]'"
FREE_KEYS = ("general.name", "general.alignment")
"""Metadata that changes nothing."""
DEQUANTISED = "merged into the dequantised base, because the adapter was trained with it"


def write_gguf(path: Path, source: Source, quant: Quant, *, name: str, progress: Callable[[str], None]) -> WrittenGguf:
    """Write base and adapter as one GGUF model, holding one tensor at a time.

    The sums are made in float64 and rounded, or quantised, once.

    Args:
        path: a new file. Writing is not atomic by itself: use it inside `atomic_folder`.
        source: base and adapter.
        quant: the type of the matrices; biases and norms are float32.
        name: the model's name, for people.
        progress: called with the Hugging Face name of every tensor.

    Raises:
        ModelError: GGUF cannot carry the model or its tokenizer, or a value does not fit; nothing usable is left.
        AdapterError: the adapter changes something that the architecture has no place for.
        OutputError: the file cannot be written.
    """
    tokenizer = source.tokenizer or source.checkpoint.tokenizer()
    tensors = ((tensor, values) for tensor, values, _ in merged_tensors(source))
    ends = _ends(source.checkpoint, tokenizer)
    return write_model(path, merged_config(source), tokenizer, tensors, quant, name=name, ends=ends, progress=progress)


def write_gguf_base(path: Path, checkpoint: Checkpoint, quant: Quant) -> WrittenGguf:
    """Write a model without an adapter, like `write_gguf`. Quantised weights are decoded."""
    read = ModelTensors(checkpoint).read
    tensors = ((tensor, read(tensor, torch.float32)) for tensor in needed(checkpoint.config))
    tokenizer = checkpoint.tokenizer()
    ends = _ends(checkpoint, tokenizer)
    return write_model(path, checkpoint.config, tokenizer, tensors, quant, ends=ends)


def _ends(checkpoint: Checkpoint, tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that end an answer of the live model."""
    return stop_tokens(tokenizer, checkpoint.generation_config, encoder_of(tokenizer))


# ------------------------------------------------------------------------------------------------- the kind of export


def format_of(name: str | None, formats: Mapping[Quant, str], default: Quant, written: str) -> Quant:
    """The format that `--quant` names, by either of its names.

    Args:
        name: the option; None where it was not given.
        formats: all formats, with their other names.
        default: the format if the option was not given.
        written: the kind of file, for messages.

    Raises:
        ConfigError: there is no such format.
    """
    known = {kind.value: kind for kind in formats} | {said: kind for kind, said in formats.items()}
    if name is None:
        return default
    if name.lower() not in known:
        choices = [kind.value for kind in formats]
        raise ConfigError(f"--quant {name}{nearest(name, choices)}: GGUF {written} are written in {', '.join(choices)}")
    return known[name.lower()]


def quant_of(name: str | None) -> Quant:
    """The type of a model's matrices that `--quant` names. See `format_of`."""
    return format_of(name, FORMATS, DEFAULT, "models")


def write(inputs: ExportInputs, folder: Path) -> ExportRecord:
    """Write the model and a Modelfile."""
    quant = quant_of(inputs.request.quant)
    base = MergeBase.DEQUANTISED if inputs.trained.quantized else MergeBase.ORIGINAL
    source = inputs.source(base)
    total = len(inputs.checkpoint.names())
    with Stage(inputs.emit, f"writing {MODEL_FILE} ({quant.value})", total=total, unit="tensors") as stage:
        written = write_gguf(
            folder / MODEL_FILE, source, quant,
            name=inputs.request.output.name, progress=lambda name: stage.advance(item=name),
        )  # fmt: skip
    write_modelfile(folder, source.tokenizer or source.checkpoint.tokenizer(), f"./{MODEL_FILE}")
    return inputs.record(
        dtype=quant.value,
        stored_as=FORMATS[quant],
        merged_into=base,
        notes=[*([DEQUANTISED] if inputs.trained.quantized else []), *written.notes],
    )


def checks(inputs: ExportInputs, folder: Path, record: ExportRecord) -> Checks:
    """Settings, merged tensors, our loader and llama.cpp."""
    base, quant = MergeBase(record.merged_into), quant_of(record.format)
    file = folder / MODEL_FILE
    source = inputs.source(base)
    config, tokenizer = merged_config(source), source.tokenizer or inputs.checkpoint.tokenizer()
    types, ends = _types(config, quant), _ends(inputs.checkpoint, tokenizer)
    readers: list[Reader] = [veneer_folder(file, inputs.device)]
    if runner.available():
        readers.append(llama_cpp(file))

    def expected(tensors: Tensors) -> ExpectedCheckpoint:
        # If llama.cpp needs a head, a tied one is written a second time, possibly in another type.
        tied = HEAD not in tensors.names()
        settings = {**dense_config(config), "tie_word_embeddings": tied}
        return ExpectedCheckpoint(settings, inputs.checkpoint.generation_config, tensors, tokenizer)

    def rounded(asked: ReaderInput) -> ReaderOutput:
        return _rounded(expected(_found(file)), types, asked, inputs.device)

    exact = quant is Quant.F32
    return Checks(
        reference=lambda: inputs.live(base),
        readers=tuple(readers),
        tensors=lambda: _expected(source, config, quant),
        found=lambda: _found(file),
        settings=lambda: _settings(folder, metadata(config, tokenizer, quant, ends), config, tokenizer),
        merged=None if exact else lambda: model_of(expected(merged_in_memory(source)), inputs.device),
        expected=None if exact else lambda: model_of(expected(_found(file)), inputs.device),
        rounded=rounded if rounds(types, source.model.spec.activation) else None,
        notes=() if runner.available() else (NO_LLAMA_CPP,),
        opened=True,
        context=context_of(config),
        composed=composes(tokenizer),
    )


def settings_of(file: Path, expected: Mapping[str, Value]) -> Iterator[str]:
    """Metadata of a GGUF file that is wrong. Names for people are left out."""
    found = read_header(file).metadata
    yield from differences(expected, {key: value for key, value in found.items() if key not in FREE_KEYS})


def _settings(
    folder: Path, expected: Mapping[str, Value], config: Mapping[str, Any], tokenizer: Tokenizer
) -> Iterator[str]:
    """Metadata, rope divisors, which are tensors of the file but not of the model, and the Modelfile."""
    file = folder / MODEL_FILE
    yield from settings_of(file, expected)
    yield from differences(divisors(config), read_divisors(file, read_header(file)))
    yield from text_differences(modelfile(tokenizer, f"./{MODEL_FILE}"), folder / MODELFILE)


def _types(config: Mapping[str, Any], quant: Quant) -> dict[str, str]:
    """The GGUF type of every tensor, by the name that our reader gives it."""
    kinds = plan_kinds(config, quant)
    return {name: kinds[piece.name] for name, piece in _places(config).items()}


def _rounded(
    expected: ExpectedCheckpoint, types: Mapping[str, str], asked: ReaderInput, device: torch.device
) -> ReaderOutput:
    """The expected model with its products' inputs rounded."""
    model = load_rounded(expected, types, device)
    head = BY_TYPE[types.get(HEAD, types[EMBEDDING])]
    return own(make_assistant(model, expected, None), asked, before_head=lambda hidden: rounded_inputs(hidden, head))


def _expected(source: Source, config: Mapping[str, Any], quant: Quant) -> Iterator[ExpectedTensor]:
    """The merged tensors, exact and as the file holds them."""
    kinds, places = plan_kinds(config, quant), _places(config)
    for name, tensor, _ in merged_tensors(source):
        yield _as_written(name, tensor, places[name], kinds)
        if name == EMBEDDING and HEAD in places and places[HEAD].sources == (EMBEDDING,):
            yield _as_written(HEAD, tensor, places[HEAD], kinds)


def _places(config: Mapping[str, Any]) -> dict[str, Piece]:
    """The piece that holds each tensor, by the name that our reader gives it."""
    found: dict[str, Piece] = {}
    for piece in pieces(family_of(config).names, completed(config)):
        for source in piece.sources:
            # An embedding that is written a second time is read back as a head of its own.
            found[HEAD if source in found else source] = piece
    return found


def _as_written(name: str, tensor: Tensor, piece: Piece, kinds: Mapping[str, str]) -> ExpectedTensor:
    kind = Kind[kinds[piece.name]]
    if kind.name in ROUNDED:
        dtype = ROUNDED[kind.name]
        if piece.offset:
            return ExpectedTensor(name, tensor, (tensor.double() + piece.offset).to(dtype) - piece.offset)
        return ExpectedTensor(name, tensor, tensor.to(dtype))
    # Rows are encoded independently, so their order in the file does not matter.
    codes = encode(name, tensor, kind)
    return ExpectedTensor(name, tensor, decode(codes, kind).reshape(tensor.shape))


def _found(file: Path) -> Tensors:
    return ModelTensors(open_checkpoint(file))
