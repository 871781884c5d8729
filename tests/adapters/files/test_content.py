from __future__ import annotations

from pathlib import Path

import pytest

from helpers.adapters.peft_folders import rewrite_tensors, write_adapter
from helpers.models.tiny_models import ours, tiny_llama
from veneer.adapters.files.content import content_digest
from veneer.errors import AdapterError


def test_a_digest_follows_from_configuration_and_tensors_alone(tmp_path: Path) -> None:
    digests = set()
    for name, alpha in (("one", 6.0), ("again", 6.0), ("stronger", 12.0)):
        (tmp_path / name).mkdir()
        write_adapter(tmp_path / name, ours(tiny_llama(), tmp_path / f"base of {name}"), alpha=alpha)
        (tmp_path / name / "README.md").write_text(name)
        digests.add(content_digest(tmp_path / name))
    assert len(digests) == 2
    rewrite_tensors(tmp_path / "one", lambda tensors: {name: -tensor for name, tensor in tensors.items()})
    assert content_digest(tmp_path / "one") not in digests


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"adapter_config\.json is missing"):
        content_digest(tmp_path)
