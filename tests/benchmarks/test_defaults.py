"""The sweep of the learning rate, on a tiny model: what it measures, what it repeats, and what it says of the best."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Scripts, not a package.
sys.path.insert(0, str(BENCHMARKS))
try:
    import defaults
finally:
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A banking77 of our own."""
    folder = tmp_path_factory.mktemp("banking77")
    for name, count in (("train", 30), ("test", 12)):
        lines = ["text,category", *(f'"Where is card, no. {n}?",card_arrival_{n % 3}' for n in range(count))]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder


def argv(model, data, output, *more):
    fixed = ["--model", str(model), "--banking77", str(data), "--output", str(output), "--factors", "0.5,1"]
    return [*fixed, "--rows", "16", "--eval-rows", "4", *more]


def test_the_sweep_measures_every_run_once_and_goes_on(tiny_model, data, tmp_path, capsys, monkeypatch):
    defaults.main(argv(tiny_model, data, tmp_path, "--tasks", "banking77"))
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "results.json").read_text())
    assert [(one["task"], one["factor"], one["steps"]) for one in found] == [
        ("banking77", 0.5, 8),
        ("banking77", 1.0, 8),
    ]
    assert found[1]["learning_rate"] == 2 * found[0]["learning_rate"]
    assert "banking77: 16 rows trained, 4 evaluated; the automatic rate's loss is" in printed
    assert {"defaults-loss.svg", "defaults-exact.svg"} <= {file.name for file in tmp_path.iterdir()}

    def refuse(config, resume=False):
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr(defaults, "train", refuse)
        defaults.main(argv(tiny_model, data, tmp_path, "--tasks", "banking77"))
    assert json.loads((tmp_path / "results.json").read_text()) == found
    # Other rows are another run.
    defaults.main(argv(tiny_model, data, tmp_path, "--tasks", "banking77", "--rows", "8", "--factors", "1"))
    assert [one["steps"] for one in json.loads((tmp_path / "results.json").read_text())] == [4]


def test_an_interrupted_run_is_gone_on_with(tiny_model, data, tmp_path, monkeypatch):
    real, seen = defaults.train, []

    def interrupted(config, resume=False):
        seen.append(resume)
        stops = iter([False, True])
        return real(config, resume=resume, stop=lambda: len(seen) == 1 and next(stops))

    monkeypatch.setattr(defaults, "train", interrupted)
    with pytest.raises(SystemExit, match="stopped after step 2"):
        defaults.main(argv(tiny_model, data, tmp_path, "--tasks", "banking77"))
    defaults.main(argv(tiny_model, data, tmp_path, "--tasks", "banking77"))
    assert seen == [False, True, False]


def test_the_subset_is_drawn_by_its_seed(data, tmp_path):
    one, other = (defaults.banking77(data, tmp_path / name, 10, 5) for name in "ab")
    assert one.train.read_text() == other.train.read_text()
    rows = [json.loads(line) for line in one.train.read_text().splitlines()]
    assert len(rows) == one.rows == 10
    assert rows[0]["messages"][2]["content"].startswith("card arrival ")


def test_absent_data_is_said_and_an_unknown_task_refused(tiny_model, tmp_path, capsys):
    with pytest.raises(SystemExit, match="'claim' is unknown; known: claims, banking77"):
        defaults.main(argv(tiny_model, tmp_path / "none", tmp_path, "--tasks", "banking77,claim"))
    assert "banking77 is left out: no train.csv" in capsys.readouterr().out


def test_the_verdict_names_the_best():
    runs = [defaults.Result("t", factor, factor, 1, loss, exact, 1.0, 1.0)
            for factor, loss, exact in ((0.5, 0.41, 0.6), (1.0, 0.404, 0.65), (2.0, 0.4, 0.64))]  # fmt: skip
    text = "the automatic rate's loss is 1.0% above the lowest (×2), its exact answers 0.0 points below the most (×1)"
    assert defaults.verdict("t", runs) == text
    assert defaults.verdict("t", runs[:1]) == "the automatic rate was not run"
