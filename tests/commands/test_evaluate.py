"""`veneer evaluate`: a table or JSON, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import rows, run_config, write_model, write_rows
from helpers.processes.invoking import FLOAT32, invoke, refused
from helpers.rows.preference_rows import pairs
from veneer.training.run import train


def test_evaluate_prints_a_table_or_json(adapter: Path, tiny_model: Path, tiny_data: Path) -> None:
    argv = ["evaluate", "--model", tiny_model, "--adapter", adapter, "--data", tiny_data, "--limit", 4, *FLOAT32]
    table = invoke(*argv)
    assert table.exit_code == 0, table.output
    for word in ("exact", "loss", "perplexity", "difference", "Samples"):
        assert word in table.stdout
    result = invoke(*argv, "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["rows"] == 4
    names = [one["name"] for one in report["comparison"]]
    assert names[:5] == ["exact", "fields", "loss", "perplexity", "bits_per_byte"]
    alone = json.loads(invoke(*[a for a in argv if a not in ("--adapter", adapter)], "--json").stdout)
    assert alone["base"] == report["base"]
    assert alone["comparison"] == []


def test_evaluate_refuses_by_name(adapter: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    argv = ["evaluate", "--model", tiny_model]
    assert "does not exist" in refused(*argv, "--data", "/no/such.jsonl")
    twice = ("--suite", "arithmetic", "--suite", "arithmetic")
    assert "suites: 'arithmetic' is given 2 times" in refused(*argv, "--data", tiny_data, *twice)
    assert "ends in '.txt'" in refused(*argv, "--data", write_rows(tmp_path / "rows.txt", rows(1)))
    assert "no adapter_config.json" in refused(*argv, "--data", tiny_data, "--adapter", tmp_path)


def test_the_gate_answers_by_the_exit_code(adapter: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    argv = ["evaluate", "--model", tiny_model, "--adapter", adapter, "--data", tiny_data, *FLOAT32]
    argv += ["--max-new-tokens", 2, "--gate", tmp_path / "gate.yaml"]
    answers = {}
    for margin in ("0.01", "1000", "x"):
        (tmp_path / "gate.yaml").write_text(f"metric: loss\nbetter_by: {margin}\n")
        done = invoke(*argv)
        answers[margin] = done.exit_code
        if done.exit_code == 1:
            assert "Gate: regressed" in done.stdout
            assert "better by 1000 or more" in done.stdout
    assert answers == {"0.01": 0, "1000": 1, "x": 2}
    (tmp_path / "gate.yaml").write_text("suites: {copying: 0.01}\nitems: 3\n")
    undecided = invoke(*argv, "--json")
    assert undecided.exit_code == 3
    report = json.loads(undecided.stdout)
    assert report["gate"]["verdict"] == "undecided"
    assert report["gate"]["conditions"][0]["rule"] == "loses no more than 0.01"
    assert report["suites"][0]["rows"] == 3


def test_evaluate_warns_of_another_base_in_the_terminal_and_in_json(
    adapter: Path, tiny_data: Path, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "other", seed=5)
    result = invoke(
        "evaluate", "--model", other, "--adapter", adapter, "--data", tiny_data, "--limit", 2, *FLOAT32, "--json"
    )
    assert result.exit_code == 0
    assert "warning: " in result.stderr
    for text in (result.stderr, json.loads(result.stdout)["warnings"][0]):
        assert "another base model" in text
        assert "model.safetensors: has other content" in text


EVERY = rows(9)


@pytest.fixture(scope="module")
def first_six(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run over the first six of `EVERY`."""
    folder = tmp_path_factory.mktemp("first-six")
    data = write_rows(folder / "train.jsonl", EVERY[:6])
    return train(run_config(tiny_model, data, folder / "run", "train.steps=2", "train.save_every=1")).output


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Four rows, of which the second and the fourth are among the first six."""
    return write_rows(tmp_path / "test.jsonl", [EVERY[7], EVERY[2], EVERY[8], EVERY[5]])


def evaluated(model: Path, adapter: Path, data: Path) -> tuple[dict[str, Any], str]:
    """The report of an adapter on rows, and what else the command said."""
    argv = ["evaluate", "--model", model, "--data", data, "--max-new-tokens", 2, *FLOAT32, "--json"]
    result = invoke(*argv, "--adapter", adapter)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), result.stderr


@pytest.mark.parametrize("part", [".", "checkpoints/step-000001"])
def test_evaluate_says_which_rows_were_trained(part: str, first_six: Path, mixed: Path, tiny_model: Path) -> None:
    folder = first_six / part
    report, terminal = evaluated(tiny_model, folder, mixed)
    assert report["trained_rows"] == {str(folder): [f"{mixed}:2", f"{mixed}:4"]}
    for text in (report["warnings"][0], terminal):
        assert f"2 of 4 rows were in the training data of the run of {folder}" in text
        assert f"{mixed}:2" in text
        assert f"{mixed}:4" in text


def test_evaluate_says_which_rows_the_adapter_was_trained_on_from_which_a_run_went_on(
    first_six: Path, mixed: Path, tiny_model: Path, tmp_path: Path
) -> None:
    config = run_config(tiny_model, mixed, tmp_path / "run", f"train.from_adapter={first_six}", "train.steps=1")
    train(config.model_copy(update={"lora": type(config.lora)()}))
    both = write_rows(tmp_path / "both.jsonl", [EVERY[0], EVERY[8]])
    said = evaluated(tiny_model, tmp_path / "run", both)[0]["warnings"][0]
    assert f"2 of 2 rows were in the training data of the run of {tmp_path / 'run'}, or that of {first_six}" in said


def test_evaluate_says_which_rows_any_part_of_a_combination_was_trained_on(
    first_six: Path, mixed: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """A combination knows the rows of all its parts, and so does a combination of it."""
    eighth = write_rows(tmp_path / "eighth.jsonl", [EVERY[8]])
    other = train(run_config(tiny_model, eighth, tmp_path / "other", "train.steps=1")).output
    for name, parts in (("sum", (first_six, other)), ("again", (tmp_path / "sum", first_six))):
        given = [word for part in parts for word in ("--adapter", part)]
        assert invoke("combine", *given, "--output", tmp_path / name).exit_code == 0
        report, _ = evaluated(tiny_model, tmp_path / name, mixed)
        assert report["trained_rows"] == {str(tmp_path / name): [f"{mixed}:{row}" for row in (2, 3, 4)]}
        assert f"of the runs whose adapters were combined into {tmp_path / name}" in report["warnings"][0]


def test_evaluate_says_nothing_of_trained_rows_where_a_run_has_not_recorded_them(
    first_six: Path, mixed: Path, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(first_six, tmp_path / "run")
    (tmp_path / "run" / "trained-rows.bin").unlink()
    report, terminal = evaluated(tiny_model, tmp_path / "run", mixed)
    assert report["trained_rows"] == {}
    assert "training data" not in f"{report['warnings']} {terminal}"


def test_a_reward_model_is_judged_by_pairs_and_asked_for_no_answers(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_rows(tmp_path / "pairs.jsonl", pairs(12))
    train(run_config(tiny_model, file, tmp_path / "run", "objective=reward", "train.steps=4"))
    argv = ["evaluate", "--model", tiny_model, "--adapter", tmp_path / "run", "--data", file, "--limit", 9, *FLOAT32]
    table = invoke(*argv)
    assert table.exit_code == 0, table.output
    assert "accuracy" in table.stdout
    found = json.loads(invoke(*argv, "--json").stdout)
    assert found["pairs"] == 9
    assert found["interval"][0] <= found["accuracy"] <= found["interval"][1]
    assert "leave out --metric, --suite" in refused(*argv, "--metric", "exact", "--suite", "copying")
    assert "leave out --on" in refused(*argv, "--on", "ray")
    assert "leave out another --adapter, --html" in refused(*argv, "--adapter", tmp_path, "--html", tmp_path / "x")
    with monkeypatch.context() as patch:
        for name in ("RANK", "LOCAL_RANK", "MASTER_PORT"):
            patch.setenv(name, "1")
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        patch.setenv("WORLD_SIZE", "2")
        assert "leave out --metric, the launcher of 2 processes" in refused(*argv, "--metric", "exact")
    said, run = "scores text and writes none", tmp_path / "run"
    assert said in refused("generate", "--model", tiny_model, "--adapter", run, "--prompt", "hello", *FLOAT32)
    assert said in refused("export", "--adapter", run, "--output", tmp_path / "x.gguf", "--to", "gguf-adapter")
