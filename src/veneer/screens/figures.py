"""Figures as people say them: durations, shares in percent, losses."""

from __future__ import annotations

from veneer.evaluation.statistics.measures import SHARES

EXCERPT = 60
"""The longest prompt or answer on a line, in characters."""

LEAST_P = 1e-12
"""The smallest p that is shown, because rounding leaves no digit of smaller ones. The pages have the same limit."""


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s" if round(seconds, 1) >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def rate(value: float) -> str:
    """A rate per second, to three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def number(name: str, value: float) -> str:
    """A measure's value in its unit."""
    return f"{bare(name, value)} %" if name in SHARES else bare(name, value)


def bare(name: str, value: float) -> str:
    """A measure's value in its unit, which is not named."""
    return f"{100 * value:.1f}" if name in SHARES else f"{value:.3f}"


def change(name: str, value: float) -> str:
    """A difference of two values of a measure, with its sign, in the measure's unit, which is not named."""
    return f"{100 * value:+.1f}" if name in SHARES else f"{value:+.3f}"


def p_value(value: float) -> str:
    """A p. One of 0 is shown as a bound: rounded sums can come to 0, but no test can show it."""
    return f"{value:.2g}" if value >= LEAST_P else f"< {LEAST_P:g}"


def answered(prompt: str, answer: str) -> str:
    """The end of a prompt and the beginning of its answer, on one line."""
    prompt, answer = (" ".join(text.split()) for text in (prompt, answer))
    prompt = prompt if len(prompt) <= EXCERPT else f"…{prompt[1 - EXCERPT :]}"
    answer = answer if len(answer) <= EXCERPT else f"{answer[: EXCERPT - 1]}…"
    return f"{prompt} → {answer!r}"
