"""What is wrong with a wheel is seen before it is uploaded."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
# Scripts, not a package.
sys.path.insert(0, str(SCRIPTS))
try:
    import wheels
finally:
    sys.path.remove(str(SCRIPTS))


def wheel(path: Path, *, without: str = "", besides: tuple[str, ...] = ()) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in (*wheels.NEEDED, *besides):
            if name != without:
                archive.writestr(name, "")
    return path


KERNELS = ("veneer/native/kernels-avx2.so",)
PLATFORM = "veneer-1-py3-none-manylinux_2_28_x86_64.whl"


def test_complete_wheels_have_no_problems(tmp_path: Path) -> None:
    assert wheels.problems(wheel(tmp_path / "veneer-1-py3-none-any.whl")) == []
    assert wheels.problems(wheel(tmp_path / PLATFORM, besides=KERNELS)) == []


@pytest.mark.parametrize("name", wheels.NEEDED)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (said,) = wheels.problems(wheel(tmp_path / "veneer-1-py3-none-any.whl", without=name))
    assert f"{name} is missing" in said


@pytest.mark.parametrize(
    ("name", "besides", "said"),
    [
        ("veneer-1-py3-none-any.whl", KERNELS, "is for any platform and holds veneer/native/kernels-avx2.so"),
        (PLATFORM, (), "holds no kernels"),
        ("veneer-1-py3-none-linux_x86_64.whl", KERNELS, "an index refuses the platform's name"),
        (PLATFORM, (*KERNELS, "veneer.libs/libgomp.so"), "auditwheel copied a library"),
    ],
)
def test_a_wheel_for_the_wrong_platform_is_named(
    tmp_path: Path, name: str, besides: tuple[str, ...], said: str
) -> None:
    (problem,) = wheels.problems(wheel(tmp_path / name, besides=besides))
    assert said in problem


def test_the_package_is_marked_as_typed() -> None:
    assert (SCRIPTS.parent / "src" / "veneer" / "py.typed").is_file()
