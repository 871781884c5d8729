"""The server's own protocol; what it computes is tested in test_llama_cpp.py."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from veneer.exports.gguf import write_gguf_base
from veneer.io.checkpoint import open_checkpoint
from veneer.io.gguf.encode import Quant

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (pip install 'veneer[llama-cpp]')")
COMMAND = [sys.executable, "-m", "veneer.exports.llama_server"]


def order(model: Path) -> str:
    return json.dumps({"model": str(model), "adapter": None, "context": 64, "threads": 1, "key": "secret"}) + "\n"


def test_a_file_that_cannot_be_opened_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and nothing else")
    done = subprocess.run(COMMAND, input=order(tmp_path / "broken.gguf"), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert list(json.loads(line)) == ["error"]


def test_it_answers_with_its_key_alone_and_ends_with_its_input(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf_base(file, open_checkpoint(tiny_model), Quant.F32)
    child = subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(order(file))
        child.stdin.flush()
        address = json.loads(child.stdout.readline())["address"]

        def ask(key: str) -> Any:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
            body = json.dumps({"content": "late"}).encode()
            request = urllib.request.Request(f"{address}/tokenize", data=body, headers=headers)
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(request, timeout=60) as answer:
                return json.load(answer)

        assert ask("secret")["tokens"] == open_checkpoint(tiny_model).tokenizer().encode("late")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask("guess")
        child.stdin.close()
        assert child.wait(60) == 0
        assert child.stdout.read() == ""
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
