"""Tries regular expressions from untrusted files in a process that can be ended.

An expression such as `(a+)+$` tries every way to split a text, which takes twice as long for each further letter, and
Python's `re` cannot be stopped. Therefore expressions of an untrusted file that repeat something are first tried in a
process of their own, on the texts that they will be matched with. So are expressions with many choices: `.?.?.?…` is as
bad.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence

REPEATING = "*+{"
"""Signs of a repetition. Any one of them can make a match endless."""
CHOOSING = "?|"
MOST_CHOICES = 12
"""Signs of a choice up to which an expression without repetition is not tried: each of them may double the time."""
SECONDS = 2
"""Processor time for all expressions of a file together. Those of normal adapters take milliseconds."""
WALL_SECONDS = 60.0
"""Time by the clock, which limits them on Windows."""

_CHILD = """
import json, re, sys
expressions, texts, seconds = json.load(sys.stdin)
if sys.platform != "win32":
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
for number, expression in enumerate(expressions):
    try:
        pattern = re.compile(expression)
    except re.error:
        pattern = re.compile("")
    for text in texts:
        pattern.match(text)
    print(number, flush=True)
"""


def endless(expressions: Iterable[str], texts: Sequence[str]) -> list[str]:
    """The first expression that cannot be matched with these texts in time, as a list; otherwise an empty list.

    An invalid expression does not count: the code that uses it refuses it with the reason.

    Args:
        expressions: the expressions of an untrusted file.
        texts: the texts that they will be matched with, from the beginning of each.
    """
    tried = [expression for expression in expressions if _may_be_endless(expression)]
    if not tried:
        return []
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
    )
    try:
        answer, _ = child.communicate(json.dumps([tried, list(texts), SECONDS]), timeout=WALL_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        answer, _ = child.communicate()
    done = {int(number) for number in answer.split()}
    return [expression for number, expression in enumerate(tried) if number not in done][:1]


def _may_be_endless(expression: str) -> bool:
    repeats = any(sign in expression for sign in REPEATING)
    return repeats or sum(expression.count(sign) for sign in CHOOSING) > MOST_CHOICES
