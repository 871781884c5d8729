"""What a peak allows, in tokens a second."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Scripts, not a package.
sys.path.insert(0, str(BENCHMARKS))
try:
    import float_peak
finally:
    sys.path.remove(str(BENCHMARKS))


def test_what_a_peak_allows_counts_prompts_and_meets_the_head_once_a_token() -> None:
    # Three tokens after a prompt of four: the layers meet six tokens, the head three.
    whole, following = float_peak.most_tokens(1000.0, 3, 4.0, layers=100, head=10)
    assert whole == pytest.approx(3 * 1000 / (2 * (6 * 100 + 3 * 10)))
    # Without the prompt and the first token both meet two tokens each.
    assert following == pytest.approx(2 * 1000 / (2 * (2 * 110)))
