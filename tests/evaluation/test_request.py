"""A request that cannot be carried out is refused before a model is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import rows, run_config, write_rows
from veneer.assistant.request import AssistantRequest
from veneer.enums import Column
from veneer.errors import AdapterError, ConfigError, DataError, ModelError, OutputError
from veneer.evaluation.request import EvaluationRequest, settle
from veneer.evaluation.run import evaluate
from veneer.training.run import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    return train(run_config(tiny_model, tiny_data, run, "train.steps=1")).output


def request(data: Path, adapter: Path | None = None, **settings: Any) -> EvaluationRequest:
    """Of a model that is not there: nothing here reads it."""
    assistant = AssistantRequest(model="absent", adapter=adapter)
    return EvaluationRequest(assistant=assistant, data=str(data), **settings)


def test_numbers_below_one_are_all_named(tiny_data: Path) -> None:
    whole = r"limit: must be a whole number of at least 1, got -1\n.*max_new_tokens: .* got 0\n.*suite_items: .* got -3"
    with pytest.raises(ConfigError, match=whole):
        settle(request(tiny_data, limit=-1, max_new_tokens=0, suite_items=-3))
    with pytest.raises(ConfigError, match=r"max_new_tokens: must be a whole number or None, got 2\.5"):
        evaluate("absent", tiny_data, max_new_tokens=2.5)  # type: ignore[arg-type]


def test_an_adapter_that_is_given_twice_is_no_second_seed(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    again = tmp_path / "b" / ".." / "a"
    with pytest.raises(ConfigError, match=rf"adapter: {tmp_path / 'a'} is given 2 times"):
        settle(request(tiny_data, tmp_path / "a", more_adapters=(again, tmp_path / "c")))
    assert request(tiny_data, tmp_path / "a", more_adapters=(again,)).folders == [tmp_path / "a", again]
    assert request(tiny_data).folders == []


def test_a_name_that_is_given_twice_is_not_passed_over(tiny_data: Path, tmp_path: Path) -> None:
    twice = r"metrics: 'exact' is given 2 times; give it once\n.*suites: 'arithmetic' is given 3 times"
    with pytest.raises(ConfigError, match=twice):
        settle(request(tiny_data, metrics=("exact", "f1", "exact"), suites=("arithmetic",) * 3))
    with pytest.raises(ConfigError, match="metrics: 'exact' is given 2 times"):
        evaluate("absent", tiny_data, metrics=["exact", "exact"])


def test_what_compares_an_adapter_with_its_base_needs_one(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text("suites: {arithmetic: 0.05}\n")
    (tmp_path / "judge.yaml").write_text("model: absent\n")
    asked: dict[str, Any]
    for asked in ({"suites": ("arithmetic",)}, {"gate": tmp_path / "gate.yaml"}, {"judge": tmp_path / "judge.yaml"}):
        with pytest.raises(ConfigError, match="compare an adapter with its base: give an adapter"):
            settle(request(tiny_data, **asked))


def test_every_adapter_is_read_before_a_model_is(trained: Path, tiny_data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    with pytest.raises(ConfigError, match=rf"adapter: {copy} is a copy of {trained}"):
        settle(request(tiny_data, trained, more_adapters=(copy,)))
    weights = copy / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (tmp_path / "empty").mkdir()
    for broken in (copy, tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(AdapterError, match=str(broken)):
            settle(request(tiny_data, trained, more_adapters=(broken,)))


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({"url": "http://127.0.0.1:9/v1", "human": "people.jsonl"}, DataError, r"people\.jsonl:1: .*human"),
        ({"url": "http://127.0.0.1:9/v1", "key_file": "empty"}, ConfigError, "/empty: "),
        ({"url": "http://127.0.0.1:9/v1", "record": "."}, OutputError, "cannot be written"),
        (
            {"url": "http://127.0.0.1:9/v1", "record": "absent/record.jsonl"},
            OutputError,
            "there is no folder .*/absent",
        ),
        ({"model": "absent"}, ModelError, "/absent"),
        ({"adapter": "absent"}, AdapterError, "/absent"),
    ],
)
def test_what_a_judge_needs_is_read_before_a_model_is(
    settings: dict[str, str],
    error: type[Exception],
    told: str,
    tiny_model: Path,
    trained: Path,
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    write_rows(tmp_path / "people.jsonl", [{"question": "q", "first": "a", "second": "b", "human": "A"}])
    (tmp_path / "empty").write_text("")
    places = {key: value if key == "url" else str(tmp_path / value) for key, value in settings.items()}
    (tmp_path / "judge.yaml").write_text(json.dumps({"model": str(tiny_model), **places}))
    with pytest.raises(error, match=told):
        settle(request(tiny_data, trained, judge=tmp_path / "judge.yaml"))


def test_a_gates_suites_and_items_are_asked_for(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    adapter = train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=1")).output
    gate = tmp_path / "gate.yaml"
    gate.write_text("suites: {arithmetic: 0.05}\n")
    settled = settle(request(tiny_data, adapter, gate=gate, suites=("copying", "arithmetic")))
    assert settled.gate is not None
    assert settled.suites == ("copying", "arithmetic")
    assert settled.items("arithmetic") == settled.gate.items_of("arithmetic")
    assert settled.items("copying") is None, "the suite says"
    fixed = settle(request(tiny_data, adapter, gate=gate, suite_items=7))
    assert fixed.items("arithmetic") == 7


def test_columns_are_kept_as_they_were_given(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "t.jsonl", [{"question": "a", "answer": "b"}])
    columns = {Column.PROMPT: "question", Column.COMPLETION: "answer"}
    assert settle(request(data, columns=columns)).request.columns == columns
    assert settle(request(write_rows(tmp_path / "own.jsonl", rows(1)))).request.columns == {}
