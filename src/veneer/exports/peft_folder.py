"""Export `peft`: an adapter's directory as PEFT writes it, which PEFT, vLLM and others load onto the base."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from veneer.adapters.files.origin import read_base
from veneer.adapters.files.store import read_content, read_tensors, save_adapter
from veneer.adapters.layers.embedding import TokenEmbedding, TokenHead
from veneer.adapters.layers.modules_to_save import SavedModule
from veneer.adapters.targets import EMBEDDING, HEAD
from veneer.errors import AdapterError, listing
from veneer.exports.base import MergeBase, Source
from veneer.exports.certificate import ReaderOutput
from veneer.exports.hf import HfSource
from veneer.exports.inputs import Checks, ExportInputs, name_of
from veneer.exports.readers import COMPOSED, PEFT, TRANSFORMERS, Reader, only_transformers_composes, peft_folder
from veneer.exports.record import ExportRecord
from veneer.exports.settings import file_differences
from veneer.exports.tensors import ExpectedTensor, MemoryTensors, Tensors
from veneer.exports.veneer_reader import ReaderInput, own
from veneer.io.checkpoint import model_name
from veneer.io.model_files import decoded_when_read
from veneer.runtime.packages import installed

NO_PEFT = "not read by PEFT, which is not installed (with transformers)"
NO_DIRECTORY = "not read by PEFT, which would load this base (a GGUF file or stored quantised) in another form"


def write(inputs: ExportInputs, folder: Path) -> ExportRecord:
    """Write adapter_config.json, adapter_model.safetensors, and the tokenizer if the adapter has its own.

    An initialisation that PEFT cannot express (it would subtract the start again) is written as an equivalent
    plain adapter.

    Raises:
        AdapterError: PEFT has resized the vocabulary, and the adapter does not train the new rows.
    """
    base = _base(inputs)
    source = _source(inputs, base)
    _refuse_lost_rows(inputs, source)
    _write_files(inputs, source, folder)
    return inputs.record(dtype=name_of(torch.float32), stored_as=name_of(torch.float32), merged_into=base)


def _write_files(inputs: ExportInputs, source: Source | HfSource, folder: Path) -> None:
    tokenizer = source.tokenizer if isinstance(source, Source) else None
    config = read_content(inputs.request.adapter)
    named = model_name(str(config.get("base_model_name_or_path") or inputs.model))
    base_files = read_base(inputs.request.adapter)
    save_adapter(folder, source.adapter, base=named, revision=config.get("revision"), base_files=base_files)
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
        rows = _source(inputs, base).model.spec.vocab_size
        readers.append(peft_folder(directory, folder, rows, tokenizer, inputs.device))
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


def _source(inputs: ExportInputs, base: MergeBase) -> Source | HfSource:
    """The adapter on a base whose dense weights stay in their files."""
    return inputs.source(base) if inputs.description.capabilities.named_as_files else inputs.hf_source(base)


def _refuse_lost_rows(inputs: ExportInputs, source: Source | HfSource) -> None:
    """Refuse an adapter over a resized vocabulary whose new rows are not its own: they are copies in PEFT's files, and
    would not be written.

    Raises:
        AdapterError: embedding or head has such rows; both are named.
    """
    if source.model.spec.vocab_size == inputs.description.spec.vocab_size:
        return
    own = SavedModule | TokenEmbedding | TokenHead
    lost = [path for path in (EMBEDDING, HEAD) if not isinstance(source.adapter.outermost.get(path), own)]
    if lost:
        raise AdapterError(
            f"{inputs.request.adapter} was trained over a resized vocabulary, whose new rows would not be written, "
            f"since the adapter does not train them:\n{listing(lost)}\n"
            "Use the adapter as it is, or merge it (--to merged)."
        )


def _expected(inputs: ExportInputs, base: MergeBase) -> list[ExpectedTensor]:
    adapter = _source(inputs, base).adapter
    tensors = ((name, tensor.float()) for name, tensor in adapter.tensors().items())
    return [ExpectedTensor(name, tensor, tensor) for name, tensor in tensors]


def _settings(inputs: ExportInputs, base: MergeBase, folder: Path) -> list[str]:
    """The configuration, and the tokenizer if there is one, written once more and compared."""
    with TemporaryDirectory() as scratch:
        _write_files(inputs, _source(inputs, base), Path(scratch))
        return file_differences(Path(scratch), folder)


def _found(folder: Path) -> Tensors:
    return MemoryTensors(read_tensors(folder))
