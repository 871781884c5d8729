"""The parity certificate: is the export the model that it was made from?

Two sides answer the same prompts: the *reference* (the adapter on its base, live) and a *reader* (a program that has
loaded the export). What must be equal is compared for equality: the rendering of the chat template, the token ids of
texts, the tensors where the format rounds nothing. What a format rounds is held to its thresholds. Everything here is
a function of plain values; how they are got is sides.py's and readers.py's subject.

Along the reference's and the reader's own greedy answers, every step is compared as long as both have chosen the same
tokens; the step where they part is the last one. A token may therefore differ only where two were as good as equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from veneer.errors import VeneerError, listing

TOP = 10
"""Likeliest tokens of the reference whose log-probabilities are compared."""
LISTED = 64
"""Likeliest tokens that a side gives of every distribution."""


class ParityError(VeneerError):
    """An export is not the model that it was made from."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class TokenDistribution:
    """The distribution of one next token: the likeliest tokens, natural logarithms, likeliest first."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A greedy continuation of a prompt."""

    tokens: tuple[int, ...]
    """What was chosen, without the token that ended it."""
    text: str
    steps: tuple[TokenDistribution, ...]
    """The distribution that every token was chosen from, and possibly that of the one that ended it."""


@dataclass(frozen=True, slots=True)
class ReaderOutput:
    """What one program makes of the prompts."""

    name: str
    renderings: tuple[str | None, ...]
    """By prompt, the chat template's text; None where there is nothing to render."""
    ids: tuple[tuple[int, ...], ...]
    """By text (see `Prompts.texts`), its token ids."""
    answers: tuple[Answer, ...]
    """By prompt."""
    vocabulary: Mapping[str, int] | None = None
    """Every token with its id; None where the program does not tell."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a format may cost."""

    gap: float
    """Largest difference of a log-probability among the reference's ten likeliest tokens, in nats."""
    divergence: float
    """Mean KL divergence of the reference from the reader, in nats."""
    tensor: float
    """Largest ‖found − expected‖ / ‖expected‖ of a tensor; 0 where what is written is the expected tensor rounded once,
    which is then compared bit for bit."""


@dataclass(frozen=True, slots=True)
class TensorReport:
    """What was written beside what should stand there."""

    compared: int
    worst: str
    """The tensor with the largest relative error."""
    error: float
    problems: tuple[str, ...] = ()
    """Tensors that are missing, too many, of another shape, not finite or beyond the threshold; in order."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """One reader beside the reference."""

    reader: str
    texts: int
    texts_equal: int
    renderings: int
    renderings_equal: int
    positions: int
    """Distributions that were compared."""
    top1: int
    """Of them, with the same likeliest token."""
    gap: float
    """Largest difference of a log-probability in the reference's top ten, in nats."""
    divergence: float
    """Mean KL divergence, in nats. Tokens beyond the listed ones count as one, so that it is a lower bound."""
    worst_divergence: float
    greedy: int
    greedy_equal: int
    """Answers whose text is the same."""
    problems: tuple[str, ...]
    """What is wrong, the first step first."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was compared, how, and what came of it; `parity.json` in the export."""

    to: str
    format: str
    prompts: int
    prompts_from: str
    new_tokens: int
    threshold: Threshold
    tensors: TensorReport | None
    readers: tuple[Agreement, ...]
    notes: tuple[str, ...] = ()
    """Readers that were not asked, and why; where the prompts came from."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every file of the export but the certificate."""
    damaged: tuple[str, ...] = ()
    """Files that are no longer what they were; when an export is checked again."""

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong, first what explains the rest: files, tensors, then the readers' steps."""
        tensors = [f"tensor {one}" for one in self.tensors.problems] if self.tensors else []
        read = [f"{one.reader}: {problem}" for one in self.readers for problem in one.problems]
        return [*(f"file {one}" for one in self.damaged), *tensors, *read]

    @property
    def passed(self) -> bool:
        """Whether the export is the model that it was made from."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """The certificate as plain values."""
        return {"passed": self.passed, "problems": self.problems, **asdict(self)}

    def refuse(self, where: str) -> None:
        """Raise ParityError, naming what is to blame, unless the certificate passes.

        Args:
            where: the export, and what becomes of it, as the message says it.
        """
        if not self.passed:
            raise ParityError(
                f"{where}. The first of these is to blame:\n{listing(self.problems)}\n"
                f"Threshold of {self.format}: {self.threshold.gap:g} nats in the top {TOP}."
            )


def compare(reference: ReaderOutput, reader: ReaderOutput, threshold: Threshold, labels: Sequence[str]) -> Agreement:
    """Hold a reader beside the reference.

    Args:
        reference: the live adapter.
        reader: of the export, on the same prompts and texts.
        threshold: of the export's format.
        labels: where every prompt comes from.
    """
    ids = [index for index, pair in enumerate(zip(reference.ids, reader.ids, strict=True)) if pair[0] != pair[1]]
    pairs = list(zip(labels, reference.renderings, reader.renderings, strict=True))
    rendered = [pair for pair in pairs if pair[1] != pair[2]]
    measured = _measure(reference, reader)
    problems = [f"vocabulary: {one}" for one in _vocabulary(reference.vocabulary, reader.vocabulary)]
    if ids:
        cut = f"{len(ids)} of {len(reference.ids)} texts are cut into other tokens"
        problems.append(f"token ids: {cut}, text {ids[0] + 1} {_ids(reference.ids[ids[0]], reader.ids[ids[0]])}")
    if rendered:
        where, ours, theirs = rendered[0]
        written = f"{len(rendered)} of {len(pairs)} conversations are written otherwise"
        problems.append(f"template: {written}, {where} {_parting(ours, theirs)}")
    problems += [f"ending: {one}" for one in _endings(reference, reader, labels)[:1]]
    problems += _judged(measured, threshold, labels)
    return Agreement(
        reader=reader.name,
        texts=len(reference.ids),
        texts_equal=len(reference.ids) - len(ids),
        renderings=len(pairs),
        renderings_equal=len(pairs) - len(rendered),
        positions=len(measured),
        top1=sum(one.same_first for one in measured),
        gap=_largest(one.gap for one in measured),
        divergence=sum(one.divergence for one in measured) / max(1, len(measured)),
        worst_divergence=_largest(one.divergence for one in measured),
        greedy=len(reference.answers),
        greedy_equal=sum(
            ours.text.strip() == theirs.text.strip()
            for ours, theirs in zip(reference.answers, reader.answers, strict=True)
        ),
        problems=tuple(problems),
    )


@dataclass(frozen=True, slots=True)
class _Deviation:
    """One pair of distributions."""

    prompt: int
    step: int
    gap: float
    token: int
    divergence: float
    same_first: bool
    finite: bool


def _measure(reference: ReaderOutput, reader: ReaderOutput) -> list[_Deviation]:
    found = []
    for prompt, (ours, theirs) in enumerate(zip(reference.answers, reader.answers, strict=True)):
        for number, (one, other) in enumerate(zip(ours.steps, theirs.steps, strict=False)):
            finite = all(map(math.isfinite, (*one.logprobs, *other.logprobs)))
            gap, token = largest_gap(one, other) if finite else (math.nan, -1)
            divergence = kl_divergence(one, other) if finite else math.nan
            same = one.ids[0] == other.ids[0]
            found.append(_Deviation(prompt, number, gap, token, divergence, same, finite))
            if ours.tokens[number : number + 1] != theirs.tokens[number : number + 1]:
                break
    return found


def largest_gap(reference: TokenDistribution, other: TokenDistribution) -> tuple[float, int]:
    """The largest |log p − log q| over the reference's `TOP` likeliest tokens, and the token.

    A token that the other side does not list is at most as likely there as the last one that it lists.
    """
    theirs = dict(zip(other.ids, other.logprobs, strict=True))
    last = other.logprobs[-1]
    gaps = []
    for token, value in zip(reference.ids[:TOP], reference.logprobs[:TOP], strict=True):
        gaps.append((abs(value - theirs[token]) if token in theirs else max(0.0, value - last), token))
    return max(gaps)


def kl_divergence(reference: TokenDistribution, other: TokenDistribution) -> float:
    """KL(p ‖ q) = Σ p (log p − log q) in nats, over the tokens that both sides list and one that stands for the rest.

    Putting outcomes together can only lessen a divergence (the log-sum inequality), so that this is a lower bound.
    """
    theirs = dict(zip(other.ids, other.logprobs, strict=True))
    total, p_rest, q_rest = 0.0, 1.0, 1.0
    for token, value in zip(reference.ids, reference.logprobs, strict=True):
        if token in theirs:
            p = math.exp(value)
            total += p * (value - theirs[token])
            p_rest -= p
            q_rest -= math.exp(theirs[token])
    # Both sums were rounded: a rest of less than that is none.
    if p_rest > 1e-6 and q_rest > 1e-6:
        total += p_rest * math.log(p_rest / q_rest)
    return max(0.0, total)


def _judged(measured: Sequence[_Deviation], threshold: Threshold, labels: Sequence[str]) -> list[str]:
    """What is wrong with the distributions."""
    broken = [one for one in measured if not one.finite]
    if broken:
        first = broken[0]
        return [f"probabilities: NaN or infinite at {labels[first.prompt]}, token {first.step + 1} of the answer"]
    if not measured:
        return ["probabilities: nothing could be compared"]
    problems = []
    worst = max(measured, key=lambda one: one.gap)
    if worst.gap > threshold.gap:
        problems.append(
            f"probabilities: a log-probability is off by {worst.gap:.3g} nats, {threshold.gap:g} are allowed "
            f"({labels[worst.prompt]}, token {worst.step + 1} of the answer, id {worst.token})"
        )
    mean = sum(one.divergence for one in measured) / len(measured)
    if mean > threshold.divergence:
        problems.append(
            f"probabilities: the mean KL divergence is {mean:.3g} nats, {threshold.divergence:g} are allowed"
        )
    return problems


def _vocabulary(ours: Mapping[str, int] | None, theirs: Mapping[str, int] | None) -> list[str]:
    """Tokens that the reader has not, or under another id. It may have more: files fill tables up."""
    if ours is None or theirs is None:
        return []
    lost = sorted((number, token) for token, number in ours.items() if theirs.get(token) != number)
    if not lost:
        return []
    number, token = lost[0]
    return [f"{len(lost)} of {len(ours)} tokens are missing or have another id, the first is {token!r} ({number})"]


def _endings(reference: ReaderOutput, reader: ReaderOutput, labels: Sequence[str]) -> list[str]:
    """Where a reader goes on behind a token that ends the reference's answer."""
    found = []
    for label, ours, theirs in zip(labels, reference.answers, reader.answers, strict=True):
        length = len(ours.tokens)
        if theirs.tokens[:length] == ours.tokens and len(theirs.tokens) > length and len(ours.steps) > length:
            token = ours.steps[length].ids[0]
            # As many tokens as were asked for are no end.
            if theirs.tokens[length] == token:
                found.append(f"token {token} does not end the answer to {label}")
    return found


def _ids(ours: Sequence[int], theirs: Sequence[int]) -> str:
    place = _parted(ours, theirs)
    return f"from token {place + 1}: {list(ours[place : place + 4])} here, {list(theirs[place : place + 4])} there"


def _parting(ours: str | None, theirs: str | None) -> str:
    if ours is None or theirs is None:
        return "has a template on one side only"
    place = _parted(ours, theirs)
    return f"from character {place + 1}: {ours[place : place + 30]!r} here, {theirs[place : place + 30]!r} there"


def _parted(ours: Sequence[object], theirs: Sequence[object]) -> int:
    """Where two sequences are no longer the same."""
    pairs = zip(ours, theirs, strict=False)
    return next((at for at, pair in enumerate(pairs) if pair[0] != pair[1]), min(len(ours), len(theirs)))


def _largest(values: Iterable[float]) -> float:
    """The maximum, or NaN where one of them is."""
    found = list(values)
    return math.nan if any(map(math.isnan, found)) else max(found, default=0.0)
