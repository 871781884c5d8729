"""Export `peft`: an adapter's directory as PEFT writes it, which PEFT, vLLM and others load onto the base."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from veneer.adapters.adapter import Adapter
from veneer.adapters.files.origin import read_base
from veneer.adapters.files.store import read_content, read_tensors, save_adapter
from veneer.exports.base import MergeBase
from veneer.exports.certificate import ReaderOutput
from veneer.exports.inputs import Checks, ExportInputs, name_of
from veneer.exports.readers import COMPOSED, PEFT, TRANSFORMERS, Reader, only_transformers_composes, peft_folder
from veneer.exports.record import ExportRecord
from veneer.exports.settings import file_differences
from veneer.exports.tensors import ExpectedTensor, MemoryTensors, Tensors
from veneer.exports.veneer_reader import ReaderInput, own
from veneer.io.checkpoint import model_name
from veneer.io.model_files import decoded_when_read
from veneer.io.tokenizer import Tokenizer, from_directory
from veneer.runtime.packages import installed

NO_PEFT = "not read by PEFT, which is not installed (with transformers)"
NO_DIRECTORY = "not read by PEFT, which would load this base (a GGUF file or stored quantised) in another form"


def write(inputs: ExportInputs, folder: Path) -> ExportRecord:
    """Write adapter_config.json, adapter_model.safetensors, and the tokenizer if the adapter has its own.

    An initialisation that PEFT cannot express (it would subtract the start again) is written as an equivalent
    plain adapter.
    """
    base = _base(inputs)
    _write_files(inputs, base, folder)
    return inputs.record(dtype=name_of(torch.float32), stored_as=name_of(torch.float32), merged_into=base)


def _write_files(inputs: ExportInputs, base: MergeBase, folder: Path) -> None:
    adapter, tokenizer = _adapter(inputs, base)
    config = read_content(inputs.request.adapter)
    named = model_name(str(config.get("base_model_name_or_path") or inputs.model))
    base_files = read_base(inputs.request.adapter)
    save_adapter(folder, adapter, base=named, revision=config.get("revision"), base_files=base_files)
    if tokenizer is not None and tokenizer.vocab_size > inputs.checkpoint.tokenizer().vocab_size:
        tokenizer.save(folder)


def _base(inputs: ExportInputs) -> MergeBase:
    """The base that the adapter is compared on. The exported files are the same for either, because they hold no
    base."""
    return MergeBase.DEQUANTISED if inputs.checkpoint.stored else MergeBase.ORIGINAL


def checks(inputs: ExportInputs, folder: Path, record: ExportRecord) -> Checks:
    """The adapter's tensors, our loader and PEFT."""
    base = MergeBase(record.merged_into)

    def again(asked: ReaderInput) -> ReaderOutput:
        return own(inputs.live(base, folder), asked)

    readers: list[Reader] = [Reader("veneer", again)]
    notes: tuple[str, ...] = ()
    composed = False
    directory = inputs.checkpoint.files()[0].parent
    quantised = inputs.checkpoint.stored or decoded_when_read(inputs.checkpoint.config)
    if quantised or not (directory / "config.json").is_file():
        notes = (NO_DIRECTORY,)
    elif installed(PEFT) and installed(TRANSFORMERS):
        tokenizer = folder if (folder / "tokenizer.json").is_file() else directory
        known = from_directory(folder).vocab_size if tokenizer == folder else 0
        readers.append(peft_folder(directory, folder, known, tokenizer, inputs.device))
        composed = only_transformers_composes(inputs.checkpoint)
        notes = (COMPOSED,) if composed else ()
    else:
        notes = (NO_PEFT,)
    return Checks(
        reference=lambda: inputs.live(base),
        readers=tuple(readers),
        tensors=lambda: _expected(inputs, base),
        found=lambda: _found(folder),
        settings=lambda: _settings(inputs, base, folder),
        notes=notes,
        composed=composed,
    )


def _adapter(inputs: ExportInputs, base: MergeBase) -> tuple[Adapter, Tokenizer | None]:
    """The adapter on a base whose dense weights stay in their files, and its tokenizer if it has one."""
    if not inputs.description.capabilities.named_as_files:
        return inputs.hf_source(base).adapter, None
    source = inputs.source(base)
    return source.adapter, source.tokenizer


def _expected(inputs: ExportInputs, base: MergeBase) -> list[ExpectedTensor]:
    adapter, _ = _adapter(inputs, base)
    tensors = ((name, tensor.float()) for name, tensor in adapter.tensors().items())
    return [ExpectedTensor(name, tensor, tensor) for name, tensor in tensors]


def _settings(inputs: ExportInputs, base: MergeBase, folder: Path) -> list[str]:
    """The configuration, and the tokenizer if there is one, written once more and compared."""
    with TemporaryDirectory() as scratch:
        _write_files(inputs, base, Path(scratch))
        return file_differences(Path(scratch), folder)


def _found(folder: Path) -> Tensors:
    return MemoryTensors(read_tensors(folder))
