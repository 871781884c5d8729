"""The table of a reward model has its accuracy with an interval, and both mean scores."""

from __future__ import annotations

import io

from rich.console import Console

from veneer.reward_model import PairAccuracy
from veneer.screens.rewards import accuracy_table


def test_the_table_says_how_often_it_is_right_and_how_sure_that_is() -> None:
    found = PairAccuracy(pairs=40, accuracy=0.75, interval=(0.598, 0.858), chosen=1.25, rejected=-0.5)
    output = io.StringIO()
    Console(file=output, width=100).print(accuracy_table("pairs.jsonl", found))
    for words in ("pairs.jsonl (40 pairs)", "75.0 %", "59.8 to 85.8 %", "1.2500", "-0.5000", "1.7500"):
        assert words in output.getvalue()
