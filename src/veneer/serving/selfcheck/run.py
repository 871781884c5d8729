"""The self-check as a whole: a server of the user's model and adapters is asked many questions at once, and every
answer is compared with that of a cold server.

The server is the one that `veneer serve` starts, but with little memory, so that adapters are evicted and answers lose
their places in the cache. The `system_fingerprint` of an answer says which version of an adapter gave it. That must be
a version of the requested adapter, and not older than the one that was loaded when the question was asked. The cold
server answers with the same version.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from veneer.adapters.files.content import content_digest
from veneer.assistant.assistant import Assistant
from veneer.errors import AdapterError, ConfigError, listing
from veneer.events import Stage, Subscriber
from veneer.generation.runner import LoadedAdapter
from veneer.http_server.guard import Access
from veneer.io.checkpoint import model_name
from veneer.io.token_bytes import token_bytes
from veneer.machine.hardware import resolve_dtype
from veneer.native.library import used_variant
from veneer.serving.build import build_service, load_base, server_of
from veneer.serving.openai_api.answers import fingerprint_of
from veneer.serving.request import ServeRequest
from veneer.serving.selfcheck.asking import CLIENTS, CheckedAnswer, Reloads, ask_all
from veneer.serving.selfcheck.certificate import (
    MOST_SHOWN_DIFFERENCES,
    AnswerDifference,
    CheckedAdapter,
    Counts,
    IsolationCertificate,
)
from veneer.serving.selfcheck.cold import cold_answer
from veneer.serving.selfcheck.comparison import LOGPROB_TOLERANCE, Exactness, compare
from veneer.serving.selfcheck.questions import MOST_SEQUENCE_TOKENS, CheckQuestion, draw_questions
from veneer.serving.selfcheck.versions import AdapterVersions
from veneer.serving.served_adapters.folder import AdapterFolder, adapter_names
from veneer.serving.served_adapters.loading import Loader, adapter_loader

MOST_CHECKED_ADAPTERS = 50
"""The most adapters that are checked; those of a larger folder are chosen evenly over its names."""
MOST_RELOADED_ADAPTERS = 8
"""The most adapters that are replaced under their names; a second version of each is written for that."""
ANSWERS_IN_CACHE = 6
"""The number of answers whose keys and values fit into the check's cache together."""


@dataclass(slots=True)
class _Chosen:
    """The adapters of the check."""

    checked: list[CheckedAdapter] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [adapter.name for adapter in self.checked]

    @property
    def budget(self) -> int:
        """Bytes for adapters in memory: a third of all, so that some are evicted, but room for any two."""
        sizes = [adapter.nbytes for adapter in self.checked]
        return max(2 * max(sizes, default=0), sum(sizes) // 3)


def selfcheck(request: ServeRequest, emit: Subscriber, *, questions: int = 1000, seed: int = 0) -> IsolationCertificate:
    """Find out whether concurrent requests mix up answers.

    Args:
        request: the server that is checked: its model, its adapters, and how they are held.
        emit: receives every event.
        questions: the number of questions.
        seed: the seed of the questions.

    Raises:
        ModelError, AdapterError, ConfigError: the model, the adapters or the settings cannot be used.
    """
    begun = time.monotonic()
    assistant = load_base(request, emit).assistant
    exactness = _exactness(assistant, None)
    if exactness is None:
        raise ConfigError(
            f"{request.model}: torch computes this model here, and its rounding in {assistant.model.dtype} depends "
            "on the number of rows; check it with --dtype float32"
        )
    loader = adapter_loader(
        assistant.model, tokenizer=assistant.tokenizer, base_files=assistant.files, dtype=_adapter_dtype(request)
    )
    chosen = _Chosen() if request.adapters is None else _choose(assistant, request.adapters, loader, emit)
    drawn = draw_questions(questions, chosen.names, assistant.model.spec.vocab_size, seed)
    with TemporaryDirectory(prefix="veneer-selfcheck-") as scratch:
        versions = None
        if request.adapters is not None:
            versions = AdapterVersions(request.adapters, chosen.names, Path(scratch))
        asked = _ask(assistant, request, chosen, versions, loader, drawn, seed, emit)
        folders = {} if versions is None else versions.folders
        compared = _compare(assistant, asked, folders, loader, emit)
    return IsolationCertificate(
        model=request.model,
        base_digest=asked.base_digest,
        settings=_settings(request, assistant, chosen, questions, seed),
        machine={
            "veneer": version("veneer"),
            "torch": torch.__version__,
            "kernels": used_variant() or "none",
        },
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.monotonic() - begun,
        adapters=tuple(chosen.checked),
        left_out=chosen.left_out,
        counts=_counts(drawn, asked, compared),
        tolerance=LOGPROB_TOLERANCE,
        largest_difference=compared.largest,
        different=compared.different,
        differences=tuple(compared.differences),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """All answers, and counts of what happened meanwhile."""

    answers: list[CheckedAnswer]
    base_digest: str
    reloads: int
    evictions: int
    preemptions: int
    shared_tokens: int


@dataclass(slots=True)
class _Compared:
    """Counts of compared answers, and those that differ."""

    bitwise: int = 0
    rounded: int = 0
    largest: float = 0.0
    different: int = 0
    differences: list[AnswerDifference] = field(default_factory=list)

    def compare(self, answer: CheckedAnswer, expected: Mapping[str, object], exactness: Exactness) -> None:
        """Compare an answer with that of a cold server."""
        assert answer.content is not None
        result = compare(answer.content, expected, exactness)
        self.largest = max(self.largest, result.largest)
        self.bitwise += exactness is Exactness.BITWISE
        self.rounded += exactness is Exactness.ROUNDED
        if result.problem is not None:
            self.add(_difference(answer, result.problem, expected))

    def add(self, difference: AnswerDifference) -> None:
        """Count an answer that differs; the first of them are kept."""
        self.different += 1
        if len(self.differences) < MOST_SHOWN_DIFFERENCES:
            self.differences.append(difference)


def _settings(
    request: ServeRequest, assistant: Assistant, chosen: _Chosen, questions: int, seed: int
) -> dict[str, object]:
    """The settings of the check, for its certificate."""
    return {
        "questions": questions,
        "seed": seed,
        "clients": CLIENTS,
        "method": (request.method or assistant.form.method).value,
        "dtype": str(assistant.model.dtype),
        "adapter_dtype": str(_adapter_dtype(request)),
        "adapter_memory": chosen.budget,
        "cache_memory": _cache_bytes(assistant),
    }


def _adapter_dtype(request: ServeRequest) -> torch.dtype:
    return resolve_dtype(request.adapter_dtype, torch.device("cpu"))


def _counts(questions: Sequence[CheckQuestion], asked: _Asked, compared: _Compared) -> Counts:
    return Counts(
        asked=len(questions),
        bitwise=compared.bitwise,
        rounded=compared.rounded,
        left=sum(answer.left for answer in asked.answers),
        refused=sum(answer.exchanged for answer in asked.answers),
        base_after_adapter=_base_after_adapter(questions),
        reloads=asked.reloads,
        evictions=asked.evictions,
        preemptions=asked.preemptions,
        shared_tokens=asked.shared_tokens,
    )


def _choose(assistant: Assistant, folder: Path, loader: Loader, emit: Subscriber) -> _Chosen:
    """The adapters that are checked; each is loaded once. Raises AdapterError if none can be used."""
    names, chosen = adapter_names(folder), _Chosen()
    places = (place * len(names) // MOST_CHECKED_ADAPTERS for place in range(MOST_CHECKED_ADAPTERS))
    spread = [names[place] for place in dict.fromkeys(places)]
    with Stage(emit, "reading adapters", total=len(spread), unit="adapters") as stage:
        for name in spread:
            try:
                loaded = loader(folder / name)
                digest = content_digest(folder / name).hex()
            except (AdapterError, OSError) as error:
                chosen.left_out[name] = str(error)
            else:
                exactness = _exactness(assistant, loaded)
                if exactness is None:
                    chosen.left_out[name] = (
                        "torch computes it, and its rounding in bfloat16 depends on the number of rows"
                    )
                else:
                    chosen.checked.append(
                        CheckedAdapter(name=name, digest=digest, nbytes=loaded.nbytes, exactness=exactness)
                    )
            stage.advance(item=name)
    if not chosen.checked:
        problems = [f"{name}: {reason}" for name, reason in chosen.left_out.items()]
        raise AdapterError(f"{folder}: no adapter can be checked:\n{listing(problems)}")
    return chosen


def _exactness(assistant: Assistant, adapter: LoadedAdapter | None) -> Exactness | None:
    """How answers with an adapter, or of the base, are compared; None if they cannot be."""
    compiled = assistant.model.compiled_step(1) is not None
    if compiled and (adapter is None or adapter.factors is not None):
        return Exactness.BITWISE
    return Exactness.ROUNDED if assistant.model.dtype is torch.float32 else None


def _cache_bytes(assistant: Assistant) -> int:
    return assistant.model.row_bytes(ANSWERS_IN_CACHE * MOST_SEQUENCE_TOKENS)


def _ask(
    assistant: Assistant,
    request: ServeRequest,
    chosen: _Chosen,
    versions: AdapterVersions | None,
    loader: Loader,
    questions: Sequence[CheckQuestion],
    seed: int,
    emit: Subscriber,
) -> _Asked:
    base = request.name or model_name(request.model)
    with ExitStack() as ends:
        catalogue = reloads = None
        if versions is not None:
            catalogue = ends.enter_context(closing(AdapterFolder(versions.folder, loader, chosen.budget)))
            reloads = Reloads(versions, catalogue, chosen.names[:MOST_RELOADED_ADAPTERS], seed)
        service = build_service(assistant, base, catalogue, cache_bytes=_cache_bytes(assistant))
        server = ends.enter_context(server_of(service, Access()))
        title = f"asking {CLIENTS} questions at a time"
        stage = ends.enter_context(Stage(emit, title, total=len(questions), unit="questions"))
        if catalogue is not None:
            # A version is the content of its files when it was first read, so all are read before any is replaced.
            for name in chosen.names[:MOST_RELOADED_ADAPTERS]:
                catalogue.load(name, None)
        answers = ask_all(server, base, questions, versions, reloads, stage.advance)
        stats = service.engine.stats()
        return _Asked(
            answers=answers,
            base_digest=service.base_digest,
            reloads=0 if reloads is None else reloads.count,
            evictions=0 if catalogue is None else catalogue.evictions,
            preemptions=stats.preemptions,
            shared_tokens=stats.shared_tokens,
        )


def _compare(
    assistant: Assistant,
    asked: _Asked,
    folders: Mapping[str, Path],
    loader: Loader,
    emit: Subscriber,
) -> _Compared:
    """Compare all answers with those of a cold server, version by version, so that each is read once."""
    compared = _Compared()
    by_version: dict[str | None, list[CheckedAnswer]] = defaultdict(list)
    for answer in asked.answers:
        if answer.error is not None and not answer.exchanged:
            compared.add(_difference(answer, answer.error))
        elif answer.content is not None:
            digest, problem = _version_of(answer, asked.base_digest)
            if problem is not None:
                compared.add(_difference(answer, problem))
            else:
                by_version[digest].append(answer)
    bytes_of = token_bytes(assistant.tokenizer)
    total = sum(map(len, by_version.values()))
    with Stage(emit, "answering them one by one", total=total, unit="questions") as stage:
        for digest, answers in by_version.items():
            adapter = None if digest is None else loader(folders[digest])
            exactness = _exactness(assistant, adapter)
            assert exactness is not None
            for answer in answers:
                expected = cold_answer(assistant, adapter, answer.question, bytes_of)
                compared.compare(answer, expected, exactness)
                stage.advance()
    return compared


def _difference(answer: CheckedAnswer, problem: str, expected: Mapping[str, object] | None = None) -> AnswerDifference:
    question = answer.question
    return AnswerDifference(
        question=question.number,
        adapter=question.adapter,
        problem=problem,
        found=answer.content,
        expected=None if expected is None else dict(expected),
    )


def _version_of(answer: CheckedAnswer, base_digest: str) -> tuple[str | None, str | None]:
    """The digest of the version that answered (None for the base), and the problem if it was not a possible one."""
    possible: list[str | None] = [None] if answer.question.adapter is None else [*answer.possible]
    for digest in possible:
        keys = [] if digest is None else [bytes.fromhex(digest)]
        if answer.fingerprint == fingerprint_of(base_digest, keys):
            return digest, None
    return None, f"answered by {answer.fingerprint}, which is not a version that was loaded under its name at that time"


def _base_after_adapter(questions: Sequence[CheckQuestion]) -> int:
    """The number of questions to the base whose beginning was asked under an adapter earlier."""
    seen: set[int] = set()
    count = 0
    for question in questions:
        if question.adapter is not None:
            seen.add(question.beginning)
        else:
            count += bool(question.beginning and question.beginning in seen)
    return count
