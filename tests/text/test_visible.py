"""What a terminal would obey is seen, and everything else stays as it is."""

from __future__ import annotations

import unicodedata

from veneer.text.visible import visible, visible_name


def test_every_control_and_every_mark_of_direction_is_an_escape() -> None:
    """The categories and classes are Unicode's own, as Python has them."""
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    for code in range(0x3000):
        letter = chr(code)
        obeyed = unicodedata.category(letter) in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(letter) in turning
        kept = letter in "\t\n"
        assert (visible(letter) == letter) is (not obeyed or kept), hex(code)
        assert (visible_name(letter) == letter) is not obeyed, hex(code)


def test_texts_keep_their_lines_and_names_have_one() -> None:
    assert visible("a\tb\r\nc\rd\x1b[2J é 東京") == "a\tb\r\nc\\rd\\x1b[2J é 東京"
    assert visible_name("a\tb\r\nñ\u202egpj.jsonl") == "a\\tb\\r\\nñ\\u202egpj.jsonl"
