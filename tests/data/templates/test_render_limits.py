"""The limits that the operating system keeps, in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from veneer.data.templates.render_limits import (
    BUDGET_CHARS,
    BUDGET_SECONDS,
    GRANT_CHARS,
    GRANT_CHARS_PER_CHAR,
    TextBudget,
)
from veneer.errors import DataError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits are the system's, and differ elsewhere")


def run(program: str) -> subprocess.CompletedProcess[str]:
    begin = "import time\nfrom veneer.data.templates.render_limits import *\n"
    return subprocess.run([sys.executable, "-c", begin + program], capture_output=True, text=True, check=False)


BURN = """
budget = TimeBudget()
for _ in range({rows}):
    budget.begin({turns}, 100)
    start = time.process_time()
    while time.process_time() - start < {seconds}:
        pass
    budget.end()
print('done')
"""


def test_the_budget_ends_a_process_that_hangs() -> None:
    assert run(BURN.format(rows=1, turns=2, seconds=BUDGET_SECONDS + 1)).returncode == -signal.SIGPROF


def test_the_budget_ends_a_process_that_is_slow_on_every_row() -> None:
    assert run(BURN.format(rows=100, turns=2, seconds=BUDGET_SECONDS / 5)).returncode == -signal.SIGPROF


@pytest.mark.slow
def test_the_budget_grows_with_rows_and_their_turns() -> None:
    assert run(BURN.format(rows=450, turns=2, seconds=0.004)).stdout == "done\n"
    assert run(BURN.format(rows=1, turns=200, seconds=BUDGET_SECONDS + 0.5)).stdout == "done\n"


def test_time_that_nothing_is_rendered_in_is_not_counted() -> None:
    slow = BURN.replace("budget.end()", "budget.end()\n    while time.process_time() - start < 0.6: pass")
    assert run(slow.format(rows=3, turns=2, seconds=0.1)).stdout == "done\n"


def test_memory_is_limited_and_grows_with_large_requests() -> None:
    take = "try:\n    x = bytearray(600 << 20)\n    print('taken')\nexcept MemoryError:\n    print('refused')\n"
    assert run("memory = MemoryLimit()\n" + take).stdout == "refused\n"
    assert run("memory = MemoryLimit()\nmemory.allow(50 << 20)\n" + take).stdout == "taken\n"
    assert run("memory = MemoryLimit()\nmemory.allow(50 << 20)\nmemory.allow(100)\n" + take).stdout == "refused\n"


def test_no_file_can_be_written(tmp_path: Path) -> None:
    done = run(f"MemoryLimit()\nwith open({str(tmp_path / 'x')!r}, 'w') as handle: handle.write('x')\n")
    assert done.returncode != 0
    assert (tmp_path / "x").read_text() == ""


def test_text_far_beyond_the_conversations_is_refused_and_other_text_never_is() -> None:
    budget = TextBudget()
    for _ in range(1000):
        budget.spend(GRANT_CHARS, 0)
        budget.spend(50_000 * GRANT_CHARS_PER_CHAR, 50_000)
    budget.spend(BUDGET_CHARS + GRANT_CHARS, 0)
    with pytest.raises(
        DataError, match=r"makes 20,021 characters of a conversation of about 0; at most 20,000 are allowed"
    ):
        budget.spend(GRANT_CHARS + 21, 0)
    budget.spend(GRANT_CHARS, 0)
