"""Many questions of a file, under many adapters: answered by the engine, in order, exactly once each.

Rows are answered together and may end in any order; they are written in the order of the file. A row's answer depends
only on its own number and question, so a resumed job writes the same answers as an uninterrupted one.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from veneer.adapters.files.content import content_digest
from veneer.adapters.files.store import WEIGHTS_FILE
from veneer.answering.answers_file import HELD_KEY, ROW_KEY, AnswersFile, has_answers
from veneer.assistant.assistant import Assistant
from veneer.assistant.questions import ADAPTER, FileQuestion
from veneer.errors import AdapterError, ConfigError, DataError, listing, nearest, reading
from veneer.events import Level, Note, Stage, Subscriber
from veneer.generation.batch import BATCH_ROWS, batch_cache, batch_limits
from veneer.generation.build import build_engine
from veneer.generation.context import cut_warning, is_cut, refuse_full, within
from veneer.generation.engine import GenerationEngine
from veneer.generation.request import (
    STREAMS_PER_SEED,
    FinishReason,
    GenerationHandle,
    GenerationRequest,
    GenerationResult,
    gathered,
)
from veneer.generation.sampling import Sampling
from veneer.io.digests import file_digest
from veneer.serving.request import DEFAULT_MEMORY_BYTES
from veneer.serving.served_adapters.folder import AdapterFolder, adapter_names
from veneer.serving.served_adapters.loading import adapter_loader
from veneer.text.counting import count_of

MOST_ROWS_AHEAD = 4 * BATCH_ROWS
"""The number of answered rows that may wait for an earlier one."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The result of a job."""

    rows: int
    before: int
    """The rows among them that had been answered before."""


def answer_file(
    assistant: Assistant,
    questions: Sequence[FileQuestion],
    output: Path,
    sampling: Sampling,
    *,
    adapters: Path | None = None,
    job: Mapping[str, Any],
    emit: Subscriber,
) -> BatchResult:
    """Answer all questions into a file, or resume where an earlier call was stopped.

    Args:
        assistant: the model.
        questions: in order.
        output: the file of the answers.
        sampling: how tokens are chosen; each row draws from a random stream of its own, numbered by its place.
        adapters: a folder of adapters by name.
        job: what else the answers follow from; it must be equal when the job is resumed.
        emit: receives every event.

    Raises:
        AdapterError: rows name adapters that do not exist or cannot be used.
        ConfigError: the output is another job's, or answers may be longer than the model's context.
        DataError: questions leave no room in the model's context for an answer; all that are not answered yet are
            named. Or the output has more lines than there are questions. See `AnswersFile` too.
        OutputError: see `AnswersFile`.
    """
    context = assistant.model.spec.max_positions
    sampling.check_context(context)
    # Before the note is written: shortening a question in the input makes another job, with the same output.
    prompts = None if has_answers(output) else _prompts(assistant, questions, 0, emit)
    digests = _digests(questions, adapters)
    held = assistant.form.text or "not quantised as it was loaded"
    settings = {**job, "base": _base(assistant), HELD_KEY: held, "adapters": digests, "sampling": _plain(sampling)}
    with ExitStack() as ends:
        file = ends.enter_context(AnswersFile(output, settings))
        if file.done > len(questions):
            raise DataError(
                f"{output}, line {len(questions) + 1}: is the answer to none of {count_of(len(questions), 'row')}; "
                "give another file"
            )
        if file.done:
            emit(
                Note(message=f"{output} has {file.done:,} of {count_of(len(questions), 'answer')}; going on after them")
            )
        source = None
        if adapters is not None and digests:
            loader = adapter_loader(assistant.model, tokenizer=assistant.tokenizer, base_files=assistant.files)
            source = ends.enter_context(closing(AdapterFolder(adapters, loader, _adapter_budget(adapters, digests))))
        if prompts is None:
            prompts = _prompts(assistant, questions, file.done, emit)
        stage = ends.enter_context(Stage(emit, "answering", total=len(prompts), unit="rows"))
        answers = ends.enter_context(closing(_answers(assistant, questions, prompts, sampling, source)))
        cut: list[str] = []
        try:
            for row, result in answers:
                file.append(_line(assistant, row, questions[row], result))
                if is_cut(sampling, result.finished.prompt_tokens, result.finished.new_tokens, context):
                    cut.append(f"row {row}")
                stage.advance()
        finally:  # also if the job is stopped, because the resumed job does not report these
            if cut:
                emit(Note(message=cut_warning(cut, context), level=Level.WARNING))
    return BatchResult(len(questions), file.done)


def _prompts(
    assistant: Assistant, questions: Sequence[FileQuestion], first: int, emit: Subscriber
) -> dict[int, array[int]]:
    """The tokens of every question from a row on, by their rows: four bytes each, since a file may have millions.

    Raises:
        DataError: they fill the context; all such rows are named.
    """
    rows = range(first, len(questions))
    found: dict[int, array[int]] = {}
    with Stage(emit, "tokenising rows", total=len(rows), unit="rows") as stage:
        for row in rows:
            found[row] = array("i", assistant.encoder.prompt_tokens(questions[row].messages))
            stage.advance()
    refuse_full(((f"row {row}", len(prompt)) for row, prompt in found.items()), assistant.model.spec.max_positions)
    return found


def _answers(
    assistant: Assistant,
    questions: Sequence[FileQuestion],
    prompts: dict[int, array[int]],
    sampling: Sampling,
    source: AdapterFolder | None,
) -> Generator[tuple[int, GenerationResult], None, None]:
    """The rows of `prompts` with their answers, in order."""
    context = assistant.model.spec.max_positions
    longest = max((min(len(prompt) + sampling.max_new_tokens, context) for prompt in prompts.values()), default=0)
    engine = build_engine(
        assistant.model,
        stop_ids=assistant.stop_ids,
        adapters=source,
        cache_bytes=batch_cache(assistant.model, longest),
        limits=batch_limits(),
    )

    def request(row: int) -> GenerationRequest:
        prompt = prompts.pop(row)
        return GenerationRequest(
            prompt=tuple(prompt),
            sampling=within(sampling, len(prompt), context),
            stream=row % STREAMS_PER_SEED,
            adapter=questions[row].adapter,
        )

    rows = list(prompts)
    with closing(engine):
        yield from zip(rows, _in_order(engine, map(request, rows)), strict=True)


def _in_order(engine: GenerationEngine, requests: Iterator[GenerationRequest]) -> Iterator[GenerationResult]:
    """The results of requests in their order, each as soon as it and all before it have ended."""
    waiting = deque[GenerationHandle]()
    while True:
        waiting.extend(engine.submit(request) for request in islice(requests, MOST_ROWS_AHEAD - len(waiting)))
        if not waiting:
            return
        if not engine.step() and not engine.idle:
            time.sleep(0.002)  # adapters are being read
        while waiting and waiting[0].finished is not None:
            yield gathered(iter(waiting.popleft().ready()))


def _line(assistant: Assistant, row: int, question: FileQuestion, result: GenerationResult) -> dict[str, Any]:
    if result.finished.reason is FinishReason.ERROR:
        kind = ConfigError if question.adapter is None else AdapterError
        raise kind(
            f"row {row}: {result.finished.error}\n"
            "The answers before it are kept. Once this is mended, the same command resumes there."
        )
    under = {} if question.adapter is None else {ADAPTER: question.adapter}
    answer = assistant.text_of(result.tokens)
    return {ROW_KEY: row, "prompt": question.text, "answer": answer, **under, "finish": result.finished.reason.value}


def _digests(questions: Sequence[FileQuestion], adapters: Path | None) -> dict[str, str]:
    """The digest of each adapter that rows name. Raises AdapterError, which names all that are missing."""
    named = sorted({question.adapter for question in questions if question.adapter is not None})
    if named and adapters is None:
        raise ConfigError(
            f"rows name adapters ({', '.join(named[:5])}); give --adapters FOLDER, which holds adapters of these names"
        )
    known = adapter_names(adapters) if adapters is not None and named else []
    missing = [f"{name!r}{nearest(name, known)}" for name in named if name not in known]
    if missing:
        raise AdapterError(f"{adapters}: has none of these adapters, which rows name:\n{listing(missing)}")
    try:
        return {} if adapters is None else {name: content_digest(adapters / name).hex() for name in named}
    except OSError as error:
        raise AdapterError(f"{adapters}: cannot be read: {error}") from error


def _adapter_budget(folder: Path, names: Iterable[str]) -> int:
    """The bytes that adapters may take in memory: as many as in a server, or more if the largest one needs them. In
    float32, it takes at most four times its file, whose numbers have eight bits or more."""
    largest = max((folder / name / WEIGHTS_FILE).stat().st_size for name in names)
    return max(DEFAULT_MEMORY_BYTES, 4 * largest)


def _base(assistant: Assistant) -> dict[str, str]:
    with reading(ConfigError):
        found = {file.name: file_digest(file) for file in assistant.files}
    return {**found, "dtype": str(assistant.model.dtype)}


def _plain(sampling: Sampling) -> dict[str, Any]:
    return {name: value for name, value in asdict(sampling).items() if name != "logit_bias"}
