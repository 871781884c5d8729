"""Python rewards: called as TRL calls them, in a process that may hang, end or print without harm."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from helpers.rows.judged_answers import answers, functions
from veneer.errors import ConfigError
from veneer.rewards.base import AnswerToJudge, RewardFailed, RewardsStopped
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
        # What asks for input gets none, where it would have read the next request and waited for one more.
        ("reads_input", [3.0, 5.0, 4.0]),
        # A copy of the process that comes back from the function tells nothing.
        ("forks", [3.0, 5.0, 4.0]),
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
        ("too_few", "it returned 1 reward for 2 answers"),
        ("not_finite", "it returned nan; a reward is a finite number"),
        ("nothing", "it returned 'None'; return a list with a number or None for each answer"),
        ("words", "it returned 'good' for an answer; a reward is a number, or None"),
        ("texts_of_numbers", "it returned '0.5' for an answer; a reward is a number, or None"),
        ("without_order", "it returned '{[34].0, [34].0}'; return a list with a number or None for each answer"),
        ("too_large", "it returned inf; a reward is a finite number"),
        ("prints_much", "its process ended with code 7.*: x{400,}\nthe last words$"),
    ],
)
def test_a_function_that_fails_says_why_and_judges_the_next_answers(function: str, said: str, tmp_path: Path) -> None:
    reward = PythonReward(f"{functions(tmp_path)}:{function}", seconds=0.5 if "hangs" in function else 20)
    try:
        with pytest.raises(RewardFailed, match=said):
            reward.values(answers("bad", "good"))
        if function.endswith("_on_bad"):
            assert reward.values(answers("good")) in ([1.0], [2.0], [3.0])
    finally:
        reward.close()


def test_what_a_function_asks_for_must_be_a_column_of_some_row(tmp_path: Path) -> None:
    more = PythonReward(f"{functions(tmp_path)}:asks_for_more", seconds=20)
    right = PythonReward(f"{functions(tmp_path)}:right", seconds=20)
    try:
        said = "it needs trainer_state; there are answer, completion_ids, completions, prompts"
        assert more.refusals([{"answer": 1}, {}]) == [said, said]
        assert right.refusals([{"answer": 1}, {}]) == [None, None]
        # The others' answers get None for it, whatever other answers they are judged with.
        assert right.values([AnswerToJudge(where="f:2", prompt="?", text="12")]) == [None]
    finally:
        more.close()
        right.close()


def test_a_function_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    file = functions(tmp_path)
    with pytest.raises(ConfigError, match=r"no function 'lenght'; it has length, right"):
        PythonReward(f"{file}:lenght", seconds=1)
    with pytest.raises(ConfigError, match="no function 'NOT_A_FUNCTION'"):
        PythonReward(f"{file}:NOT_A_FUNCTION", seconds=1)
    with pytest.raises(ConfigError, match=r"is not a file; give FILE.py:FUNCTION"):
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
    assert time.monotonic() - begun < 50  # it would sleep for 60 s
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


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_what_a_function_has_started_ends_with_it(tmp_path: Path) -> None:
    reward = PythonReward(f"{functions(tmp_path)}:leaves_others_behind", seconds=20)
    (started,) = reward.values(GOOD[:1])
    assert started is not None
    os.kill(int(started), 0)
    reward.close()
    assert ends(int(started))


def ends(process: int) -> bool:
    """Whether a process ends, or has ended and is waited for by nobody."""
    for _ in range(1000):
        try:
            state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False
