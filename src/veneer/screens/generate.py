"""What `veneer generate` reads and shows: a question from the command line or standard input, and answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from veneer.assistant.assistant import Assistant
from veneer.assistant.load import load_assistant
from veneer.assistant.prompts import turns
from veneer.assistant.questions import FileQuestion, asks_rows
from veneer.assistant.request import AssistantRequest
from veneer.data.files.readers import SUFFIXES
from veneer.enums import Column
from veneer.errors import ConfigError, DataError
from veneer.evaluation.columns import question_columns
from veneer.events import Event, ignore
from veneer.generation.sampling import Sampling
from veneer.io.digests import file_digest
from veneer.processes.group_share import GroupShare, meeting
from veneer.processes.ranks import Ranks
from veneer.run_folder import recorded_run
from veneer.screens.console import console
from veneer.screens.events import EventScreen
from veneer.screens.loading import open_visibly
from veneer.screens.standard_input import standard_input, text_of
from veneer.text.counting import count_of
from veneer.training.parallel.start import with_own_device

if TYPE_CHECKING:
    from veneer.answering.file_job import BatchResult


def read_question(prompt: str | None) -> str:
    """The prompt that was given, or else standard input.

    Raises:
        DataError: it is empty, or standard input is not UTF-8.
    """
    question = text_of(standard_input().read) if prompt is None else prompt
    if not question.strip():
        raise DataError("the prompt is empty; give --prompt, --input or text on standard input")
    return question


def columns_of_questions(path: Path, given: Mapping[Column, str], adapter: Path | None) -> Mapping[Column, str]:
    """The columns that the questions of a file are read from.

    Args:
        path: the file.
        given: the columns that the user has named.
        adapter: the folder of the adapter, whose run may have mapped columns that the file has too.

    Raises:
        ConfigError: columns are named for a text file, or the run's settings are damaged.
        DataError: the file cannot be read, or its ending is neither that of a data file nor of a text file.
    """
    if asks_rows(path):
        return question_columns(str(path), given, recorded_run(adapter))
    if given:
        raise ConfigError(
            f"{path}: columns are named, but a text file has none; leave them out, or give a data file "
            f"({', '.join(SUFFIXES)})"
        )
    return {}


def answer(
    assistant: Assistant, question: str, system: str | None, sampling: Sampling, on_text: Callable[[str], None]
) -> tuple[str, list[Event]]:
    """Answer one question, streaming its text. Returns the notes to print below it."""
    said: list[Event] = []
    return assistant.stream(turns(system, question), sampling, on_text, subscribers=[said.append]), said


def say_below(events: list[Event]) -> None:
    """Print the notes on an answer."""
    with EventScreen(console()) as screen:
        for event in events:
            screen(event)


def check_output(path: Path) -> None:
    """Raise OutputError for a path that cannot hold answers; see `veneer.answering.answers_file.prove_answers_file`."""
    from veneer.answering.answers_file import prove_answers_file

    prove_answers_file(path)


def refuse_adapters(path: Path, questions: Sequence[FileQuestion]) -> None:
    """Refuse a file whose rows name adapters if no folder of adapters is given: nothing else may answer instead.

    Raises:
        ConfigError: rows name adapters.
    """
    named = sorted({one.adapter for one in questions if one.adapter is not None})
    if named:
        raise ConfigError(
            f"{path}: rows name adapters ({', '.join(named[:5])}); give --adapters FOLDER, which holds adapters of "
            "these names, and --output FILE, or remove the key adapter from the rows"
        )


def open_for_rows(request: AssistantRequest, questions: Sequence[FileQuestion], adapters: Path | None) -> Assistant:
    """Load the model that answers questions, held as the adapters that the questions name were trained, if these agree.

    Args:
        request: the model.
        questions: the questions of a file.
        adapters: a folder of adapters by name.

    Raises:
        ModelError, AdapterError, ConfigError, DataError: the model, an adapter or a question cannot be used.
    """
    from veneer.serving.served_adapters.folder import adapter_names
    from veneer.serving.served_adapters.held_base import load_held_base

    asked = {one.adapter for one in questions if one.adapter is not None}
    if adapters is None or not asked:
        return open_visibly(request)
    names = [name for name in adapter_names(adapters) if name in asked]
    with EventScreen(console()) as screen:
        return load_held_base(request, adapters, names, screen).assistant


def answer_into(
    assistant: Assistant,
    path: Path,
    questions: Sequence[FileQuestion],
    output: Path,
    sampling: Sampling,
    *,
    system: str | None,
    adapter: Path | None,
    adapters: Path | None,
    columns: Mapping[Column, str],
) -> BatchResult:
    """Answer every question of a file into another file, or resume that.

    Args:
        assistant: the model.
        path: the file of the questions.
        questions: its questions, from `read_questions`.
        output: the file of the answers.
        sampling: how tokens are chosen.
        system: the system message that the questions were read with.
        adapter: the folder of the adapter on the model, if there is one.
        adapters: a folder of adapters by name.
        columns: the columns that the questions were read with.

    Raises:
        AdapterError, ConfigError, DataError, OutputError: see `veneer.answering.file_job.answer_file`.
    """
    from veneer.adapters.files.content import content_digest
    from veneer.answering.file_job import answer_file

    job = {
        "input": file_digest(path),
        "system": system,
        "adapter": None if adapter is None else content_digest(adapter).hex(),
        "columns": {ours.value: theirs for ours, theirs in columns.items()},
    }
    with EventScreen(console()) as screen:
        return answer_file(assistant, questions, output, sampling, adapters=adapters, job=job, emit=screen)


def summary(output: Path, result: BatchResult) -> str:
    """The sentence that describes a file of answers."""
    before = f", {result.before:,} of them from earlier" if result.before else ""
    return f"{output}: {count_of(result.rows, 'answer')}{before}"


def answer_all(
    request: AssistantRequest,
    questions: Sequence[FileQuestion],
    sampling: Sampling,
    ranks: Ranks,
    *,
    on: str | None = None,
) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Every question with its answer and any doubts about it, decoded together. Of several processes each answers a
    share, and rank 0 yields all. On the cluster at the address `on`, tasks answer."""
    if on:
        yield from _answers_on_cluster(on, request, questions, sampling)
        return
    request = replace(request, compute=with_own_device(request.compute, ranks))
    with meeting(ranks) as group:
        share = GroupShare(group)
        with EventScreen(console()) if share.first else nullcontext() as screen:
            emit = screen or ignore
            assistant = load_assistant(request, emit, share)
            answers = assistant.answers([one.messages for one in questions], sampling, subscribers=[emit])
    for question, text in zip(questions, answers, strict=True):
        if share.first:
            yield question.text, text, assistant.warnings


def _answers_on_cluster(
    on: str, request: AssistantRequest, questions: Sequence[FileQuestion], sampling: Sampling
) -> Iterator[tuple[str, str, Sequence[str]]]:
    from veneer.ray.shards import answers_on

    with EventScreen(console()) as screen:
        answers = answers_on(on, request, [one.messages for one in questions], sampling, screen)
    for question, one in zip(questions, answers, strict=True):
        yield question.text, one.text, one.warnings
