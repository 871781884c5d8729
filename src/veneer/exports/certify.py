"""Makes the certificate of an export: asks all readers, compares their answers, and records the results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from veneer.adapters.overflow import largest_update
from veneer.assistant.assistant import Assistant
from veneer.assistant.memory import enough_memory
from veneer.errors import AdapterError, ModelError, VeneerError, listing
from veneer.events import Stage, Subscriber, counted
from veneer.exports.certificate import Agreement, Certificate, Floor, ReaderOutput, TensorReport, compare, floor_of
from veneer.exports.inputs import Checks, ExportInputs
from veneer.exports.memory import float32_bytes
from veneer.exports.prompts import BUILT_IN, LIMIT, Prompts, chosen
from veneer.exports.readers import Reader
from veneer.exports.record import CARD_FILE, PARITY_FILE, ExportRecord
from veneer.exports.tensors import compare_tensors
from veneer.exports.thresholds import threshold_of
from veneer.exports.veneer_reader import ReaderInput, own, reference
from veneer.io.digests import sha256
from veneer.io.files import write_text
from veneer.machine.system import address_space, memory, memory_limit
from veneer.text.strict_json import to_text, with_reasons

NEW_TOKENS = 16
"""The length of the answers that are compared, in tokens; a narrow context shortens them."""
MERGED_SUMS = "merged sums"
"""The certificate's name for the merged model before rounding, which is computed and in no file."""


def certify(inputs: ExportInputs, checks: Checks, record: ExportRecord) -> Certificate:
    """Compare an export with what it was made from.

    Args:
        inputs: the export.
        checks: the comparisons to make.
        record: what was written.

    Raises:
        VeneerError: the reference cannot be made or asked. Problems of the export are in the certificate instead.
    """
    threshold = threshold_of(record.format, inputs.request.gap)
    settings = _settings(checks)
    with Stage(inputs.emit, "comparing tensors", unit="tensors") as stage:
        tensors = _tensors(checks, threshold.tensor, stage)
    certificate = Certificate(
        to=record.to,
        format=record.format,
        prompts=0,
        prompts_from="",
        new_tokens=NEW_TOKENS,
        threshold=threshold,
        tensors=tensors,
        readers=(),
        notes=checks.notes,
        settings=settings,
    )
    unasked = too_large(inputs)
    if unasked is not None:
        return replace(certificate, notes=(*checks.notes, unasked))
    with Stage(inputs.emit, "asking the live adapter"):
        live, asked, prompts = _asked(inputs, checks)
    labels = [prompt.where for prompt in prompts.prompts]
    merged = None
    if checks.merged is not None:
        with Stage(inputs.emit, "asking the merged model"):
            merged = compare(live, own(checks.merged(), asked, MERGED_SUMS), threshold, labels)
    agreements, notes = [], list(checks.notes)
    expected, floor = expectation(checks, live, asked, inputs.emit)
    for reader in checks.readers:
        with Stage(inputs.emit, f"asking {reader.name}"):
            found = _read(reader, asked)
        if isinstance(found, ReaderOutput):
            notes += found.notes
            found = compare(live, found, threshold, labels, expected=expected, floor=floor if reader.rounds else None)
        agreements.append(found)
    if prompts.source == BUILT_IN:
        said = f"compared on {len(prompts.prompts)} {BUILT_IN}, because {inputs.no_rows}; give your own rows by --data"
        notes = [said, *notes]
    return replace(
        certificate, prompts=len(prompts.prompts), prompts_from=prompts.source, new_tokens=prompts.new_tokens,
        readers=tuple(agreements), notes=tuple(notes), merged=merged,
    )  # fmt: skip


def expectation(
    checks: Checks, live: ReaderOutput, asked: ReaderInput, emit: Subscriber
) -> tuple[ReaderOutput | None, Floor | None]:
    """The expected model's answers, and the effect of rounded inputs; each None if it is not needed.

    Files that cannot be opened have no expected model. The readers report them too, and are compared with the live
    adapter.
    """
    try:
        expected = None
        if checks.expected is not None:
            with Stage(emit, "asking the expected model"):
                expected = own(checks.expected(), asked, "expected")
        if checks.rounded is None or not any(reader.rounds for reader in checks.readers):
            return expected, None
        with Stage(emit, "measuring the effect of rounded inputs"):
            return expected, floor_of(live, expected or live, checks.rounded(asked))
    except ModelError:
        return None, None


def too_large(inputs: ExportInputs) -> str | None:
    """Why no reader can be asked: the model does not fit into memory in float32. None if it fits."""
    needed = float32_bytes(inputs.checkpoint)
    free = free_memory(inputs.device)
    if free is None or needed < free:
        return None
    return (
        f"only tensors were compared: answers need the model in float32, which takes {needed / 1e9:,.1f} GB, and "
        f"{free / 1e9:,.1f} GB are free; `veneer verify` on a larger machine compares everything"
    )


@contextmanager
def comparing_memory(inputs: ExportInputs, doing: str) -> Iterator[None]:
    """Turn an out-of-memory error within the block into one that says how much memory comparing needs.

    Raises:
        OutOfMemory: there was no memory.
    """
    needed = (
        f"By the plan, the model takes {float32_bytes(inputs.checkpoint) / 1e6:,.0f} MB in float32, in which exports "
        "are compared. Fewer rows (--limit) and shorter ones (--data) need less memory besides."
    )
    with enough_memory(None, doing, needed):
        yield


def free_memory(device: torch.device) -> int | None:
    """The bytes that a model may use there; None if the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    used, most = address_space()
    addressable = None if used is None or most is None else max(0, most - used)
    return min((amount for amount in (memory()[1], memory_limit(), addressable) if amount is not None), default=None)


def _asked(inputs: ExportInputs, checks: Checks) -> tuple[ReaderOutput, ReaderInput, Prompts]:
    """The live adapter's answers. Its model is released before the next one is loaded."""
    assistant = checks.reference()
    prompts = chosen(assistant, inputs.rows, inputs.request.limit or LIMIT, NEW_TOKENS, checks.context)
    live, asked = reference(assistant, prompts, opened=checks.opened, composed=checks.composed)
    _refuse_overflow(assistant, live, prompts)
    return live, asked, prompts


def _refuse_overflow(assistant: Assistant, live: ReaderOutput, prompts: Prompts) -> None:
    """Refuse a live adapter whose probabilities are NaN or infinite: nothing can be compared with it.

    Raises:
        AdapterError: there are such prompts; the error names them and the update that is the likeliest cause.
    """
    broken = [
        prompt.where
        for prompt, answer in zip(prompts.prompts, live.answers, strict=True)
        if not all(math.isfinite(number) for step in answer.steps for number in step.logprobs)
    ]
    if broken:
        cause = "" if assistant.adapter is None else f" ({largest_update(assistant.adapter)})"
        raise AdapterError(
            f"with the adapter{cause} the model's probabilities are NaN or infinite:\n{listing(broken, limit=5)}"
        )


def _settings(checks: Checks) -> tuple[str, ...]:
    try:
        return tuple(checks.settings())
    except ModelError as error:
        return (f"files cannot be opened: {error}",)


def _tensors(checks: Checks, threshold: float, stage: Stage) -> TensorReport:
    try:
        return compare_tensors(counted(checks.tensors(), stage), checks.found(), threshold)
    except VeneerError as error:
        return TensorReport(0, "", 0.0, (f"files cannot be opened: {error}",))


def _read(reader: Reader, asked: ReaderInput) -> ReaderOutput | Agreement:
    """The reader's answers, or its error if it cannot read the export."""
    try:
        return reader.read(asked)
    except VeneerError as error:
        nan = math.nan
        return Agreement(
            reader=reader.name, texts=len(asked.texts), texts_equal=0, renderings=len(asked.prompts.prompts),
            renderings_equal=0, positions=0, top1=0, gap=nan, divergence=nan, worst_divergence=nan, beside_expected=nan,
            allowed=nan, greedy=len(asked.answers), greedy_equal=0, problems=(f"reading: {error}",),
        )  # fmt: skip


def digests(folder: Path, *, without: Iterable[str] = (PARITY_FILE,)) -> dict[str, str]:
    """SHA-256 of every file of an export except the certificate."""
    left = set(without)
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {name: sha256(file) for file in files if (name := file.relative_to(folder).as_posix()) not in left}


def write_certificate(folder: Path, certificate: Certificate) -> Certificate:
    """Write `parity.json` with the digests of all other files. Returns the certificate as written.

    Raises:
        OutputError: it cannot be written.
    """
    # The user may edit the model card.
    whole = replace(certificate, files=digests(folder, without=(PARITY_FILE, CARD_FILE)))
    write_text(folder / PARITY_FILE, to_text(with_reasons(whole.to_json()), indent=2) + "\n")
    return whole
