"""Texts on which a tokenizer's pattern may be slow, made from the characters that the pattern names.

Any text shows how a pattern treats letters that it does not name. A pattern that is slow on its own letters
(`(?:あ|ああ)+$` tries every way to split a run of あ) is slow on a text that repeats one of its letters, or one of its
alternatives. So one character is used for every class of characters, and one text for every alternative of every group.
This does not find a pattern that is slow only on some mixture; nothing finds that in bounded time.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache

from tokenizers import Regex, normalizers

LONGEST = 64
"""Characters of a text that is made of an alternative."""
COMMON = "a 1!\nA_é漢あア한яאا🙂²\t\r'-"
"""The characters that are tried first, so that the class of all letters has the letter of other texts."""
_PART = re.compile(
    r"\\[pP]\{[^}]*\}|\\x\{[0-9a-fA-F]{1,6}\}|\\x[0-9a-fA-F]{1,2}|\\u[0-9a-fA-F]{4}|\\[kg]<[^>]*>|\\."
    r"|\(\?#[^)]*\)|\(\?[imx-]+\)|\(\?<?[=!]|\((?:\?(?:<\w+>|[imx-]*:|[>~]))?"
    r"|[*+?]+|\{\d*,?\d*\}[+?]?|.",
    re.DOTALL,
)
_CODE = re.compile(r"\\(?:x\{([0-9a-fA-F]{1,6})\}|x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4}))")
_NAMED = re.compile(r"\\[a-tv-wyzA-Z]")
"""A class that has a name: all letters but those that begin a character by its code."""
_CONTROLS = {r"\n": "\n", r"\r": "\r", r"\t": "\t", r"\f": "\f", r"\v": "\v", r"\a": "\a", r"\e": "\x1b"}
_NOTHING = re.compile(r"[*+?^$]|\{\d|\(\?#|\(\?[imx-]+\)|\\[bBAzZGK0-9]|\\[kg]<")
"""Parts that match no character themselves."""


@dataclass(slots=True)
class _Group:
    """A group that is not closed yet."""

    counts: bool = True
    """Whether it matches characters, and does not only look at them."""
    text: str = ""
    """What its alternative is made of so far."""
    first: str | None = None
    """What its first alternative is made of."""

    def end_alternative(self) -> str:
        """Begin the next alternative, and return the text of the last one."""
        done, self.text = self.text, ""
        self.first = done if self.first is None else self.first
        return done


def probes_of(pattern: str) -> dict[str, bool]:
    """The texts to repeat in trials of a pattern, in the order in which it names them. Each has a flag: whether it is a
    letter of a class, or not ASCII, so that long runs of it may occur."""
    found: dict[str, bool] = {}
    groups = [_Group()]
    for part in _parts(pattern):
        if part == "|" or part == ")":
            found.setdefault(groups[-1].end_alternative(), False)
            if part == ")" and len(groups) > 1:
                closed = groups.pop()
                _add(groups[-1], closed.first or "" if closed.counts else "")
        elif part.startswith("(") and not _NOTHING.match(part):
            groups.append(_Group(counts=part not in ("(?=", "(?!", "(?<=", "(?<!")))
        else:
            letter = _letter_of(part)
            if letter:
                of_class = part.startswith("[") or (part not in _CONTROLS and _NAMED.match(part) is not None)
                found[letter] = found.get(letter, False) or of_class or not letter.isascii()
            _add(groups[-1], letter)
    for group in groups:
        found.setdefault(group.end_alternative(), False)
    found.pop("", None)
    return found


def _add(group: _Group, text: str) -> None:
    group.text = (group.text + text)[:LONGEST]


def _parts(pattern: str) -> Iterator[str]:
    """The parts of a pattern: characters, classes, openings and ends of groups, and repetitions."""
    at = 0
    while at < len(pattern):
        if pattern[at] == "[":
            end = _class_end(pattern, at)
        else:
            matched = _PART.match(pattern, at)
            end = at + 1 if matched is None else matched.end()
        yield pattern[at:end]
        at = end


def _class_end(pattern: str, start: int) -> int:
    """The place after the class that begins at `start`; classes may contain classes."""
    depth, at = 0, start
    while at < len(pattern):
        if pattern[at] == "\\":
            at += 1
        elif pattern[at] == "[":
            depth += 1
        elif pattern[at] == "]":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return len(pattern)


def _letter_of(part: str) -> str:
    """A character that a part of a pattern matches; empty if there is none."""
    if _NOTHING.match(part):
        return ""
    if part in _CONTROLS:
        return _CONTROLS[part]
    code = _CODE.fullmatch(part)
    if code is not None:
        return _character(code)
    if len(part) == 1 and part != ".":
        return part
    if len(part) == 2 and part[0] == "\\" and not part[1].isalnum():
        return part[1]
    return _matched(part)


def _character(code: re.Match[str]) -> str:
    number = int(next(filter(None, code.groups())), 16)
    return chr(number) if number < 0xD800 or 0xDFFF < number < 0x110000 else ""


@lru_cache(maxsize=1024)
def _matched(part: str) -> str:
    """The first character that a class matches; empty if the library does not accept the class alone."""
    written = "".join(map(_character, _CODE.finditer(part))) + part
    try:
        found = normalizers.Replace(Regex(part), "")
    except Exception:  # of no class of its own: the library refuses the part
        return ""
    return _removed(found, COMMON) or _removed(found, written) or _removed(found, _one_of_each_block())


def _removed(step: normalizers.Replace, candidates: str) -> str:
    """The first of some characters that a step removes; empty if it removes none."""
    left = set(step.normalize_str(candidates))
    return next((one for one in candidates if one not in left), "")


@cache
def _one_of_each_block() -> str:
    """The first character of every 16 code points and kind (letter, mark, number, …), up to the second plane."""
    seen: dict[tuple[int, str], str] = {}
    for code in range(0x20000):
        kind = unicodedata.category(chr(code))[0]
        if kind != "C":
            seen.setdefault((code // 16, kind), chr(code))
    return "".join(seen.values())
