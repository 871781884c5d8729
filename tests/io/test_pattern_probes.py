"""What texts a pattern is tried on: letters of its classes, and its alternatives."""

from __future__ import annotations

import pytest

from veneer.io.pattern_probes import LONGEST, probes_of


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", {}),
        ("(?:あ|ああ)+$", {"あ": True, "ああ": False}),
        (r"(?=([ぁ-ん]*)[!?])x", {"あ": True, "!": True, "あ!": False, "x": False}),
        ("(?:abc|abd)+$", {"a": False, "b": False, "c": False, "abc": False, "d": False, "abd": False}),
        (r"[\u0E01-\u0E5B]\x{10330}", {"ก": True, "\U00010330": True, "ก\U00010330": False}),
        (r"\p{Gothic}", {"\U00010330": True}),  # no character of the common ones: one of its block
        (r"(?<name>q)(?:z)\k<name>", {"q": False, "z": False, "qz": False}),
        (r"a{2,3}\.[\]]\n(?# no text )(?i)$", {"a": False, ".": False, "]": True, "\n": False, "a.]\n": False}),
    ],
)
def test_the_probes_of_a_pattern(pattern: str, expected: dict[str, bool]) -> None:
    assert probes_of(pattern) == expected


@pytest.mark.parametrize(
    "pattern", ["(" * 5000, "[" * 5000, ")" * 50, "(a" * 999 + ")" * 999, "[a", "\\", "(?<", "{", r"\x{110000}"]
)
def test_what_is_no_pattern_or_a_deep_one_has_some_probes_or_none(pattern: str) -> None:
    assert all(0 < len(text) <= LONGEST for text in probes_of(pattern))
