"""Ask a judge about pairs of answers in both orders; questions that it answered before are not asked again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veneer.adapters.files.content import content_digest
from veneer.adapters.files.store import check_adapter, read_tensors
from veneer.assistant.load import load_assistant
from veneer.assistant.request import assistant_request
from veneer.config import ComputeSection
from veneer.errors import AdapterError, DataError, ModelError, OutputError, listing, reading
from veneer.evaluation.judge.endpoint import Answerer, EndpointAnswerer, LocalAnswerer, read_key
from veneer.evaluation.judge.questions import AnswerPair, Choice, JudgeQuestion, questions_of, verdict
from veneer.evaluation.judge.settings import JudgeSettings
from veneer.evaluation.judge.verdicts import JudgedPair, JudgeResult, judged
from veneer.events import Stage, Subscriber, ignore
from veneer.io.checkpoint import open_checkpoint, read_model_config
from veneer.io.digests import file_digest
from veneer.io.proofs import prove_file
from veneer.text.counting import count_of
from veneer.text.strict_json import to_text
from veneer.text.whole_lines import append_line

HUMAN_KEYS = ("question", "first", "second", "human")
"""The required keys of a row that people have judged; `reference` is optional."""


def check_judge(settings: JudgeSettings) -> None:
    """Read what a judge needs, as far as that is cheap, before there is anything to judge.

    Raises:
        DataError: rows that people have judged cannot be used.
        ConfigError: the file of the key contains no key.
        OutputError: the record cannot be written.
        ModelError, AdapterError: a judge that is to be loaded here is missing or cannot be read.
    """
    if settings.human is not None:
        read_human(settings.human)
    read_key(settings.key_file)
    prove_file(settings.record)
    if settings.url is None:
        read_model_config(settings.model)
    if settings.adapter is not None:
        check_adapter(settings.adapter)
        read_tensors(settings.adapter)


def judge(
    settings: JudgeSettings,
    pairs: Sequence[AnswerPair],
    *,
    clusters: NDArray[np.int64] | None = None,
    compute: ComputeSection | None = None,
    emit: Subscriber = ignore,
) -> JudgeResult:
    """Let a judge compare base (`one`) and adapter (`other`) on rows, and also rows that people have judged.

    Args:
        settings: the settings of the judge.
        pairs: the answers to compare, one pair for each row.
        clusters: the cluster index of each row, [rows], from 0; None makes each row its own cluster.
        compute: device and dtype of a judge that is loaded here.
        emit: receives the progress.

    Raises:
        DataError: rows that people have judged cannot be used, questions have no answer (their rows are named, and
            the other answers are recorded), or no answer contains a verdict.
        OutputError: the record cannot be written.
        ModelError, AdapterError: a judge that is loaded here cannot be used.
    """
    human = [] if settings.human is None else read_human(settings.human)
    every = [*pairs, *(pair for pair, _ in human)]
    questions = [
        one for pair in every if pair.one != pair.other for one in questions_of(pair, settings.prompt, settings.system)
    ]
    answers = _answers(settings, questions, compute, emit)
    verdicts = iter([verdict(answer) for answer in answers])
    judged_pairs = [
        JudgedPair(pair, Choice.TIE, Choice.TIE)
        if pair.one == pair.other
        else JudgedPair(pair, next(verdicts), next(verdicts))
        for pair in every
    ]
    at = "here" if settings.url is None else f"at {settings.url}"
    rows, others = judged_pairs[: len(pairs)], judged_pairs[len(pairs) :]
    said = [(one, choice) for one, (_, choice) in zip(others, human, strict=True)]
    result = judged(f"{settings.model} {at}", rows, said, clusters)
    if result is None and not answers:
        raise DataError("the judge has nothing to compare: no row has an answer")
    if result is None:
        raise DataError(
            f"the judge {settings.model} gave no verdict on any of {count_of(len(pairs), 'row')}; "
            f"its first answer was:\n"
            f"{answers[0][:500]}"
        )
    return result


def _answers(
    settings: JudgeSettings, questions: Sequence[JudgeQuestion], compute: ComputeSection | None, emit: Subscriber
) -> list[str]:
    """The answers to all questions: recorded ones, and new ones for the rest."""
    who = _who(settings) if questions else []
    digests = [_digest(who, question) for question in questions]
    known = _recorded(settings.record)
    missing = list({digest: place for place, digest in enumerate(digests) if digest not in known}.values())
    if missing:
        answerer = _answerer(settings, compute, emit)
        with (
            Stage(emit, f"asking the judge {settings.model}", total=len(missing), unit="questions") as stage,
            _Record(settings.record) as record,
        ):

            def keep(number: int, answer: str) -> None:
                question = questions[missing[number]]
                known[digests[missing[number]]] = answer
                record.add({"digest": digests[missing[number]], "row": question.name, "answer": answer})
                stage.advance()

            problems = answerer.answer([questions[place].messages for place in missing], keep)
        if problems:
            lines = [f"{questions[missing[number]].name}: {problem}" for number, problem in sorted(problems.items())]
            raise DataError(
                f"{len(problems)} of {len(missing)} questions to the judge have no answer; the others are recorded in "
                f"{settings.record}, and the same command asks for the rest:\n{listing(lines)}"
            )
    return [known[digest] for digest in digests]


def _answerer(settings: JudgeSettings, compute: ComputeSection | None, emit: Subscriber) -> Answerer:
    if settings.url is not None:
        return EndpointAnswerer(
            url=settings.url, model=settings.model, key=read_key(settings.key_file), max_tokens=settings.max_tokens,
            at_once=settings.at_once, retries=settings.retries,
        )  # fmt: skip
    request = assistant_request(settings.model, settings.adapter, None, compute)
    return LocalAnswerer(load_assistant(request, emit), settings.max_tokens)


def _who(settings: JudgeSettings) -> list[Any]:
    """The identity of the judge. A judge that is loaded here is identified by the content of its files, wherever they
    are: a model or an adapter that was trained again under the same name is another judge.

    Raises:
        ModelError, AdapterError: the files of a judge that is loaded here are missing or cannot be read.
    """
    if settings.url is not None:
        return [settings.url, settings.model, None, settings.max_tokens]
    with reading(ModelError):
        base = {file.name: file_digest(file) for file in open_checkpoint(settings.model).files()}
    with reading(AdapterError):
        adapter = None if settings.adapter is None else content_digest(settings.adapter).hex()
    return [None, base, adapter, settings.max_tokens]


def _digest(who: Sequence[Any], question: JudgeQuestion) -> str:
    """The key of an answer in the record: it depends on the judge and the question."""
    return hashlib.sha256(to_text([who, list(question.messages)]).encode()).hexdigest()


def _recorded(path: Path) -> dict[str, str]:
    """The answers of a record; a line that was cut off when a process was killed is skipped."""
    found: dict[str, str] = {}
    if not path.is_file():
        return found
    # Split at line feeds only: an answer may contain other characters that Python takes for the end of a line.
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            entry = json.loads(line)
            found[str(entry["digest"])] = str(entry["answer"])
        except (ValueError, KeyError, TypeError):
            continue
    return found


class _Record:
    """The record, opened to append answers."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _Record:
        try:
            self._file = self._path.open("ab", buffering=0)
            if self._file.tell():
                self._file.write(b"\n")  # The last line may have been cut off; empty lines are skipped.
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written: {error.strerror}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, entry: dict[str, str]) -> None:
        try:
            append_line(self._file, to_text(entry, ensure_ascii=False).encode() + b"\n")
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written: {error.strerror}") from error


def _chosen(human: str) -> Choice:
    said = human.strip().lower()
    if said not in list(Choice):
        raise ValueError(f"human is {human!r:.80}")
    return Choice(said)


def read_human(path: Path) -> list[tuple[AnswerPair, Choice]]:
    """Pairs that people have judged: rows of JSON with `question`, `first`, `second` and `human` (1, 2 or tie).

    Raises:
        DataError: rows cannot be used; all are named.
    """
    found, problems = [], []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"human: {path} cannot be read: {error}; give a file of JSON lines in UTF-8") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
            question, first, second, human = (_told(row, key) for key in HUMAN_KEYS)
            reference = "" if row.get("reference") is None else _told(row, "reference")
            choice = _chosen(human)
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            problems.append(f"{where}: {type(error).__name__}: {error}")
            continue
        found.append((AnswerPair(where, question, reference, first, second), choice))
    if problems or not found:
        raise DataError(
            f"{path}: {count_of(len(problems), 'row')} cannot be used ({', '.join(HUMAN_KEYS)}, "
            f"the last one of 1, 2 and tie):\n"
            f"{listing(problems or ['the file has no row'])}"
        )
    return found


def _told(row: dict[str, Any], key: str) -> str:
    """A value of a row as text.

    Raises:
        TypeError: the value is null, a list or an object.
    """
    value = row[key]
    if not isinstance(value, str | int | float):
        raise TypeError(f"{key} is not a text")
    return str(value)
