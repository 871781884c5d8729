"""A time left that is said early is near the time that is left."""

from __future__ import annotations

import random

import pytest

from veneer.events import Event, Stage, StageProgress
from veneer.generation.pace import PROMPT_SHARE, Pace
from veneer.generation.request import GenerationRequest
from veneer.generation.sampling import Sampling


def requests(rows: int, most: int, prompt: int = 40) -> list[GenerationRequest]:
    return [
        GenerationRequest(prompt=(1,) * prompt, sampling=Sampling(max_new_tokens=most), stream=row)
        for row in range(rows)
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0])
def test_the_time_left_is_sane_from_the_first_one_said(spread: float, seed: int) -> None:
    """600 answers, 192 at a time, of some 60 tokens each: an even share, some or much of it by chance."""
    source = random.Random(seed)
    drawn = [60 * (1 - spread) + spread * source.expovariate(1 / 60) for _ in range(600)]
    lengths = [min(256, max(1, round(length))) for length in drawn]
    asked = requests(600, 256)
    now, seen = [0.0], list[tuple[float, float]]()

    def told(event: Event) -> None:
        if isinstance(event, StageProgress) and event.seconds_left is not None:
            seen.append((now[0], event.seconds_left))

    pace, waiting, running, made, ended = Pace(asked), list(range(600)), [], [0] * 600, 0
    with Stage(told, "answering", total=600, unit="rows", clock=lambda: now[0]) as stage:
        while waiting or running:
            fresh, waiting = waiting[: 192 - len(running)], waiting[192 - len(running) :]
            running += fresh
            now[0] += 0.01 + 0.001 * (len(running) + PROMPT_SHARE * 40 * len(fresh))
            for row in list(running):
                made[row] += 1
                pace.made(row)
                if made[row] == lengths[row]:
                    running.remove(row)
                    pace.ended(row)
            stage.advance_side_by_side(pace.answers - ended, pace.under_way())
            ended = pace.answers
    early = [(at, left) for at, left in seen if at < 0.5 * now[0]]
    assert early
    assert early[0][0] < 0.45 * now[0]
    assert all(left < 6 * (now[0] - at) for at, left in early)
    # The last long answers take longer side by side with few than they did with many.
    assert all(0.4 < left / (now[0] - at) < 2 for at, left in early if at > 0.3 * now[0])


def test_nothing_is_under_way_before_an_answer_has_ended() -> None:
    pace = Pace(requests(3, 10))
    pace.made(0)
    pace.made(1)
    assert pace.under_way() == 0
    pace.ended(1)
    # Two tokens were made and one answer has ended: two tokens are expected of the other one.
    assert pace.under_way() == pytest.approx((PROMPT_SHARE * 40 + 1) / (PROMPT_SHARE * 40 + 2))
