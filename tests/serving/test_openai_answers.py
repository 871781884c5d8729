"""The head of an answer, and the fingerprint of what answered."""

from __future__ import annotations

from veneer.serving.openai_answers import fingerprint_of, head
from veneer.serving.service import VERSION

BASE, RED, BLUE = "ab" * 32, b"\x01" * 32, b"\x02" * 32


def test_a_fingerprint_names_the_base_and_the_versions_of_the_adapter() -> None:
    base = f"veneer-{VERSION}-abababababab"
    assert fingerprint_of(BASE, [None, None]) == base
    assert fingerprint_of(BASE, [RED, RED]) == f"{base}-010101010101"
    assert fingerprint_of(BASE, [RED, BLUE, RED]) == f"{base}-010101010101+020202020202"
    assert fingerprint_of("", [None]) == f"veneer-{VERSION}"


def test_each_answer_has_a_name_of_its_own() -> None:
    first, second = (head("cmpl", "text_completion", "m") for _ in range(2))
    assert first["id"] != second["id"]
    assert first["id"].startswith("cmpl-")
    assert (first["object"], first["model"]) == ("text_completion", "m")
