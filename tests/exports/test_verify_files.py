"""The files that `veneer export` wrote, when they are checked: damaged ones are refused by what is wrong in them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest

from gguf_exports import FLOAT32
from veneer.errors import ModelError
from veneer.exports import gguf_adapter
from veneer.exports.readers import Reader, llama_cpp
from veneer.exports.record import PARITY_FILE, RECORD_FILE
from veneer.exports.request import Target
from veneer.exports.run import export
from veneer.exports.verify import verify

RECORD = {
    "model": "owner/base", "adapter": "adapter", "output": "out", "to": "merged", "dtype": "float32",
    "format": "float32", "method": "lora", "merged_into": "original",
}  # fmt: skip


def written(folder: Path, record: dict[str, Any], parity: dict[str, Any]) -> Path:
    (folder / RECORD_FILE).write_text(json.dumps(record))
    (folder / PARITY_FILE).write_text(json.dumps(parity))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "x"}, "method: 'x' is unknown; possible are lora, "),
        ({"merged_into": "x"}, "merged_into: 'x' is unknown; possible are original, dequantised"),
        ({"format": "x"}, "format: 'x' is unknown; possible are float32, "),
        ({"dtype": "nn"}, "dtype: 'nn' is unknown; possible are bfloat16, "),
        ({"to": "x"}, "to: 'x' is unknown; possible are peft, "),
        ({"to": "gguf", "dtype": "q8_0", "format": "nf4"}, "format: 'nf4' is unknown; possible are float32, float16, "),
        ({"to": "gguf-adapter", "format": "q4_0"}, "format: 'q4_0' is unknown; possible are float32, "),
        ({"model": None}, "model: must be a text, got None"),
        ({"method": [1]}, "method: must be a text, got [1]"),
    ],
)
def test_a_record_with_a_value_that_no_export_has_is_refused_by_it(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"export\.json is damaged.*:\n(.*\n)*.*" + re.escape(said)):
        verify(written(tmp_path, RECORD | changes, {"files": {}}))


@pytest.mark.parametrize("files", [[1], "x", {"model.safetensors": 5}])
def test_digests_that_are_none_are_refused(files: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"parity\.json is damaged: files must be names with digests, got "):
        verify(written(tmp_path, RECORD, {"files": files}))


def test_an_adapter_is_checked_without_writing_beside_it(
    lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reader")
    places = []

    def noted(model: Path, *, adapter: Path) -> Reader:
        places.append(model.parent.parent)
        return llama_cpp(model, adapter=adapter)

    monkeypatch.setattr(gguf_adapter, "llama_cpp", noted)
    export(lora, tmp_path / "out", to=Target.GGUF_ADAPTER, compute=FLOAT32, limit=1)
    assert verify(tmp_path / "out", compute=FLOAT32, limit=1).passed
    assert places == [tmp_path, Path(gettempdir())]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
