"""Rewards of a program: lines of JSON in, a number or null out for each, and every way to break that is told."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import pytest

from helpers.rows.judged_answers import answers
from veneer.errors import ConfigError
from veneer.rewards.base import RewardFailed, RewardsStopped
from veneer.rewards.command_reward import CommandReward

GOOD = """
import json, sys
for line in sys.stdin:
    row = json.loads(line)
    assert row["columns"]["reference"] == "12" and row["where"].startswith("rows.jsonl:")
    value = len(row["completion"]) if row["prompt"] != "question 2" else None
    print(json.dumps({"reward": value} if value == 4 else value))
"""


def command(folder: Path, code: str) -> str:
    file = folder / "program.py"
    file.write_text(code, encoding="utf-8")
    return shlex.join([sys.executable, str(file)])


def test_every_answer_gets_the_number_or_null_of_its_line(tmp_path: Path) -> None:
    assert CommandReward(command(tmp_path, GOOD), seconds=20).values(answers("one", "two", "five")) == [3.0, None, 4.0]


def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    code = 'import sys; sys.stdout.buffer.write(\'{"reward": 1, "why": "so\\u2028it is"}\\n2\\n\'.encode())'
    assert CommandReward(command(tmp_path, code), seconds=20).values(answers("one", "two")) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print(1)", "it printed 1 line for 2 answers"),
        ("print(1); print('good')", "it printed a line that is not JSON: 'good'"),
        ("print(1); print('\"1\"')", "a reward is a finite number, or null"),
        ("print(1); print('NaN')", "a reward is a finite number, or null"),
        ("print(1); print('{\"score\": 1}')", "an object without the key reward"),
        ("print(1); print('true')", "it printed 'true'; a reward is a finite number, or null"),
        ("print('{\"reward\": false}'); print(1)", "a reward is a finite number, or null"),
        ("print(1); print('x' * 2**21)", "it printed more than 2,097,152 bytes for 2 answers"),
        ("while True: print('x' * 9999)", "it printed more than 2,097,152 bytes for 2 answers"),
        ("import sys; sys.exit('no key')", "it ended with code 1: no key"),
        ("import time; time.sleep(60)", "it took longer than 0.5 s"),
    ],
)
def test_a_program_that_fails_says_why(code: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RewardFailed, match=said):
        CommandReward(command(tmp_path, code), seconds=0.5 if "sleep" in code else 20).values(answers("one", "two"))


def test_a_program_that_is_not_there_or_not_given_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no program 'no-such-program'"):
        CommandReward("no-such-program --fast", seconds=1)
    program = tmp_path / "gone"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    reward = CommandReward(str(program), seconds=1)
    program.unlink()
    with pytest.raises(RewardFailed, match="gone cannot be run"):
        reward.values(answers("one"))
    with pytest.raises(ConfigError, match="command is empty"):
        CommandReward("  ", seconds=1)


def test_a_signal_ends_a_program_that_hangs(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(RewardsStopped):
        CommandReward(command(tmp_path, "import time; time.sleep(60)"), seconds=60, stop=lambda: True).values(
            answers("one")
        )
    assert time.monotonic() - begun < 50  # it would sleep for 60 s
