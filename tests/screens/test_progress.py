from __future__ import annotations

from consoles import recorded
from veneer.screens.progress import counting


def test_counting_is_quiet_in_a_pipe_and_counts_in_a_terminal() -> None:
    for terminal in (False, True):
        console = recorded(terminal=terminal)
        with counting(console, "evaluating", 3) as done:
            done(1)
            done(2)
        assert ("3/3" in console.export_text()) == terminal
