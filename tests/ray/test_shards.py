"""Rows and questions in parts: what is put together is what one process computes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.models.tiny import rows, run_config, write_rows
from helpers.processes.invoking import invoke
from helpers.processes.ray_nodes import Nodes
from veneer.assistant.request import AssistantRequest
from veneer.config import ComputeSection
from veneer.enums import Dtype
from veneer.evaluation.request import EvaluationRequest
from veneer.evaluation.run import run_evaluation
from veneer.events import Note, Result, ignore
from veneer.ray.shards import Contributions, EvaluationPart, Joined, Part, contributed, put_together
from veneer.training.run import train


@pytest.mark.parametrize("parts", [1, 2, 3, 9])
def test_parts_that_hear_of_nobody_are_put_together_task_by_task(parts: int) -> None:
    found = []
    for number in range(parts):
        part = Part(number, parts)
        seen = part.all([f"a{n}" for n in part.own(7)], 7, lambda number: "blank")
        assert seen == [f"a{n}" if n % parts == number else "blank" for n in range(7)]
        part.all([n**2 for n in part.own(4)], 4)
        found.append(part.found)
    whole = Joined(found)
    assert list(whole.own(7)) == []
    assert whole.all([], 7) == [f"a{n}" for n in range(7)]
    assert whole.all([], 4) == [0, 1, 4, 9]


def test_an_evaluation_in_three_parts_is_the_whole_one(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=1"))
    data = write_rows(tmp_path / "rows.jsonl", rows(7, seed=4))
    request = EvaluationRequest(
        assistant=AssistantRequest(
            model=str(tiny_model), adapter=tmp_path / "run", compute=ComputeSection(device="cpu", dtype=Dtype.FLOAT32)
        ),
        data=str(data),
        max_new_tokens=4,
        suites=("copying",),
        suite_items=5,
    )
    parts = [contributed(EvaluationPart(request, number, 3)) for number in range(3)]
    report, said = put_together(Contributions(request, parts))
    whole = run_evaluation(request, ignore)
    assert replace(report, seconds=0.0).to_json() == replace(whole, seconds=0.0).to_json()
    assert [type(event) for event in said] == [Note, Result]


@pytest.mark.slow
def test_an_evaluation_on_two_nodes_is_that_of_one_machine(
    two_nodes: Nodes, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=2"))
    labelled = [{"prompt": f"{n}?", "completion": "late" if n % 2 else "blue"} for n in range(9)]
    data = write_rows(tmp_path / "rows.jsonl", labelled)
    argv = [
        "evaluate", "--model", tiny_model, "--adapter", tmp_path / "run", "--data", data, "--max-new-tokens", 6,
        "--suite", "copying", "--suite-items", 5, "--suite", f"kl:{data}", "--json", "--device", "cpu",
        "--metric", "choice", "--metric", "exact",
    ]  # fmt: skip
    here, there = invoke(*argv), invoke(*argv, "--on", two_nodes.address)
    assert (here.exit_code, there.exit_code) == (0, 0), (there.output, there.exception)

    def report(text: str) -> object:
        return json.loads(re.sub(r'"seconds": [0-9.e-]+', '"seconds": 0', text))

    assert report(there.stdout) == report(here.stdout)


@pytest.mark.slow
def test_answers_on_two_nodes_are_those_of_one_machine(two_nodes: Nodes, tiny_model: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.txt"
    questions.write_text("\n".join(f"What is the parcel number {n}?" for n in range(7)) + "\n")
    argv = ["generate", "--model", tiny_model, "--input", questions, "--max-new-tokens", 8, "--temperature", 1.0,
            "--json", "--device", "cpu"]  # fmt: skip
    here, there = invoke(*argv), invoke(*argv, "--on", two_nodes.address)
    assert (here.exit_code, there.exit_code) == (0, 0), (there.output, there.exception)
    assert there.stdout == here.stdout
    assert len({json.loads(line)["answer"] for line in here.stdout.splitlines()}) > 3  # each drew its own
