"""The table of a sweep: every point with its losses, and how it ended."""

from __future__ import annotations

from dataclasses import replace

from helpers.processes.consoles import recorded
from veneer.screens.sweep import sweep_table
from veneer.sweeps.outcome import PointState, SweepOutcome


def test_every_point_has_a_row_with_its_settings_and_its_end() -> None:
    done = SweepOutcome(
        name="01", settings={"lora.rank": 4, "data.file": "[/a]"}, state=PointState.COMPLETE, steps=10, seconds=75.0,
        train_loss=1.5, final_loss=1.25, best_loss=1.125,
    )  # fmt: skip
    failed = SweepOutcome(
        name="02", settings={"lora.rank": 8, "data.file": "b"}, state=PointState.DIVERGED, steps=3, seconds=2.0
    )
    console = recorded()
    console.print(sweep_table([done, failed], done))
    first, second = (line for line in console.export_text(clear=False).splitlines() if line.startswith("│"))
    assert [cell.strip() for cell in first.strip("│").split("│")] == [
        "4", "[/a]", "1.2500", "1.1250", "1.5000", "1 min 15 s",
    ]  # fmt: skip
    assert [cell.strip() for cell in second.strip("│").split("│")] == ["8", "b", "", "", "", "diverged"]
    assert "compared" not in console.export_text(clear=False)


def test_points_that_are_compared_by_a_metric_have_a_column_of_it() -> None:
    done = SweepOutcome(
        name="01", settings={"lora.rank": 4}, state=PointState.COMPLETE, steps=10, seconds=75.0, train_loss=1.5,
        final_loss=1.25, best_loss=1.125, best_by="json_f1", best_value=0.875, higher=True,
    )  # fmt: skip
    never = replace(done, name="02", settings={"lora.rank": 8}, best_value=None, best_loss=None)
    console = recorded()
    console.print(sweep_table([done, never], done))
    shown = console.export_text()
    assert "2 points, compared by the highest json_f1" in shown
    assert "best json_f1" in shown
    first, second = (line for line in shown.splitlines() if line.startswith("│"))
    assert [cell.strip() for cell in first.strip("│").split("│")] == [
        "4", "0.8750", "1.2500", "1.1250", "1.5000", "1 min 15 s",
    ]  # fmt: skip
    assert [cell.strip() for cell in second.strip("│").split("│")][:2] == ["8", ""]
