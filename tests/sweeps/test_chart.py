from __future__ import annotations

from dataclasses import replace

from veneer.sweeps.chart import chart
from veneer.sweeps.outcome import PointState, SweepOutcome


def test_the_chart_leaves_out_what_diverged_and_uses_decades() -> None:
    base = SweepOutcome(name="x", settings={}, state=PointState.COMPLETE, final_loss=1.0, best_loss=1.0)
    outcomes = [
        replace(base, settings={"lora.rank": rank, "train.learning_rate": rate}, best_loss=rank * rate)
        for rank in (4, 16)
        for rate in (1e-4, 1e-3, 1e-2)
    ]
    outcomes[-1] = replace(outcomes[-1], state=PointState.DIVERGED)
    drawn = chart(outcomes, "nats")
    assert "best evaluation loss, nats" in drawn
    assert "best evaluation loss<" in chart(outcomes, ""), "losses without a unit in common"
    assert "log10 of train.learning_rate" in drawn
    assert "rank=16" in drawn
    assert drawn.count("<circle") == 5
