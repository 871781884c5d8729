"""The parity certificate: is the export the model that it was made from?

The *live adapter* (on its base) answers prompts, and *readers* (programs that have loaded the export) answer the same.
Settings, tensors, the rendering of the chat template, the token ids of texts, and the tokens that end an answer must be
equal. Probabilities are judged against the *expected model*: the tensors as the format holds them under the settings
that the export should have. A format's rounding is therefore not a fault of a reader, and no constant has to allow for
it; its cost against the live adapter is reported. A reader that rounds the inputs of its products (llama.cpp) may
differ by as much as this changes the probabilities on the same rows, which is measured (`Floor`).

Everything here is a function of plain values; veneer_reader.py and readers.py obtain them.

Along the live adapter's greedy answers, every step is compared as long as the reader has chosen the same tokens; the
step where they diverge is the last one. A token may therefore differ only where two tokens were nearly equally likely.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from veneer.errors import VeneerError, listing
from veneer.html.notebook import html_table
from veneer.text.counting import count_of

TOP = 10
"""The number of the reference's likeliest tokens whose log-probabilities are compared."""
LISTED = 64
"""The number of likeliest tokens that a reader gives for every distribution."""


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
    """The chosen tokens, without the one that ended the answer."""
    text: str
    steps: tuple[TokenDistribution, ...]
    """The distribution that every token was chosen from, and possibly that of the token that ended the answer."""


@dataclass(frozen=True, slots=True)
class ReaderOutput:
    """The results of one program on the prompts."""

    name: str
    renderings: tuple[str | None, ...]
    """The text that the chat template makes of each prompt; None if there is nothing to render."""
    ids: tuple[tuple[int, ...], ...]
    """The token ids of each text (see `Prompts.texts`)."""
    answers: tuple[Answer, ...]
    """The answer to each prompt."""
    vocabulary: Mapping[str, int] | None = None
    """Every token with its id; None if the program does not give them."""
    stop_ids: frozenset[int] | None = None
    """The tokens that end an answer, by the export's own files; None if the program does not give them."""
    notes: tuple[str, ...] = ()
    """Notes on how to call the program so that it reads conversations as training wrote them."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """The differences that are allowed."""

    gap: float
    """Largest difference of a log-probability among the ten likeliest tokens of the expected model, in nats."""
    divergence: float
    """Largest mean KL divergence of the expected model from a reader, in nats."""
    tensor: float
    """Largest ‖found − exact‖ / ‖exact‖ of a tensor that the format's rounding explains; 0 if a value is rounded
    once."""
    cost: float | None = None
    """Largest difference of a log-probability to the live adapter, in nats; None unless the user has set one."""


@dataclass(frozen=True, slots=True)
class Floor:
    """The error that a reader may have because it rounds the inputs of its products, on the rows of the certificate."""

    mean: float
    """Mean KL divergence, over prompts, of the expected model from itself with rounded inputs, in nats."""
    upper: float
    """The upper end of the 95 % interval of that mean."""

    @property
    def allowed(self) -> float:
        """The mean divergence that is allowed on top of the threshold: three times the upper end, because a kernel sums
        in another order and rounds more than inputs (`veneer.exports.input_rounding`)."""
        return 3 * self.upper


@dataclass(frozen=True, slots=True)
class TensorReport:
    """The written tensors compared with the expected ones."""

    compared: int
    worst: str
    """The tensor with the largest relative error."""
    error: float
    problems: tuple[str, ...] = ()
    """Tensors that are missing, too many, of another shape, not finite or beyond the threshold; in order."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """One reader compared with the live adapter."""

    reader: str
    texts: int
    texts_equal: int
    renderings: int
    renderings_equal: int
    positions: int
    """The number of distributions that were compared."""
    top1: int
    """The number of distributions with the same likeliest token."""
    gap: float
    """Largest difference of a log-probability in the live adapter's top ten, in nats."""
    divergence: float
    """Mean KL divergence, in nats. Tokens beyond the listed ones count as one, so this is a lower bound."""
    worst_divergence: float
    beside_expected: float
    """Mean KL divergence of the expected model from the reader, in nats."""
    allowed: float
    """The largest such divergence that is allowed."""
    greedy: int
    greedy_equal: int
    """The number of answers with the same text."""
    problems: tuple[str, ...]
    """The problems, in the order of the steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """What was compared, how, and the results; `parity.json` in the export."""

    to: str
    format: str
    prompts: int
    prompts_from: str
    new_tokens: int
    threshold: Threshold
    tensors: TensorReport | None
    readers: tuple[Agreement, ...] = field(repr=False)
    notes: tuple[str, ...] = ()
    """Readers that were not asked, and why; where the prompts came from."""
    merged: Agreement | None = field(default=None, repr=False)
    """The merged model before rounding, which no file holds; None if nothing is rounded."""
    settings: tuple[str, ...] = ()
    """Settings that are not what they should be."""
    files: dict[str, str] = field(default_factory=dict, repr=False)
    """SHA-256 of every file of the export but the certificate."""
    damaged: tuple[str, ...] = ()
    """Files that have changed since the export, when it is checked again."""

    @property
    def problems(self) -> list[str]:
        """All problems, those that explain the others first: files, settings, tensors, then the readers."""
        tensors = [f"tensor {one}" for one in self.tensors.problems] if self.tensors else []
        asked = (*([self.merged] if self.merged else []), *self.readers)
        read = [f"{one.reader}: {problem}" for one in asked for problem in one.problems]
        settings = [f"setting {one}" for one in self.settings]
        return [*(f"file {one}" for one in self.damaged), *settings, *tensors, *read]

    @property
    def passed(self) -> bool:
        """Whether the export is the model that it was made from."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """The certificate as plain values."""
        return {"passed": self.passed, "problems": self.problems, **asdict(self)}

    def _repr_html_(self) -> str:
        """The table that notebooks show."""
        verdict = "passed" if self.passed else f"FAILED: {self.problems[0]}"
        headings = ("read by", "mean KL", "largest gap", "same first token", "of", "same answer", "of")
        rows = [
            (one.reader, one.divergence, one.gap, one.top1, one.positions, one.greedy_equal, one.greedy)
            for one in self.readers
        ]
        return html_table(f"{self.to} ({self.format}), {count_of(self.prompts, 'prompt')}: {verdict}", headings, rows)

    def refuse(self, where: str) -> None:
        """Raise ParityError, which names the causes, unless the certificate passes.

        Args:
            where: the first words of the message: the export, and what happened to it.
        """
        if not self.passed:
            raise ParityError(
                f"{where}. The first of these is to blame:\n{listing(self.problems)}\n"
                f"A reader may be off by {self.threshold.gap:g} nats in the top {TOP}, plus its own rounding."
            )


def compare(
    live: ReaderOutput,
    reader: ReaderOutput,
    threshold: Threshold,
    labels: Sequence[str],
    *,
    expected: ReaderOutput | None = None,
    floor: Floor | None = None,
) -> Agreement:
    """Compare a reader with the live adapter, and judge it by the expected model.

    Args:
        live: the live adapter.
        reader: a reader of the export, on the same prompts and texts.
        threshold: the differences that are allowed.
        labels: the place where each prompt comes from.
        expected: the expected model, along the live adapter's answers; None if the format rounds nothing, so that the
            live adapter is the expected model.
        floor: the error that the reader's own rounding explains; None if it rounds nothing.
    """
    cut, written = _unequal(live.ids, reader.ids), _unequal(live.renderings, reader.renderings)
    measured = deviations(live, live, reader)
    judged = measured if expected is None else deviations(live, expected, reader)
    problems = [f"vocabulary: {one}" for one in _vocabulary(live.vocabulary, reader.vocabulary)]
    if cut:
        which = f"text {cut[0] + 1} {_ids(live.ids[cut[0]], reader.ids[cut[0]])}"
        problems.append(f"token ids: {len(cut)} of {len(live.ids)} texts are cut into other tokens, {which}")
    if written:
        which = f"{labels[written[0]]} {_parting(live.renderings[written[0]], reader.renderings[written[0]])}"
        problems.append(f"template: {len(written)} of {len(labels)} conversations are written otherwise, {which}")
    problems += [f"ending: {one}" for one in (*_stops(live, reader), *_endings(live, reader, labels)[:1])]
    problems += _problems_of(judged, threshold, labels, floor)
    gap = _largest(one.gap for one in measured)
    if threshold.cost is not None and gap > threshold.cost:
        problems.append(f"cost: a log-probability is {gap:.3g} nats from the live adapter's, --gap allows "
                        f"{threshold.cost:g}")  # fmt: skip
    return Agreement(
        reader=reader.name,
        texts=len(live.ids),
        texts_equal=len(live.ids) - len(cut),
        renderings=len(live.renderings),
        renderings_equal=len(live.renderings) - len(written),
        positions=len(measured),
        top1=sum(one.same_first for one in measured),
        gap=gap,
        divergence=_mean(one.divergence for one in measured),
        worst_divergence=_largest(one.divergence for one in measured),
        beside_expected=_mean(one.divergence for one in judged),
        allowed=threshold.divergence + (floor.allowed if floor else 0.0),
        greedy=len(live.answers),
        greedy_equal=sum(
            ours.text.strip() == theirs.text.strip() for ours, theirs in zip(live.answers, reader.answers, strict=True)
        ),
        problems=tuple(problems),
    )


def floor_of(live: ReaderOutput, expected: ReaderOutput, rounded: ReaderOutput) -> Floor:
    """The cost of rounding the inputs of products, from the expected model with and without it.

    The interval is the normal one over prompts, because the tokens of an answer are not independent draws.
    """
    by_prompt: dict[int, list[float]] = {}
    for one in deviations(live, expected, rounded):
        by_prompt.setdefault(one.prompt, []).append(one.divergence)
    means = [sum(values) / len(values) for values in by_prompt.values()]
    mean = sum(means) / max(1, len(means))
    variance = sum((value - mean) ** 2 for value in means) / max(1, len(means) - 1)
    return Floor(mean, mean + 1.96 * math.sqrt(variance / max(1, len(means))))


@dataclass(frozen=True, slots=True)
class Deviation:
    """The distance of two readers' distributions of one next token."""

    prompt: int
    step: int
    gap: float
    token: int
    """The token with the largest gap."""
    divergence: float
    same_first: bool
    finite: bool


def deviations(live: ReaderOutput, one: ReaderOutput, other: ReaderOutput) -> list[Deviation]:
    """The distance of two readers after each token of the live adapter's answers, while the second follows them."""
    found = []
    for prompt, (led, ours, theirs) in enumerate(zip(live.answers, one.answers, other.answers, strict=True)):
        for number, (left, right) in enumerate(zip(ours.steps, theirs.steps, strict=False)):
            finite = all(map(math.isfinite, (*left.logprobs, *right.logprobs)))
            gap, token = largest_gap(left, right) if finite else (math.nan, -1)
            divergence = kl_divergence(left, right) if finite else math.nan
            same = left.ids[0] == right.ids[0]
            found.append(Deviation(prompt, number, gap, token, divergence, same, finite))
            if led.tokens[number : number + 1] != theirs.tokens[number : number + 1]:
                break
    return found


def largest_gap(reference: TokenDistribution, other: TokenDistribution) -> tuple[float, int]:
    """The largest |log p − log q| over the reference's `TOP` likeliest tokens, and the token.

    A token that the other does not list is at most as likely there as its last listed one.
    """
    theirs = dict(zip(other.ids, other.logprobs, strict=True))
    last = other.logprobs[-1]
    gaps = []
    for token, value in zip(reference.ids[:TOP], reference.logprobs[:TOP], strict=True):
        gaps.append((abs(value - theirs[token]) if token in theirs else max(0.0, value - last), token))
    return max(gaps)


def kl_divergence(reference: TokenDistribution, other: TokenDistribution) -> float:
    """KL(p ‖ q) = Σ p (log p − log q) in nats, over the tokens that both list and one that represents the rest.

    Merging outcomes can only reduce a divergence (the log-sum inequality), so this is a lower bound.
    """
    theirs = dict(zip(other.ids, other.logprobs, strict=True))
    total, p_rest, q_rest = 0.0, 1.0, 1.0
    for token, value in zip(reference.ids, reference.logprobs, strict=True):
        if token in theirs:
            p = math.exp(value)
            total += p * (value - theirs[token])
            p_rest -= p
            q_rest -= math.exp(theirs[token])
    # Both sums are rounded, so that a smaller remainder means nothing.
    if p_rest > 1e-6 and q_rest > 1e-6:
        total += p_rest * math.log(p_rest / q_rest)
    return max(0.0, total)


def _problems_of(
    measured: Sequence[Deviation], threshold: Threshold, labels: Sequence[str], floor: Floor | None
) -> list[str]:
    """Problems with the distributions."""
    broken = [one for one in measured if not one.finite]
    if broken:
        first = broken[0]
        return [f"probabilities: NaN or infinite at {labels[first.prompt]}, token {first.step + 1} of the answer"]
    if not measured:
        return ["probabilities: nothing could be compared"]
    problems = []
    worst = max(measured, key=lambda one: one.gap)
    # Rounded inputs change the logarithm of an unlikely token by whole nats: then only the divergence judges.
    if floor is None and worst.gap > threshold.gap:
        problems.append(
            f"probabilities: a log-probability is off by {worst.gap:.3g} nats; {threshold.gap:g} are allowed "
            f"({labels[worst.prompt]}, token {worst.step + 1} of the answer, id {worst.token})"
        )
    mean = _mean(one.divergence for one in measured)
    allowed = threshold.divergence + (floor.allowed if floor else 0.0)
    if mean > allowed:
        problems.append(f"probabilities: the mean KL divergence is {mean:.3g} nats; {allowed:.3g} are allowed")
    return problems


def _stops(live: ReaderOutput, reader: ReaderOutput) -> list[str]:
    """Tokens that end an answer of the live adapter, but not by the export's own files."""
    if live.stop_ids is None or reader.stop_ids is None:
        return []
    lost = sorted(live.stop_ids - reader.stop_ids)
    ending = sorted(reader.stop_ids)
    return [f"the tokens {lost} no longer end an answer; by the export's files, {ending} do"] if lost else []


def _vocabulary(ours: Mapping[str, int] | None, theirs: Mapping[str, int] | None) -> list[str]:
    """Tokens that the reader lacks or has under another id. It may have more, because files pad their tables."""
    if ours is None or theirs is None:
        return []
    lost = sorted((number, token) for token, number in ours.items() if theirs.get(token) != number)
    if not lost:
        return []
    number, token = lost[0]
    return [f"{len(lost)} of {len(ours)} tokens are missing or have another id, the first is {token!r} ({number})"]


def _endings(live: ReaderOutput, reader: ReaderOutput, labels: Sequence[str]) -> list[str]:
    """Answers that a reader continues past the token that ends them with the live adapter."""
    found = []
    for label, ours, theirs in zip(labels, live.answers, reader.answers, strict=True):
        length = len(ours.tokens)
        if theirs.tokens[:length] == ours.tokens and len(theirs.tokens) > length and len(ours.steps) > length:
            token = ours.steps[length].ids[0]
            # An answer with as many tokens as requested has not ended by itself.
            if theirs.tokens[length] == token:
                found.append(f"token {token} does not end the answer to {label}")
    return found


def _unequal(ours: Sequence[object], theirs: Sequence[object]) -> list[int]:
    """The indices at which two sequences of one length differ."""
    return [index for index, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one != other]


def _ids(ours: Sequence[int], theirs: Sequence[int]) -> str:
    place = parted(ours, theirs)
    return f"from token {place + 1}: {list(ours[place : place + 4])} here, {list(theirs[place : place + 4])} there"


def _parting(ours: str | None, theirs: str | None) -> str:
    if ours is None or theirs is None:
        return "has a template on one side only"
    place = parted(ours, theirs)
    return f"from character {place + 1}: {ours[place : place + 30]!r} here, {theirs[place : place + 30]!r} there"


def parted(ours: Sequence[object], theirs: Sequence[object]) -> int:
    """The first place at which two sequences differ."""
    pairs = zip(ours, theirs, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(ours), len(theirs)))


def _largest(values: Iterable[float]) -> float:
    """The maximum, or NaN where one of them is."""
    found = list(values)
    return math.nan if any(map(math.isnan, found)) else max(found, default=0.0)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / max(1, len(found))
