from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veneer.data.lint.mojibake import repaired


@pytest.mark.parametrize(
    "text",
    [
        "café",
        "Don’t “quote” – me…",
        "naïve Zoë, £5, 20 °C",
        "привет мир",
        "日本語です",
        "smile 😀",
        "Ελλάδα",
        "price €3",
    ],
)
def test_utf8_read_as_windows_1252_is_undone(text: str) -> None:
    damaged = "".join(
        bytes([b]).decode("cp1252", "replace").replace("\ufffd", chr(b)) if b > 127 else chr(b) for b in text.encode()
    )
    assert damaged != text
    assert repaired(damaged) == text
    assert repaired(f"é ü {damaged} ß") == f"é ü {text} ß"


@pytest.mark.parametrize(
    "text",
    [
        "CAFÉ—bar",
        "Ça va très bien",
        "Größe: 20 °C",
        "«Où?» — ‘là’",
        "ÂÊÎÔÛ",
        "São João",
        "Åse ‰ ½ × ÷",
        "Œuvre Ž",
        "GRÖẞE",
    ],
)
def test_what_people_write_stays(text: str) -> None:
    assert repaired(text) == text


@given(st.text(alphabet=st.characters(max_codepoint=0x17F)))
def test_what_is_undone_is_undone_once(text: str) -> None:
    assert len(repaired(text)) <= len(text)
