from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from veneer.errors import ConfigError
from veneer.evaluation.gate import ReleaseGate, Verdict, announced, decide, read_gate, refuse_beyond_shares, verdict
from veneer.evaluation.statistics.compare import Comparison, contrast
from veneer.evaluation.statistics.measures import mean_of, ratio, scale_of
from veneer.evaluation.statistics.power import rows_needed
from veneer.evaluation.statistics.shares import tango


def found(name: str, difference: float, low: float, high: float) -> Comparison:
    return Comparison(name, 0.5, 0.5 + difference, difference, low, high)


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "gate.yaml").write_text(text)
    return tmp_path / "gate.yaml"


@pytest.mark.parametrize(
    ("low", "high", "least", "expected"),
    [
        (0.02, 0.05, 0.02, "held"), (0.019, 0.05, 0.02, "undecided"), (-0.1, 0.019, 0.02, "regressed"),
        (-0.019, 0.3, -0.02, "held"), (-0.03, 0.0, -0.02, "undecided"), (-0.1, -0.03, -0.02, "regressed"),
        (float("nan"), float("nan"), 0.0, "undecided"), (-float("inf"), float("inf"), 0.0, "undecided"),
    ],
)  # fmt: skip
def test_a_margin_inside_the_interval_is_undecided(low: float, high: float, least: float, expected: str) -> None:
    assert verdict(low, high, least).value == expected


def test_all_conditions_must_hold_and_the_worst_answer_counts() -> None:
    gate = ReleaseGate(better_by=0.02, suites={"arithmetic": 0.05, "kl:x.jsonl": 0.1})
    primary = found("exact", 0.1, 0.05, 0.15)
    suites = {"arithmetic": found("arithmetic", 0.0, -0.04, 0.04), "kl:x.jsonl": found("kl", 0.05, 0.03, 0.08)}
    result = decide(gate, primary, suites)
    assert result.verdict is Verdict.HELD
    assert [one.verdict.value for one in result.conditions] == ["held"] * 3
    # A divergence is a loss: more of it is a smaller gain.
    assert (result.conditions[2].gain, result.conditions[2].low, result.conditions[2].high) == (-0.05, -0.08, -0.03)
    suites["arithmetic"] = found("arithmetic", 0.0, -0.06, 0.06)
    assert decide(gate, primary, suites).verdict is Verdict.UNDECIDED
    suites["kl:x.jsonl"] = found("kl", 0.5, 0.4, 0.6)
    assert decide(gate, primary, suites).verdict is Verdict.REGRESSED
    with pytest.raises(ConfigError, match="better_by needs a primary measure"):
        decide(gate, None, suites)


def test_each_answer_has_its_exit_code() -> None:
    assert {one.value: one.exit_code for one in Verdict} == {"held": 0, "regressed": 1, "undecided": 3}


def test_a_gate_is_read_from_a_file(tmp_path: Path) -> None:
    text = (
        "metric: json\nbetter_by: 0.05\nsuites:\n  arithmetic: 0.02\n  own.jsonl: 0.01\nitems: 500\ndiscordant: 0.2\n"
    )
    assert read_gate(write(tmp_path, text)) == ReleaseGate(
        "json", 0.05, {"arithmetic": 0.02, "own.jsonl": 0.01}, 500, 0.2
    )
    assert read_gate(write(tmp_path, "better_by: 0\n")) == ReleaseGate(better_by=0.0)


def test_everything_that_is_wrong_with_a_gate_is_named(tmp_path: Path) -> None:
    text = "better_than: 1\nmetric: 3\nsuites: {arithmetic: 0, copying: yes, json: x}\nitems: 1.5\ndiscordant: 2\n"
    with pytest.raises(ConfigError) as caught:
        read_gate(write(tmp_path, text))
    for part in ("better_than: unknown key (did you mean 'better_by'?)", "metric: 3", "suites.arithmetic: 0",
                 "suites.copying", "suites.json: 'x'", "items: 1.5", "discordant: 2"):  # fmt: skip
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="items: 20,000 is more than the 10,000 items of a generated suite"):
        read_gate(write(tmp_path, "suites: {arithmetic: 0.01}\nitems: 20000\n"))
    with pytest.raises(ConfigError, match="refuses nothing"):
        read_gate(write(tmp_path, "items: 5\n"))
    with pytest.raises(ConfigError, match="not a mapping of suites"):
        read_gate(write(tmp_path, "suites: [arithmetic]\n"))


@pytest.mark.parametrize("text", ["suites: {arithmetic: 1.0e-200}", "better_by: 1.0e-200", "better_by: -9.0e-7"])
def test_margins_that_no_rows_could_show_are_refused(tmp_path: Path, text: str) -> None:
    key = "better_by" if text.startswith("better_by") else r"suites\.arithmetic"
    with pytest.raises(ConfigError, match=rf"{key}: -?\de-\d+ is below 0\.000001, .* give the"):
        read_gate(write(tmp_path, f"{text}\n"))
    least = read_gate(write(tmp_path, "suites: {arithmetic: 1.0e-6}\n"))
    assert least.items_of("arithmetic") > 10**11


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        (ReleaseGate(suites={"arithmetic": 3.0, "kl:a.jsonl": 3.0}), r"suites\.arithmetic: 3, .* any adapter .*\nGive"),
        (ReleaseGate(suites={"arithmetic": 1.0}, better_by=2.0), r"arithmetic: 1, .*\n.*better_by: 2, .*: no adapter"),
        (ReleaseGate(better_by=-1.0), "better_by: -1, .* any adapter would be held"),
    ],
)
def test_margins_beyond_what_a_share_can_change_by_are_refused(gate: ReleaseGate, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        refuse_beyond_shares(gate, ["arithmetic"], "json_f1")


def test_margins_of_what_is_no_share_have_no_bound() -> None:
    refuse_beyond_shares(
        ReleaseGate(suites={"kl:a.jsonl": 3.0, "arithmetic": 0.99}, better_by=5.0), ["arithmetic"], "bleu"
    )
    refuse_beyond_shares(ReleaseGate(better_by=0.99), [], "exact")


def test_a_margin_of_any_size_needs_a_row() -> None:
    assert ReleaseGate(suites={"kl:a.jsonl": 1e200}).items_of("kl:a.jsonl") == 1


def test_a_generated_suite_gets_as_many_items_as_its_margin_needs() -> None:
    assert ReleaseGate(suites={"arithmetic": 0.05}).items_of("arithmetic") == 314
    assert ReleaseGate(suites={"arithmetic": 0.05}, items=100).items_of("arithmetic") == 100


def test_too_few_rows_are_said_beforehand() -> None:
    gate = ReleaseGate(suites={"a.jsonl": 0.02, "b.jsonl": 0.05})
    (line,) = announced(gate, {"a.jsonl": 500, "b.jsonl": 314}, None)
    assert "a.jsonl: a margin of 0.02 needs 1,963 rows" in line
    assert "there are 500" in line


@pytest.mark.parametrize(
    ("margin", "needed", "gain"), [(0.05, "314", "0.1"), (0.1, "157", "0.2"), (-0.02, "1,963", "0")]
)
def test_too_few_rows_for_the_primary_measure_are_said_too(margin: float, needed: str, gain: str) -> None:
    gate = ReleaseGate(better_by=margin)
    count = int(needed.replace(",", ""))
    (line,) = announced(gate, {}, ("exact", count - 1))
    assert f"exact: to hold 'better by {margin:g}' needs {needed} rows if the adapter is better by {gain} and" in line
    assert announced(gate, {}, ("exact", count)) == []
    assert announced(ReleaseGate(better_by=0.0), {}, ("exact", 3)) == []


def test_an_adapter_that_is_better_by_twice_the_margin_is_held_in_four_of_five_cases() -> None:
    """The number of rows that is said beforehand, by simulation."""
    for margin, differing in ((0.05, 0.3), (0.1, 0.5), (0.02, 0.1)):
        low, _ = shares(2 * margin, differing, rows_needed(margin, differing), 4000, 7)
        assert 0.77 < (low >= margin).mean() < 0.86


# -------------------------------------------------------------------------------------------------------- simulation


def shares(gain: float, discordant: float, rows: int, runs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the gate's intervals in simulated evaluations of an adapter whose true gain is known."""
    gained = (discordant + gain) / 2
    counts = np.random.default_rng(seed).multinomial(rows, [gained, discordant - gained, 1 - discordant], size=runs)
    return tango(counts[:, 0], counts[:, 1], rows)


GRID = [
    (margin, discordant, rows)
    for margin in (0.01, 0.02, 0.05)
    for discordant in (0.06, 0.1, 0.2, 0.4)
    for rows in (100, 300, 1000, 3000)
]


def test_an_adapter_at_its_margin_passes_in_a_fortieth_of_cases_at_most() -> None:
    """10,000 evaluations whose true loss is the margin itself, spread over the grid: each "held" is false."""
    passed = [shares(-margin, d, rows, 209, seed)[0] >= -margin for seed, (margin, d, rows) in enumerate(GRID)]
    assert sum(map(len, passed)) >= 10_000
    assert np.concatenate(passed).mean() <= 0.028


@pytest.mark.slow
def test_an_adapter_at_its_margin_passes_rarely_wherever_it_stands() -> None:
    rates = [
        (shares(-margin, d, rows, 10_000, seed)[0] >= -margin).mean() for seed, (margin, d, rows) in enumerate(GRID)
    ]
    assert np.mean(rates) <= 0.026
    assert max(rates) <= 0.045


def test_a_gain_that_is_asked_for_is_seldom_found_where_it_is_not() -> None:
    """The same for `better_by`, at a true gain that is exactly what is asked for."""
    passed = [shares(margin, d, rows, 200, 77 + seed)[0] >= margin for seed, (margin, d, rows) in enumerate(GRID)]
    assert np.concatenate(passed).mean() <= 0.028


def test_a_good_adapter_is_held_and_a_bad_one_regresses_where_rows_suffice() -> None:
    low, high = shares(0.0, 0.1, 314, 2_000, 5)
    answers = [verdict(*ends, -0.05) for ends in zip(low, high, strict=True)]
    assert 0.75 <= np.mean([one is Verdict.HELD for one in answers]) <= 0.87
    assert np.mean([one is Verdict.REGRESSED for one in answers]) <= 0.001
    low, high = shares(-0.1, 0.2, 1000, 2_000, 6)
    assert np.mean([verdict(*ends, -0.05) is Verdict.REGRESSED for ends in zip(low, high, strict=True)]) >= 0.9


def percents_passed(rows: int, runs: int, seed: int) -> float:
    """How often scores in percent, of which the adapter loses a whole one on one row in twenty, pass at five points."""
    lost, passed = np.random.default_rng(seed).random((runs, rows)) < 0.05, 0
    gate = ReleaseGate(suites={"s": 5.0})
    for row in lost:
        models = [
            [one for one in [mean_of("own", values, scale=scale_of(values))] if one]
            for values in ([100.0] * rows, (100.0 * ~row).tolist())
        ]
        passed += decide(gate, None, {"s": contrast(*models[:1], models[1:])[0]}).verdict is Verdict.HELD
    return passed / runs


def test_scores_in_percent_at_their_margin_pass_as_rarely_as_shares() -> None:
    """Ten rows show no loss in 60 % of cases, and all of these passed."""
    assert np.mean([percents_passed(rows, 100, rows) for rows in (2, 10, 40, 150)]) <= 0.028


def losses_passed(rows: int, runs: int, seed: int) -> float:
    """How often a measure with bootstrap intervals (the loss) passes at its margin."""
    source, passed = np.random.default_rng(seed), 0
    for _ in range(runs):
        base, change = (
            source.gamma(2.0, size=rows),
            source.normal(0.05, 0.3, size=rows) + source.gamma(1.0, 0.2, rows) - 0.2,
        )
        models = [[ratio("loss", values.tolist(), [1.0] * rows)] for values in (base, base + change)]
        comparison = contrast(models[0], [models[1]])[0]
        passed += decide(ReleaseGate(suites={"s": 0.05}), None, {"s": comparison}).verdict is Verdict.HELD
    return passed / runs


@pytest.mark.slow
def test_a_loss_at_its_margin_passes_rarely_too() -> None:
    assert np.mean([losses_passed(rows, 500, rows) for rows in (50, 150)]) <= 0.045
