from __future__ import annotations

from pathlib import Path

import pytest

from veneer.native import processor
from veneer.native.build import VARIANTS, machine
from veneer.native.processor import NEEDED_FLAGS, cpu_flags, runnable_variants


def test_flags_are_those_of_the_first_processor(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nflags\t\t: fpu avx2 fma\n\nprocessor\t: 1\nflags\t\t: other\n")
    assert cpu_flags(file) == {"fpu", "avx2", "fma"}
    file.write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert cpu_flags(file) == {"fp", "asimd"}


def test_a_system_that_does_not_say_has_none(tmp_path: Path) -> None:
    assert cpu_flags(tmp_path / "absent") == frozenset()
    (tmp_path / "empty").write_bytes(b"\xff\n")
    assert cpu_flags(tmp_path / "empty") == frozenset()


def test_every_variant_says_what_it_needs() -> None:
    assert set(NEEDED_FLAGS) == {name for variants in VARIANTS.values() for name in variants}


@pytest.mark.skipif(machine() != "x86_64", reason="the flags of x86-64 processors")
def test_variants_are_those_whose_flags_are_all_there_best_first(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = frozenset().union(*NEEDED_FLAGS.values())
    monkeypatch.setattr(processor, "cpu_flags", lambda: everything)
    assert runnable_variants() == list(VARIANTS["x86_64"])
    for flag in everything:
        monkeypatch.setattr(processor, "cpu_flags", lambda flag=flag: everything - {flag})
        assert runnable_variants() == [name for name in VARIANTS["x86_64"] if flag not in NEEDED_FLAGS[name]]
    monkeypatch.setattr(processor, "cpu_flags", frozenset)
    assert runnable_variants() == []
