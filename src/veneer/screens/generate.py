"""What `veneer generate` reads and shows: questions from the command line, a file or standard input, and answers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from veneer.assistant import Assistant, lines_of, turns
from veneer.errors import DataError
from veneer.generation import Sampling
from veneer.screens.console import console
from veneer.screens.events import EventScreen


def read_question(prompt: str | None) -> str:
    """The prompt that was given, or else standard input.

    Raises:
        DataError: it is empty, or is not UTF-8.
    """
    try:
        question = sys.stdin.read().strip() if prompt is None else prompt
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is not UTF-8 text: {error}") from error
    if not question.strip():
        raise DataError("the prompt is empty; give --prompt, --input or text on standard input")
    return question


def read_questions(path: Path) -> list[str]:
    """The prompts of a text file, one a line.

    Raises:
        DataError: the file cannot be read or holds no line.
    """
    try:
        questions = list(lines_of(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text: {error}") from error
    if not questions:
        raise DataError(f"{path}: holds no question; write one a line")
    return questions


def answer(
    assistant: Assistant, question: str, system: str | None, sampling: Sampling, on_text: Callable[[str], None]
) -> str:
    """Answer one question, streaming its text."""
    return assistant.stream(turns(system, question), sampling, on_text)


def answer_all(
    assistant: Assistant, questions: list[str], system: str | None, sampling: Sampling
) -> Iterator[tuple[str, str]]:
    """Every question with its answer, decoded together."""
    conversations = [turns(system, question) for question in questions]
    with EventScreen(console()) as screen:
        answers = assistant.answers(conversations, sampling, subscribers=[screen])
    yield from zip(questions, answers, strict=True)
