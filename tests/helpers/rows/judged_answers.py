"""Answers for the tests of rewards, and files with functions that judge them."""

from __future__ import annotations

from pathlib import Path

from veneer.rewards.base import AnswerToJudge

FUNCTIONS = """
import asyncio, os, subprocess, sys, time
from pathlib import Path

print("a line that is printed while the file is loaded")

def length(completions):
    print("printed")
    return [len(text) for text in completions]

def right(prompts, completions, answer, **columns):
    assert "prompts" not in columns
    return [1.0 if given == text else None for given, text in zip(answer, completions)]

def everything(**columns):
    return [len(columns) for _ in columns["prompts"]]

async def slow_but_together(completions, **columns):
    async def one(text):
        await asyncio.sleep(0.05)
        return float(len(text))
    return await asyncio.gather(*map(one, completions))

def raises_on_bad(completions):
    if "bad" in completions:
        raise ValueError("this one is bad")
    return [1.0] * len(completions)

def hangs_on_bad(completions):
    while "bad" in completions:
        time.sleep(0.01)
    return [2.0] * len(completions)

def exits_on_bad(completions):
    if "bad" in completions:
        os._exit(7)
    return [3.0] * len(completions)

def too_few(completions):
    return [1.0]

def not_finite(completions):
    return [float("nan")] * len(completions)

def nothing(completions):
    pass

def words(completions):
    return ["good"] * len(completions)

def asks_for_more(completions, trainer_state, more=None, **columns):
    return [1.0] * len(completions)

def numpy_numbers(completions):
    import numpy as np
    return np.arange(len(completions), dtype=np.float32)

def texts_of_numbers(completions):
    return ["0.5"] * len(completions)

def without_order(completions):
    return {float(len(text)) for text in completions}

def too_large(completions):
    return [10**400] * len(completions)

def reads_input(completions):
    asked = subprocess.run(["cat"], capture_output=True, text=True).stdout
    return [float(len(text + asked + sys.stdin.read())) for text in completions]

def forks(completions):
    if os.fork() == 0:
        return [-1.0] * len(completions)
    os.wait()
    return [float(len(text)) for text in completions]

def leaves_others_behind(completions):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    return [float(process.pid)] * len(completions)

def prints_much(completions):
    for _ in range(50):
        print("x" * 99_999)
    print("the last words")
    if "bad" in completions:
        os._exit(7)
    return [float(len(text)) for text in completions]

NOT_A_FUNCTION = 3
"""


def functions(folder: Path) -> Path:
    """A file with functions that judge answers."""
    file = folder / "judging.py"
    file.write_text(FUNCTIONS, encoding="utf-8")
    return file


def answers(*texts: str) -> list[AnswerToJudge]:
    """Answers of these texts, each to a row of its own."""
    return [
        AnswerToJudge(
            where=f"rows.jsonl:{number}",
            number=number % 2,
            prompt=f"question {number}",
            text=text,
            tokens=(number,),
            columns={"answer": text.upper() if number % 2 else text, "reference": "12"},
        )
        for number, text in enumerate(texts, 1)
    ]
