"""The position of a run says all that its rest follows from."""

from __future__ import annotations

import pytest

from veneer.training.folder.progress import Progress


@pytest.mark.parametrize(
    ("starts", "schedules"),
    [
        ([(0, 6)], [[0, 6]]),
        ([(0, 6), (2, 6), (4, 6)], [[0, 6]]),  # resumed
        ([(0, 6), (6, 12)], [[0, 6], [6, 12]]),  # made longer at its end
        ([(0, 6), (3, 12), (8, 12)], [[0, 6], [3, 12]]),  # in the middle, and resumed
        ([(0, 6), (3, 9), (9, 12)], [[0, 6], [3, 9], [9, 12]]),  # twice
        ([(0, 6), (0, 9)], [[0, 9]]),  # nothing of the first schedule was kept
    ],
)
def test_the_schedules_that_left_a_trace(starts: list[tuple[int, int]], schedules: list[list[int]]) -> None:
    progress = Progress()
    for done, steps in starts:
        progress.step = done
        progress.follow_schedule(steps)
    assert progress.schedules == schedules


def test_micro_batches_shrink_from_a_step_on() -> None:
    progress = Progress()
    assert progress.micro_batch_tokens(1) is None
    progress.shrink(3, 64, before=128)
    progress.shrink(5, 32)
    assert [progress.micro_batch_tokens(step) for step in (1, 2, 3, 4, 5, 9)] == [128, 128, 64, 64, 32, 32]
    progress.shrink(3, 16)  # gone on with from before the third step
    assert progress.micro_batches == [[1, 128], [3, 16]]
