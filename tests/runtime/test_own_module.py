"""veneer's own modules as programs of their own."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import veneer
from veneer.runtime.own_module import command_of

SOURCE = Path(veneer.__file__).parent


def test_a_file_of_the_working_folder_is_not_taken_for_a_library(tmp_path: Path) -> None:
    (tmp_path / "tokenize.py").write_text("raise SystemExit('a script of the user')")
    command = [*command_of("veneer"), "doctor"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "CPU kernels" in done.stdout


def test_every_module_is_started_so() -> None:
    written = {
        file.relative_to(SOURCE).as_posix()
        for file in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.List) and any(isinstance(one, ast.Constant) and one.value == "-m" for one in node.elts)
    }
    assert written == {"runtime/own_module.py"}
