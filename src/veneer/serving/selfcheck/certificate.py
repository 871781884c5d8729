"""The result of a self-check: the file `selfcheck.json` and its summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from veneer.errors import VeneerError
from veneer.io.files import write_text
from veneer.io.proofs import prove_own_file
from veneer.serving.selfcheck.comparison import Exactness
from veneer.text.strict_json import to_text

MOST_SHOWN_DIFFERENCES = 20
"""The most differences that a certificate shows; it counts all of them."""
FILE_BEGINNING = '{\n  "held": '
"""The beginning of every certificate's file."""


class AnswersMixed(VeneerError):
    """A server gave answers that differ from those of a cold server."""

    exit_code = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedAdapter:
    """An adapter that was checked."""

    name: str
    digest: str
    """SHA-256 of what it computes."""
    nbytes: int
    """Its size in memory."""
    exactness: Exactness
    """How its answers were compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerDifference:
    """An answer that differs from that of a cold server."""

    question: int
    """The number of the question."""
    adapter: str | None
    """The adapter that was asked; None means the base."""
    problem: str
    found: Any = None
    """The server's answer."""
    expected: Any = None
    """The answer of a cold server."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Counts of what happened while the questions were asked."""

    asked: int
    bitwise: int
    """Answers that were compared bit for bit."""
    rounded: int
    """Answers whose log-probabilities were compared within the tolerance."""
    left: int
    """Clients that disconnected before they had their answer."""
    refused: int
    """Questions that were refused because their adapter's files had been replaced and not reloaded yet."""
    base_after_adapter: int
    """Questions to the base whose beginning had been computed under an adapter earlier."""
    reloads: int
    """How often an adapter was reloaded with other content while questions were running."""
    evictions: int
    """How often an adapter was dropped from memory to make room for another."""
    preemptions: int
    """How often an answer lost its place in the cache and was computed again."""
    shared_tokens: int
    """Prompt tokens that were found in the cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IsolationCertificate:
    """Whether each answer was the one that a cold server gives to its question alone."""

    model: str
    base_digest: str
    """SHA-256 of the base's files and of its dtype in memory."""
    settings: Mapping[str, Any]
    """Everything that determined the questions and the server's memory."""
    machine: Mapping[str, str]
    """Versions and kernels."""
    created: str
    """When the check ended, in UTC and the format of ISO 8601."""
    seconds: float
    adapters: tuple[CheckedAdapter, ...]
    left_out: Mapping[str, str]
    """Adapters that were not checked, and why."""
    counts: Counts
    tolerance: float
    """The tolerance for log-probabilities that torch computes in float32."""
    largest_difference: float
    """The largest difference of such a log-probability."""
    different: int
    """Answers that differ."""
    differences: tuple[AnswerDifference, ...] = field(default=())
    """The first differences."""

    @property
    def held(self) -> bool:
        """Whether some answers were compared and none differs."""
        return self.different == 0 and self.compared > 0

    @property
    def compared(self) -> int:
        """Answers that were compared."""
        return self.counts.bitwise + self.counts.rounded

    def content(self) -> dict[str, Any]:
        """The certificate as plain values."""
        return {"held": self.held, **asdict(self)}

    def write(self, path: Path) -> None:
        """Write it as JSON, atomically. Raises OutputError."""
        write_text(path, to_text(self.content(), indent=2, ensure_ascii=False) + "\n")

    def refuse(self) -> None:
        """Raise AnswersMixed if it does not hold."""
        if self.different:
            raise AnswersMixed(f"{self.different:,} answers differ from those of a cold server; see the certificate")
        if not self.held:
            raise AnswersMixed("no answer was compared, so the check proves nothing; ask more questions (--questions)")

    def summary(self) -> str:
        """The certificate in a few lines."""
        counts = self.counts
        compared = [f"{counts.bitwise:,} bit for bit"] if counts.bitwise else []
        if counts.rounded:
            within = f"largest difference {self.largest_difference:.1e}"
            compared.append(f"{counts.rounded:,} within {self.tolerance:g} ({within})")
        verdict = "Answers do not mix" if self.held else "NOTHING WAS COMPARED"
        if self.different:
            verdict = f"ANSWERS DIFFER: {self.different:,}"
        lines = [
            f"{verdict}: {counts.asked:,} questions to {self.model} and {len(self.adapters)} adapters, asked at once, "
            "compared with a cold server.",
            f"Compared: {', '.join(compared) or 'none'}. Clients that left: {counts.left:,}; refused while their "
            f"adapter was exchanged: {counts.refused:,}.",
            f"Meanwhile: {counts.reloads:,} reloads, {counts.evictions:,} evictions, {counts.preemptions:,} "
            f"preemptions, {counts.shared_tokens:,} shared tokens, {counts.base_after_adapter:,} times the base after "
            "an adapter.",
        ]
        lines += [f"Not checked: {name}: {reason}" for name, reason in self.left_out.items()]
        lines += [
            f"question {one.question} to {one.adapter or 'the base'}: {one.problem}" for one in self.differences[:5]
        ]
        return "\n".join(lines)


def prove_certificate(path: Path) -> None:
    """Prove that a certificate can be written at `path`, before questions are asked.

    Raises:
        OutputError: it cannot, or it would replace a file that is not a certificate.
    """
    prove_own_file(path, FILE_BEGINNING, "a certificate of --selfcheck")
