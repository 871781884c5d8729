"""What `benchmarks/decode.py` counts and reports."""

import json
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Scripts, not a package.
sys.path.insert(0, str(BENCHMARKS))
try:
    import decode
finally:
    sys.path.remove(str(BENCHMARKS))


def test_tokens_of_all_answers_are_counted():
    asked = []

    def answers(prompts, tokens):
        asked.append((len(prompts), tokens))
        time.sleep(0.01)
        return len(prompts) * tokens

    found = decode.measure(answers, 6)

    assert asked[1:] == [(1, 6), (8, 6), (32, 6), (32, 1), (1, 1)]
    assert set(found) == {"1 at once", "8 at once", "32 at once", "32 first", "prompt"}
    for count in decode.COUNTS:
        assert 0 < found[f"{count} at once"][0] <= count * 6 / 0.01
    assert json.loads(json.dumps(found)) == found


def test_medians_and_ratios_are_of_the_same_bits(capsys):
    def runs(*speeds):
        return [{"1 at once": [speed, 2 * speed]} for speed in speeds]

    decode.report({
        "veneer NF4": runs(30.0, 90.0, 60.0),
        "veneer Q4_0": runs(80.0),
        "llama.cpp Q4_0": runs(40.0),
        "llama.cpp Q4_1": runs(30.0),
        "veneer int8": runs(50.0),
        "llama.cpp Q8_0": runs(100.0),
    })  # fmt: skip

    lines = capsys.readouterr().out.splitlines()
    assert "60.0 ( 120.0)" in lines[1]
    assert lines[-4:] == [
        "veneer NF4 / llama.cpp Q4_0: 1 at once 1.50x (1.50x)",
        "veneer NF4 / llama.cpp Q4_1: 1 at once 2.00x (2.00x)",
        "veneer Q4_0 / llama.cpp Q4_0: 1 at once 2.00x (2.00x)",
        "veneer int8 / llama.cpp Q8_0: 1 at once 0.50x (0.50x)",
    ]


def test_the_first_tokens_of_answers_are_no_column(capsys):
    decode.report({"veneer NF4": [{"32 at once": [9.0, 9.0], decode.FIRST: [5.0, 5.0]}]})
    assert "first" not in capsys.readouterr().out


def test_a_system_that_fails_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["decode.py"])
    args = type("Arguments", (), {"model": str(tmp_path / "none"), "threads": 1, "tokens": 1, "folder": str(tmp_path),
                                  "variant": None})  # fmt: skip
    with pytest.raises(SystemExit, match="veneer NF4 failed"):
        decode.child("veneer NF4", args)
