from __future__ import annotations

from helpers.processes.consoles import recorded
from helpers.training.plan_setups import Alike, setup
from veneer.config import ComputeSection
from veneer.planning.choose import Limit
from veneer.planning.memory import MB
from veneer.planning.plan import Plan, make_plan, spoken
from veneer.planning.time import Rate
from veneer.screens.plan import COMPONENTS, plan_table


def made(*, measured: bool = True, limit_mb: float = 4000) -> Plan:
    limit = Limit(bytes=limit_mb * MB, source="a test [/x]")
    return make_plan(
        setup(), ComputeSection(), Alike(100, rows=16, total=7), limit,
        rate=lambda of: Rate(2e12, 0.5, measured=measured), start=0,
    )  # fmt: skip


def test_the_table_holds_memory_time_and_disk_of_the_plan() -> None:
    plan = made()
    console = recorded(width=140)
    console.print(plan_table("a title", plan))
    text = console.export_text()
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]
    sizes = {row[0]: row[1] for row in rows if row[0]}
    memory = plan.choice.memory
    for name in COMPONENTS:
        size = getattr(memory, name)
        assert sizes.get(name.replace("_", " ")) == (f"{size / 1e6:,.0f}" if size else None), name
    (peak,) = [row for row in rows if row[2] == "the peak"]
    assert peak[1] == f"{memory.peak / 1e6:,.0f}"
    assert sizes["limit"] == "4,000"
    assert "a test [/x]" in text, "brackets are text"
    assert f"{spoken(plan.seconds)} a step, {spoken(7 * plan.seconds)} for 7 steps" in text
    assert 0 < plan.share < 0.5
    assert f"measured on this machine, of which a step reaches {100 * plan.share:.0f} %" in text
    assert sizes["disk: result"] == f"{plan.disk.result / 1e6:,.0f}"


def test_a_card_that_is_not_here_is_an_estimate() -> None:
    console = recorded(width=140)
    console.print(plan_table("a title", made(measured=False)))
    assert "an estimate from the card's data sheet" in console.export_text()


def test_a_limit_that_the_system_does_not_say_is_unknown() -> None:
    plan = made(limit_mb=float("inf"))
    console = recorded(width=140)
    console.print(plan_table("a title", plan))
    assert "unknown" in next(line for line in console.export_text().splitlines() if "limit" in line)
    assert " MB at the peak (a test [/x]); " in "".join(plan.lines())
