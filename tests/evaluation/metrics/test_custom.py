from __future__ import annotations

import sys
from pathlib import Path

import pytest

from veneer.errors import ConfigError, DataError
from veneer.evaluation.metrics.base import AnsweredRow
from veneer.evaluation.metrics.custom import command_metric, python_metric

ROWS = [AnsweredRow("f:1", "q", "yes", "yes it is", {"weight": 2}), AnsweredRow("f:2", "q", "no", "", {"weight": 4})]


def file(tmp_path: Path, code: str) -> str:
    (tmp_path / "own.py").write_text(code)
    return str(tmp_path / "own.py")


def test_a_function_gets_answer_reference_and_row(tmp_path: Path) -> None:
    path = file(tmp_path, "def begins(a, reference, row):\n    return a.startswith(reference) * row['weight']\n")
    (measure,) = python_metric(f"{path}:begins")(ROWS).measures
    assert (measure.name, measure.total, measure.scale) == ("begins", 1.0, (0.0, 10.0))


def test_a_function_may_give_several_scores_and_none(tmp_path: Path) -> None:
    path = file(
        tmp_path, "def both(a, r, row):\n    return {'hit': a.startswith(r), 'words': len(a.split()) or None}\n"
    )
    measures = python_metric(f"{path}:both")(ROWS).measures
    assert {one.name: (one.total, one.binary) for one in measures} == {"hit": (0.5, True), "words": (3.0, False)}


def test_what_is_no_function_or_no_score_is_refused(tmp_path: Path) -> None:
    path = file(tmp_path, "def text(a, r, row):\n    return a\n\ndef other(a, r, row):\n    return float('nan')\n")
    with pytest.raises(ConfigError, match="is not a file"):
        python_metric("absent.py:f")
    with pytest.raises(ConfigError, match="no function 'f'; it has text, other"):
        python_metric(f"{path}:f")
    for name in ("text", "other"):
        with pytest.raises(DataError, match="not finite numbers") as caught:
            python_metric(f"{path}:{name}")(ROWS)
        assert "f:1" in str(caught.value)
        assert "f:2" in str(caught.value)


def test_what_lies_beside_the_file_can_be_imported_by_it_and_by_its_function(tmp_path: Path) -> None:
    (tmp_path / "beside_the_metric.py").write_text("def score(a):\n    return len(a)\n")
    (tmp_path / "later_beside_the_metric.py").write_text("LEAST = 1\n")
    code = (
        "from beside_the_metric import score\n\n"
        "def f(a, r, row):\n    from later_beside_the_metric import LEAST\n    return max(LEAST, score(a))\n"
    )
    before = list(sys.path)
    (measure,) = python_metric(f"{file(tmp_path, code)}:f")(ROWS).measures
    assert measure.total == 5.0
    assert sys.path == before


def test_a_command_gets_rows_and_prints_scores(tmp_path: Path) -> None:
    code = (
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    row = json.loads(line)\n"
        "    print(json.dumps({'hit': row['answer'].startswith(row['reference']), 'weight': row['row']['weight']}))\n"
    )
    found = command_metric(f"command:{sys.executable} {file(tmp_path, code)}")(ROWS)
    assert {one.name: one.total for one in found.measures} == {"hit": 0.5, "weight": 3.0}


def test_a_line_of_a_command_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    code = 'import sys; sys.stdout.buffer.write(\'{"a\\u2028b": 1}\\n{"a\\u2028b": 2}\\n\'.encode())'
    (measure,) = command_metric(f"command:{sys.executable} {file(tmp_path, code)}")(ROWS).measures
    assert (measure.name, measure.total) == ("a\u2028b", 1.5)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print(1)", "printed 1 line for 2 rows"),
        (r"import sys; sys.stdout.buffer.write(b'\xff\n1\n')", "not JSON"),
        (r"import sys; sys.stderr.buffer.write(b'caf\xe9'); raise SystemExit(4)", "ended with code 4: caf"),
        ("print('[' * 10**5); print(1)", "not JSON"), ("print('x'); print('y')", "not JSON"),
        ("raise SystemExit(3)", "ended with code 3"), ("print('null'); print('\"a\"')", "not finite numbers"),
    ],
)  # fmt: skip
def test_a_command_that_fails_is_said(tmp_path: Path, code: str, message: str) -> None:
    metric = command_metric(f"command:{sys.executable} {file(tmp_path, code)}")
    with pytest.raises((ConfigError, DataError), match=message):
        metric(ROWS)


def test_a_command_must_be_there() -> None:
    with pytest.raises(ConfigError, match="give a program"):
        command_metric("command:")
    with pytest.raises(ConfigError, match="cannot be run"):
        command_metric("command:/no/such/program")(ROWS)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def f(a, r, row):\n    raise KeyError('no')\n", r"f failed on f:1: it raised KeyError: 'no' \(.*own.py:2\)"),
        ("def f(a, r, row):\n    raise SystemExit(3)\n", "failed on f:1: it raised SystemExit: 3"),
        ("def f(a, r):\n    return 1\n", r"is called with \(answer, reference, row\), but takes \(a, r\)"),
        ("x = = 1\n", "cannot be run: it raised SyntaxError"), ("import nothing_of_this_name\n", "ModuleNotFoundError"),
        ("raise SystemExit(3)\n", "cannot be run: it raised SystemExit: 3"),
    ],
)  # fmt: skip
def test_what_the_code_raises_is_said_with_its_place(tmp_path: Path, code: str, message: str) -> None:
    path = file(tmp_path, code)
    with pytest.raises(ConfigError, match=message.replace("f failed", "f: failed")):
        python_metric(f"{path}:f")(ROWS)


def test_numbers_of_numpy_count_and_numbers_beyond_a_float_do_not(tmp_path: Path) -> None:
    code = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport numpy as np\n\n"
        "@dataclass\nclass Seen:\n    count: int\n\n"
        "def f(a, r, row):\n    return {'x': np.float32(0.5), 'y': np.int64(1), 'z': np.bool_(True)}\n\n"
        "def huge(a, r, row):\n    return 10**400\n"
    )
    path = file(tmp_path, code)
    measures = python_metric(f"{path}:f")(ROWS).measures
    assert {one.name: one.total for one in measures} == {"x": 0.5, "y": 1.0, "z": 1.0}
    with pytest.raises(DataError, match="not finite numbers"):
        python_metric(f"{path}:huge")(ROWS)


def test_a_name_of_which_less_is_better_is_refused_since_of_own_scores_more_is(tmp_path: Path) -> None:
    path = file(tmp_path, "def brier(a, r, row):\n    return 0.5\n")
    with pytest.raises(ConfigError, match="gives brier, a name of veneer for a measure of which lower is better"):
        python_metric(f"{path}:brier")(ROWS)


def test_a_command_whose_quotes_do_not_close_is_refused() -> None:
    with pytest.raises(ConfigError, match="No closing quotation"):
        command_metric("command:judge 'one")
