from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from veneer.native import build as module
from veneer.native import functions, rowwise
from veneer.native.build import SOURCES, VARIANTS, build, compiler, library_path, machine

HERE = Path(build.__code__.co_filename).parent


def test_every_source_of_the_folder_is_compiled() -> None:
    assert sorted(SOURCES) == sorted(file.name for file in HERE.glob("*.c"))


def functions_that_are_called() -> set[str]:
    sources = "".join(Path(module.__file__).read_text(encoding="utf-8") for module in (functions, rowwise))
    return set(re.findall(r'self\._library\.call\(\s*"(\w+)"', sources))


@pytest.mark.parametrize("variant", VARIANTS.get(machine(), {}))
def test_a_library_has_every_function_that_is_called(variant: str) -> None:
    if not library_path(variant).is_file():
        pytest.skip(f"{variant} was not compiled")
    library = ctypes.CDLL(str(library_path(variant)))
    assert len(functions_that_are_called()) > 15
    for name in functions_that_are_called():
        assert library[f"veneer_{name}"], name


def test_every_function_that_is_called_says_whether_it_failed() -> None:
    # What a function without a result leaves in a register would be taken for its answer.
    sources = "\n".join(file.read_text(encoding="utf-8") for file in sorted(HERE.glob("*.c")))
    assert functions_that_are_called() <= set(re.findall(r"^int veneer_(\w+)\(", sources, re.M))


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="no C compiler is installed")
def test_every_variant_of_this_machine_is_made_and_nothing_else(tmp_path: Path) -> None:
    made = build(tmp_path)
    assert made == [library_path(variant, tmp_path) for variant in VARIANTS.get(machine(), {})]
    assert sorted(tmp_path.iterdir()) == sorted(made)


@pytest.mark.parametrize("cc", ["/no/such/compiler", "no-such-compiler"])
def test_without_a_compiler_nothing_is_built_and_nothing_is_raised(cc: str, tmp_path: Path) -> None:
    assert build(tmp_path, cc=cc) == []
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_any_compiler_builds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiler() is None
    assert build(tmp_path) == []


def test_a_compiler_that_cannot_compile_leaves_nothing_behind_and_is_told_of(tmp_path: Path) -> None:
    told: dict[str, str] = {}
    assert build(tmp_path, cc="/bin/false", on_failure=told.__setitem__) == []
    assert list(tmp_path.iterdir()) == []
    assert list(told) == list(VARIANTS.get(machine(), {}))
    assert all(re.match(r"/bin/false .*\nended with code 1:\nit said nothing$", why) for why in told.values())


def test_the_variant_that_a_compiler_does_not_know_is_named_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler_of = tmp_path / "cc"
    compiler_of.write_text('#!/bin/sh\ncase "$*" in *-munknown*) echo "no -munknown here" >&2; exit 3;; esac\n'
                           'while [ "$1" != -o ]; do shift; done; : > "$2"\n')  # fmt: skip
    compiler_of.chmod(0o755)
    monkeypatch.setattr(module, "VARIANTS", {machine(): {"known": (), "strange": ("-munknown",)}})
    monkeypatch.setattr(module, "compiler", lambda: str(compiler_of))
    assert module.main(tmp_path) == 1
    said = capsys.readouterr()
    assert said.out == f"{library_path('known', tmp_path)}\n"
    assert "kernels for strange could not be compiled" in said.err
    assert "code 3:\nno -munknown here" in said.err


def test_a_compiler_that_cannot_be_started_is_told_of(tmp_path: Path) -> None:
    no_program = tmp_path / "cc"
    no_program.write_bytes(b"\x7fELF")
    no_program.chmod(0o755)
    told: dict[str, str] = {}
    assert build(tmp_path, cc=str(no_program), on_failure=told.__setitem__) == []
    assert list(told) == list(VARIANTS.get(machine(), {}))
    assert all("could not be started: " in why for why in told.values())


def test_a_library_that_a_process_has_open_stays_as_it_is_when_another_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_filesystem(*_: object) -> None:
        raise OSError(errno.EXDEV, "the temporary folder is on another file system")

    old = library_path("known", tmp_path)
    old.write_text("old")
    compiler_of = tmp_path / "cc"
    compiler_of.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done; echo new > "$2"\n')
    compiler_of.chmod(0o755)
    monkeypatch.setattr(module, "VARIANTS", {machine(): {"known": ()}})
    monkeypatch.setattr(os, "rename", other_filesystem)
    with old.open() as opened:
        assert build(tmp_path, cc=str(compiler_of)) == [old]
        assert opened.read() == "old"
    assert old.read_text() == "new\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cc", old.name]


def test_without_a_compiler_the_program_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module.main(tmp_path) == 1
    assert "no C compiler" in capsys.readouterr().err


@pytest.mark.slow
def test_the_kernels_compile_for_arm(tmp_path: Path) -> None:
    cross = shutil.which("aarch64-linux-gnu-gcc")
    if cross is None:
        pytest.skip("no cross compiler for 64-bit Arm (aarch64-linux-gnu-gcc)")
    assert build(tmp_path, cc=cross, target="aarch64") == [library_path("neon", tmp_path)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "variant"), [(target, variant) for target, variants in VARIANTS.items() for variant in variants]
)
def test_gcc_has_nothing_to_warn_of(target: str, variant: str) -> None:
    # Other compilers warn of other things.
    gcc = shutil.which("gcc" if target == machine() else f"{target}-linux-gnu-gcc")
    if gcc is None:
        pytest.skip(f"no gcc for {target}")
    command = [gcc, *module.FLAGS, *VARIANTS[target][variant], "-Werror", "-fsyntax-only", *SOURCES]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
