"""Python rewards: called as TRL calls them, in a process that may hang, end or print without harm."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from answers_to_judge import answers, functions
from veneer.errors import ConfigError
from veneer.rewards.base import RewardFailed, RewardsStopped
from veneer.rewards.python_reward import PythonReward

GOOD = answers("one", "three", "five")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("length", [3.0, 5.0, 4.0]),
        ("right", [None, 1.0, None]),
        ("everything", [5.0, 5.0, 5.0]),
        ("slow_but_together", [3.0, 5.0, 4.0]),
        ("numpy_numbers", [0.0, 1.0, 2.0]),
    ],
)
def test_a_function_gets_what_it_names_and_none_stays_none(
    function: str, expected: list[float | None], tmp_path: Path
) -> None:
    reward = PythonReward(f"{functions(tmp_path)}:{function}", seconds=10)
    try:
        assert reward.values(GOOD) == expected
        assert reward.values(GOOD[:1]) == expected[:1]
    finally:
        reward.close()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("raises_on_bad", r"it raised ValueError: this one is bad \(.*judging.py:\d+\)"),
        ("hangs_on_bad", "it took longer than 0.5 s"),
        ("exits_on_bad", "its process ended with code 7"),
        ("too_few", "it gave 1 rewards for 2 answers"),
        ("not_finite", "it gave nan; a reward is a finite number"),
        ("nothing", "it gave 'None'; give a list with a number or None for each answer"),
        ("words", "it gave 'good' for an answer; a reward is a number, or None"),
        (
            "asks_for_more",
            "it asks for trainer_state; there are answer, completion_ids, completions",
        ),
    ],
)
def test_a_function_that_fails_says_why_and_judges_the_next_answers(function: str, said: str, tmp_path: Path) -> None:
    reward = PythonReward(f"{functions(tmp_path)}:{function}", seconds=0.5)
    try:
        with pytest.raises(RewardFailed, match=said):
            reward.values(answers("bad", "good"))
        if "bad" in function:
            assert reward.values(answers("good")) in ([1.0], [2.0], [3.0])
    finally:
        reward.close()


def test_a_function_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    file = functions(tmp_path)
    with pytest.raises(ConfigError, match=r"no function 'lenght'; it has length, right"):
        PythonReward(f"{file}:lenght", seconds=1)
    with pytest.raises(ConfigError, match="no function 'NOT_A_FUNCTION'"):
        PythonReward(f"{file}:NOT_A_FUNCTION", seconds=1)
    with pytest.raises(ConfigError, match=r"is no file; give FILE.py:FUNCTION"):
        PythonReward(f"{tmp_path}/none.py:length", seconds=1)
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(ConfigError, match="No module named 'nothing_of_that_name'"):
        PythonReward(f"{tmp_path}/broken.py:length", seconds=1)


def test_a_signal_ends_a_function_that_hangs(tmp_path: Path) -> None:
    signals: list[str] = []
    reward = PythonReward(f"{functions(tmp_path)}:hangs_on_bad", seconds=60, stop=lambda: bool(signals))
    signals.append("SIGINT")
    begun = time.monotonic()
    with pytest.raises(RewardsStopped):
        reward.values(answers("bad"))
    assert time.monotonic() - begun < 5
    reward.close()


def test_a_file_may_import_what_stands_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("VALUE = 4.5\n")
    (tmp_path / "judge.py").write_text("import beside\ndef value(prompts):\n    return [beside.VALUE] * len(prompts)\n")
    here = os.getcwd()
    reward = PythonReward(f"{tmp_path}/judge.py:value", seconds=10)
    try:
        assert reward.values(GOOD) == [4.5] * 3
    finally:
        reward.close()
    assert os.getcwd() == here
