"""The head of an answer, and the fingerprint of what answered."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from helpers.servers.served import CPU
from veneer.assistant.assistant import Assistant
from veneer.assistant.load import open_assistant
from veneer.io.digests import file_digest
from veneer.serving.build import base_digest
from veneer.serving.openai_api.answers import fingerprint_of, head
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


def test_a_base_in_other_codes_has_another_digest_and_an_unquantised_one_that_of_its_files_and_dtype(
    tiny_model: Path, assistant: Assistant
) -> None:
    quantised = open_assistant(tiny_model, method="qlora", compute=CPU)
    assert base_digest(quantised) != base_digest(assistant)
    own = [f"{name} {file_digest(tiny_model / name)}" for name in ("config.json", "model.safetensors")]
    assert base_digest(assistant) == sha256("\n".join([*own, "torch.float32"]).encode()).hexdigest()
