"""The size of a run's process, as the studio's plans have it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from veneer.data.encoded.chat import Example
from veneer.data.rows import Rows
from veneer.planning.memory import MB
from veneer.studio.process_size import run_process_bytes

ROWS = Rows(train=[Example(np.zeros(10**6, np.int32), np.ones(10**6, np.bool_), "rows.jsonl:1")], eval=[])


def test_a_size_that_cannot_be_measured_is_taken_as_a_usual_one_and_rows_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    nothing = run_process_bytes("no model", Rows(train=[], eval=[]))
    assert nothing > 300 * MB
    assert run_process_bytes("no model", ROWS) - nothing > 10 * MB
