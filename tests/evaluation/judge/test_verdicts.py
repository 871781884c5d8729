from __future__ import annotations

import numpy as np
import pytest

from veneer.evaluation.judge.questions import AnswerPair, Choice
from veneer.evaluation.judge.verdicts import JudgedPair, judged

FIRST, SECOND, TIE = Choice.FIRST, Choice.SECOND, Choice.TIE


def pair(straight: Choice | None, swapped: Choice | None, one: str = "a", other: str = "bb") -> JudgedPair:
    return JudgedPair(AnswerPair("f:1", "q", "", one, other), straight, swapped)


@pytest.mark.parametrize(
    ("straight", "swapped", "score", "outcome"),
    [
        (SECOND, FIRST, 1.0, SECOND),  # the other answer, whichever place it has
        (FIRST, SECOND, 0.0, FIRST),
        (FIRST, FIRST, 0.5, TIE),  # whatever comes first
        (TIE, TIE, 0.5, TIE),
        (TIE, FIRST, 0.5, TIE),  # which a tie and a win are too
        (FIRST, TIE, 0.5, TIE),
        (None, FIRST, None, None),
    ],
)
def test_an_answer_wins_where_both_orders_say_so(
    straight: Choice | None, swapped: Choice | None, score: float | None, outcome: Choice | None
) -> None:
    found = pair(straight, swapped)
    assert found.score == score
    assert found.outcome is outcome


def test_wins_ties_bias_and_agreement_are_counted() -> None:
    pairs = [
        *[pair(SECOND, FIRST) for _ in range(6)], *[pair(FIRST, SECOND) for _ in range(2)],
        *[pair(FIRST, FIRST) for _ in range(3)], pair(TIE, TIE), pair(None, TIE), pair(TIE, TIE, "x", "x"),
    ]  # fmt: skip
    human = [(pair(SECOND, FIRST), SECOND), (pair(FIRST, SECOND), SECOND), (pair(FIRST, FIRST), TIE)]
    found = judged("j", pairs, human)
    assert found is not None
    assert (found.wins, found.ties, found.losses, found.equal) == (6, 5, 2, 1)
    assert found.win_rate.value == pytest.approx((6 + 0.5 * 5) / 13)
    assert found.win_rate.low < found.win_rate.value < found.win_rate.high
    assert found.win_rate.count == 13
    assert found.consistent is not None
    assert (found.consistent.value, found.consistent.count) == (9 / 12, 12)
    assert found.first_chosen is not None
    # Of 22 verdicts for an answer: one of the two of each of 8 consistent rows, and both of 3 others.
    assert (found.first_chosen.value, found.first_chosen.count) == (14 / 22, 22)
    assert found.longer_chosen is not None
    assert found.longer_chosen.value == 6 / 8
    assert found.agreement is not None
    assert (found.agreement.value, found.agreement.count) == (2 / 3, 3)
    # By chance: (1/3)(2/3) for the second, (1/3)(0) for the first, (1/3)(1/3) for a tie.
    assert found.kappa == pytest.approx((2 / 3 - 1 / 3) / (1 - 1 / 3))
    assert found.unclear == ["f:1"]
    assert judged("j", [pair(None, None)]) is None


def test_a_pair_of_equal_answers_says_nothing_about_the_agreement_with_people() -> None:
    """The judge was not asked about it."""
    human = [(pair(TIE, TIE, "x", "x"), TIE), (pair(SECOND, FIRST), FIRST)]
    found = judged("j", [pair(SECOND, FIRST)], human)
    assert found is not None
    assert found.agreement is not None
    assert (found.agreement.value, found.agreement.count) == (0.0, 1)


def test_rows_of_one_cluster_are_resampled_together() -> None:
    pairs = [pair(SECOND, FIRST) for _ in range(30)] + [pair(FIRST, SECOND) for _ in range(30)]
    alone = judged("j", pairs)
    together = judged("j", pairs, clusters=np.repeat(np.arange(6), 10))
    assert alone is not None
    assert together is not None
    assert together.win_rate.high - together.win_rate.low > 2 * (alone.win_rate.high - alone.win_rate.low)


@pytest.mark.slow
def test_the_interval_of_the_win_rate_holds_the_truth() -> None:
    source = np.random.default_rng(0)
    chances = {1.0: 0.5, 0.5: 0.3, 0.0: 0.2}
    truth, held, runs = 0.65, 0, 400
    kinds = {1.0: pair(SECOND, FIRST), 0.5: pair(TIE, TIE), 0.0: pair(FIRST, SECOND)}
    for _ in range(runs):
        drawn = source.choice(list(chances), size=80, p=list(chances.values()))
        found = judged("j", [kinds[float(one)] for one in drawn])
        assert found is not None
        held += found.win_rate.low <= truth <= found.win_rate.high
    assert held / runs >= 0.92  # 95 % of 400, less three standard errors


def test_the_win_rate_is_that_of_the_counts_beside_it() -> None:
    found = judged("j", [pair(FIRST, TIE) for _ in range(40)])
    assert found is not None
    assert (found.wins, found.ties, found.losses) == (0, 40, 0)
    assert found.win_rate.value == 0.5


@pytest.mark.slow
def test_the_interval_of_the_position_bias_holds_the_truth_of_a_judge_that_goes_by_the_place() -> None:
    source, held, runs = np.random.default_rng(0), 0, 300
    for _ in range(runs):
        found = judged("j", [pair(FIRST, FIRST) if coin else pair(SECOND, SECOND) for coin in source.random(50) < 0.5])
        assert found is not None
        assert found.first_chosen is not None
        assert found.first_chosen.count == 100
        held += found.first_chosen.low <= 0.5 <= found.first_chosen.high
    assert held / runs >= 0.91  # 95 % of 300, less three standard errors; of the verdicts as rows it is 0.79


def test_all_shares_of_rows_have_the_interval_of_their_clusters() -> None:
    pairs = [pair(SECOND, FIRST)] * 20 + [pair(FIRST, SECOND)] * 20 + [pair(FIRST, FIRST)] * 20
    found = judged("j", pairs, clusters=np.repeat(np.arange(6), 10))
    assert found is not None
    for share in (found.win_rate, found.consistent, found.first_chosen, found.longer_chosen):
        assert share is not None
        assert share.interval == "bootstrap over clusters"
