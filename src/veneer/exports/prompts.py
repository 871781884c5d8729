"""The questions for an export: the user's evaluation rows, or a few built-in questions if there are none."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from veneer.assistant.assistant import Assistant
from veneer.config import RunConfig
from veneer.data.files.sources import run_files
from veneer.data.forms.record import Record
from veneer.data.forms.turns import Message
from veneer.data.records import read_file
from veneer.data.sides import evaluation_answers
from veneer.enums import RowKind
from veneer.errors import DataError, ModelError, listing
from veneer.evaluation.columns import record_columns
from veneer.text.counting import count_of

LIMIT = 20
"""The number of prompts of a certificate, unless more are asked for."""
LEAST_CONTEXT = 3
"""The tokens of a prompt, an answer, and one more, because llama.cpp needs room for it."""
LONGEST = 1024
"""A longer prompt is cut to this many tokens, or to fewer if the context is shorter."""
TEXTS = (
    "Hello, world!",
    " two spaces  and\ta tab\nand a line",
    "3.14 × 10² = 314, 1234567890",
    "The quick brown fox doesn't jump; it's 12:45.",
    "def f(x):\n    return {'a': [1, 2]}\n",
    "Straße, naïve, Привет, 你好，世界, 안녕",
    "😀 e\u0301 — “quoted”",
    '{"count": 3, "word": "late"}',
    "https://example.org/a?b=c&d=e#f",
    "CamelCase snake_case UPPER lower",
)
"""Texts whose token ids are compared, besides the user's own."""
QUESTIONS = (
    "What is the capital of France?",
    "List three fruits, separated by commas.",
    "Write one sentence about the sea.",
    "What is 17 + 25?",
    "Translate to German: Good morning.",
)
BUILT_IN = "built-in questions"
BUILT_IN_ROWS = tuple(
    Record(
        f"built-in question {number}", ({"role": "user", "content": question}, {"role": "assistant", "content": "."})
    )
    for number, question in enumerate(QUESTIONS, start=1)
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question that every reader is asked."""

    where: str
    tokens: tuple[int, ...]
    """The prompt as the reference encodes it; every reader continues these tokens."""
    messages: tuple[Message, ...] | None
    """The conversation that the template writes; None for plain text, and if there are only answers, which llama.cpp's
    server would continue."""
    tools: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Prompts:
    """The questions that all readers are asked."""

    prompts: tuple[Prompt, ...]
    texts: tuple[str, ...]
    """Texts whose token ids are compared."""
    source: str
    """Where the questions come from."""
    new_tokens: int
    """The length of the answers, in tokens."""

    @property
    def longest(self) -> int:
        """The tokens of the longest prompt with its answer."""
        return max(len(prompt.tokens) for prompt in self.prompts) + self.new_tokens


@dataclass(frozen=True, slots=True)
class EvaluationRows:
    """Evaluation rows, and where they are from."""

    records: tuple[Record, ...]
    source: str


def evaluation_rows(
    run: RunConfig | None, data: str | None, recorded: Collection[str] = ()
) -> tuple[EvaluationRows | None, str]:
    """The rows of a file, or else those that the adapter's run was evaluated on; or the reason why there are none.

    The run's names of columns are used if the file has such columns.

    Args:
        run: the run that made the adapter.
        data: the file of rows.
        recorded: the keys of the files in the run's `run.lock`, if it has one; files that match its patterns but are
            not listed were not there then.

    Raises:
        DataError: the file that was given cannot be used, or one that the run names.
    """
    if data is not None:
        found = read_file(data, columns=record_columns(data, {}, run)).records
        return EvaluationRows(tuple(found), data), ""
    if run is None:
        return None, "the adapter has no record of a run"
    if not run.data.evaluates:
        return None, "the adapter's run kept no rows for evaluation"
    if run.objective.rows is RowKind.PROMPTS:
        return None, "the adapter's run sampled its answers, so its rows have none"
    rows = run.data
    files = run_files(rows)
    lost = files.lost(recorded)
    if lost:
        return None, f"{lost[0]}, which the run was trained from, is not there any more"
    files = files.only(recorded) if recorded else files
    missing = [str(file.path) for file in files.eval or files.train if not file.path.is_file()]
    if missing:
        return None, f"{missing[0]}, which has the run's evaluation rows, is not there any more"
    records = tuple(evaluation_answers(rows, run.objective.rows, files))
    name = rows.eval_file or rows.training_name
    held_out = "" if rows.eval_file is not None else f" (the {count_of(len(records), 'row')} held out of training)"
    return EvaluationRows(records, f"{name}{held_out}"), ""


def chosen(
    assistant: Assistant, rows: EvaluationRows | None, limit: int, new_tokens: int, context: int | None = None
) -> Prompts:
    """The prompts of the first rows, encoded as the reference encodes them.

    Args:
        assistant: the reference.
        rows: the rows; None means the built-in questions.
        limit: the largest number of prompts.
        new_tokens: the length of the answers. They are shorter if the context has no room for these and a prompt.
        context: the context length of the export in tokens, if it may be shorter than the model's.

    Raises:
        DataError: rows that the chat template refuses; all are named.
        ModelError: the context has no room for a prompt and an answer.
    """
    records = BUILT_IN_ROWS if rows is None else rows.records[:limit]
    source = BUILT_IN if rows is None else rows.source
    positions = assistant.model.spec.max_positions
    most = min(positions, positions if context is None else context)
    if most < LEAST_CONTEXT:
        raise ModelError(
            f"an export is compared by answers to prompts, but a context of {most} tokens has no room for them; it "
            f"needs {LEAST_CONTEXT}. Use the adapter on its base, or use a model with a longer context"
        )
    # llama.cpp needs room for one token more than it is asked for.
    new_tokens = new_tokens if most > new_tokens + 1 else (most - 1) // 2
    room = most - new_tokens - 1
    found, problems, texts = [], [], list(TEXTS)
    for record in records:
        try:
            found.append(_prompt(assistant, record, min(LONGEST, room)))
        except DataError as error:
            problems.append(str(error))
        texts += [record.text] if record.text is not None else _contents(record)
    rows_known = assistant.model.spec.vocab_size
    beyond = [prompt for prompt in found if max(prompt.tokens, default=0) >= rows_known]
    problems += [f"{one.where}: token {max(one.tokens)}, the embedding has {rows_known} rows" for one in beyond]
    if problems:
        raise DataError(f"{count_of(len(problems), 'row')} cannot be asked:\n{listing(problems)}")
    return Prompts(tuple(found), tuple(dict.fromkeys(texts)), source, new_tokens)


def _prompt(assistant: Assistant, record: Record, longest: int) -> Prompt:
    if record.text is not None:
        tokens = assistant.encoder.encode(record).tokens.tolist()
        return Prompt(record.where, tuple(tokens[: max(1, len(tokens) // 2)][:longest]), None)
    roles = [turn["role"] for turn in record.messages]
    last = max((at for at, role in enumerate(roles) if role == "assistant"), default=0)
    # A prompt that ends with an answer is not a question: llama.cpp would continue that answer.
    while last > 1 and roles[last - 1] == "assistant":
        last -= 1
    messages = record.messages[:last]
    if not messages:
        raise DataError(f"{record.where}: there is no question before the last assistant turn")
    tokens = assistant.encoder.prompt_tokens(messages, record.tools)
    # There are only answers before it, so there is no conversation that llama.cpp would write.
    written = None if roles[last - 1] == "assistant" else messages
    return Prompt(record.where, tuple(tokens[:longest]), written, record.tools)


def _contents(record: Record) -> list[str]:
    return [message["content"] for message in record.messages if isinstance(message.get("content"), str)]
