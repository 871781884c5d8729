"""What a self-check found: the file `selfcheck.json` and its summary."""

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

MOST_DIFFERENCES = 20
"""Differences that a certificate shows; it counts all of them."""
BEGINS = '{\n  "held": '
"""What every file of a certificate begins with."""


class AnswersMixed(VeneerError):
    """A server gave answers that are not those of a cold one."""

    exit_code = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedAdapter:
    """An adapter that was checked."""

    name: str
    digest: str
    """SHA-256 of what it computes."""
    nbytes: int
    """Bytes that it takes in memory."""
    exactness: Exactness
    """How its answers were compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerDifference:
    """An answer that is not the one of a cold server."""

    question: int
    """The number of the question."""
    adapter: str | None
    """The adapter that was asked for; None is the base."""
    problem: str
    found: Any = None
    """What the server answered."""
    expected: Any = None
    """What a cold one answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What happened while the questions were asked."""

    asked: int
    bitwise: int
    """Answers that were compared bit for bit."""
    rounded: int
    """Answers whose log-probabilities were compared within the tolerance."""
    left: int
    """Clients that went before their answer was there."""
    refused: int
    """Questions that were refused because their adapter's files were exchanged and it was not loaded anew yet."""
    base_after_adapter: int
    """Questions to the base whose beginning had been computed under an adapter before."""
    reloads: int
    """Adapters that were loaded anew under their name with other content, while questions were under way."""
    evictions: int
    """Adapters that had to leave memory for others."""
    preemptions: int
    """Answers that had to give up their place in the cache and were computed again."""
    shared_tokens: int
    """Tokens of prompts that were found in the cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IsolationCertificate:
    """Whether each answer was the one that its question gets alone on a cold server."""

    model: str
    base_digest: str
    """SHA-256 of the base's files, and of the dtype in which it is held."""
    settings: Mapping[str, Any]
    """Everything that the questions and the server's memory followed from."""
    machine: Mapping[str, str]
    """Versions and kernels."""
    created: str
    """When the check ended, in UTC, as ISO 8601 has it."""
    seconds: float
    adapters: tuple[CheckedAdapter, ...]
    left_out: Mapping[str, str]
    """Adapters that were not checked, and why."""
    counts: Counts
    tolerance: float
    """For log-probabilities that torch computes, in float32."""
    largest_difference: float
    """The largest difference of such a log-probability."""
    different: int
    """Answers that differ."""
    differences: tuple[AnswerDifference, ...] = field(default=())
    """The first of them."""

    @property
    def held(self) -> bool:
        """Whether no answer differs, and some were compared."""
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
        """Raise AnswersMixed where it does not hold."""
        if self.different:
            raise AnswersMixed(f"{self.different:,} answers are not those of a cold server; the certificate has them")
        if not self.held:
            raise AnswersMixed("nothing was compared, so that nothing is known; ask more questions (--questions)")

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
            "beside those of a cold server.",
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
        OutputError: it cannot, or it would replace something else than a certificate.
    """
    prove_own_file(path, BEGINS, "a certificate of --selfcheck")
