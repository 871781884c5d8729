"""What jobs name: graders of reinforcement in OpenAI's shape, and what other runs have made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import rows, run_config, write_rows
from helpers.processes.job_workers import wait_for
from helpers.rows.preference_rows import pairs
from helpers.servers.studios import CPU, Opened, studio
from veneer.enums import JobCode
from veneer.tracked_run import train_tracked

ASKED = [
    {"messages": [{"role": "user", "content": f"{number}: parcel?"}], "answer": str(number)} for number in range(8)
]
CHECK = {"type": "string_check", "name": "right", "input": "{{sample.output_text}}", "reference": "{{item.answer}}",
         "operation": "ilike"}  # fmt: skip
LIKED = {"type": "score_model", "name": "liked", "model": "made-judge",
         "input": [{"role": "user", "content": "{{sample.output_text}}"}]}  # fmt: skip
OWN = {"type": "python", "name": "own", "source": "def grade(sample, item):\n    return len(sample['output_text'])\n"}
MULTI = {"type": "multi", "name": "all", "graders": {"right": CHECK, "liked": LIKED, "own": OWN},
         "calculate_output": "right + 0.5 * liked - own / 100"}  # fmt: skip
GRPO = {**CPU, "train.steps": 1, "grpo.max_completion_length": 4, "train.learning_rate": 0.001}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Opened]:
    root = tmp_path_factory.mktemp("reinforced") / "runs"
    files = tmp_path_factory.mktemp("files")
    judged, taught = write_rows(files / "pairs.jsonl", pairs(6)), write_rows(files / "rows.jsonl", rows(6))
    train_tracked(
        run_config(tiny_model, judged, root / "made" / "judge", "objective=reward", "train.steps=1", "lora.rank=2")
    )
    train_tracked(run_config(tiny_model, taught, root / "made" / "teacher", "train.steps=1", "lora.rank=2"))
    with studio(root, tiny_model, job_code=JobCode.RUN) as found:
        yield found


def uploaded(opened: Opened, found: list[dict[str, Any]]) -> str:
    content = "".join(json.dumps(row) + "\n" for row in found).encode()
    made = opened.client.files.create(file=("asked.jsonl", content), purpose="fine-tune")
    done = opened.client.files.wait_for_processing(made.id, poll_interval=0.05)
    assert done.status == "processed", done.status_details
    return made.id


@pytest.fixture(scope="module")
def asked(opened: Opened) -> str:
    return uploaded(opened, ASKED)


def planned(opened: Opened, file: str, **body: Any) -> Any:
    given = {"model": "model", "training_file": file, "veneer": {"method": "lora", "settings": GRPO}, **body}
    return opened.http.post("/v1/fine_tuning/jobs/estimate", json=given)


def test_rows_that_ask_can_be_handed_in_and_are_shown_as_prompts(opened: Opened, asked: str) -> None:
    details = opened.client.files.retrieve(asked).status_details
    assert details == "8 rows: 8 without an answer, which only reinforcement can train on"
    body = {
        "model": "model",
        "training_file": asked,
        "method": {"type": "reinforcement", "reinforcement": {"grader": CHECK}},
    }
    shown = opened.http.post("/v1/fine_tuning/jobs/preview", json=body).json()["rows"]
    assert shown[1]["answer"] == "prompt"
    assert "1: parcel?" in "".join(token["text"] for token in shown[1]["tokens"])
    assert set(shown[1]["labels"]) == {-100}
    # The page of the file is checked as a run of reinforcement reads it: nothing of it is called unusable.
    page = opened.http.get("/studio/lint", params={"file": asked, "model": "model"}).json()
    assert (page["objective"], page["rules"], page["checked"]) == ("grpo", [], len(ASKED))
    assert all(row["targets"] == 0 and row["ids"] for row in page["rows"])


def test_graders_and_hyperparameters_become_settings_of_the_run(opened: Opened, asked: str) -> None:
    hyper = {"compute_multiplier": 0.5, "batch_size": 2, "eval_interval": "auto", "reasoning_effort": "default"}
    method = {"type": "reinforcement", "reinforcement": {"grader": MULTI, "hyperparameters": hyper}}
    plan = planned(opened, asked, method=method).json()
    assert plan["settings"]["objective"] == "grpo"
    assert plan["settings"]["grpo.num_generations"] == 4
    assert plan["settings"]["train.examples_per_step"] == 2
    rewards = {one["name"]: one for one in plan["settings"]["rewards"]}
    assert {name: one["weight"] for name, one in rewards.items()} == {"right": 1.0, "liked": 0.5, "own": -0.01}
    assert rewards["right"]["metric"] == "contains-any-case"
    assert str(opened.studio.root) not in plan["command"]
    assert '"adapter": "made-judge"' in plan["command"]
    assert not (opened.studio.own / "graders").exists()  # a plan writes nothing


def test_a_plan_calls_files_models_and_adapters_by_their_names(opened: Opened, tiny_model: Path) -> None:
    file = uploaded(opened, rows(4))
    settings = {**CPU, "distillation.teacher": "model", "train.from_adapter": "made-teacher", "lora.rank": 2}
    body = {"method": "lora", "objective": "distillation", "settings": settings}
    answer = planned(opened, file, veneer=body)
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    assert any("(asked.jsonl:" in note for note in plan["notes"])
    assert plan["settings"]["distillation.teacher"] == "model"
    assert plan["settings"]["train.from_adapter"] == "made-teacher"
    for path in (opened.studio.root, tiny_model):
        assert str(path) not in answer.text


@pytest.mark.parametrize(
    ("reinforcement", "said"),
    [
        ({"grader": CHECK, "hyperparameters": {"eval_samples": 4}}, "eval_samples"),
        ({"grader": CHECK, "hyperparameters": {"reasoning_effort": "high"}}, "reasoning_effort"),
        ({"grader": CHECK, "hyperparameters": {"beta": 0.1}}, "hyperparameters of objective grpo"),
        ({"grader": CHECK, "response_format": {"type": "json_schema"}}, "response_format"),
        ({"grader": {**LIKED, "model": "gpt-4o"}}, "no finished reward model 'gpt-4o'; known: made-judge"),
        ({"grader": {**LIKED, "model": "made-teacher"}}, "no finished reward model"),
        ({"grader": {**OWN, "source": "def grad(sample, item): return 1"}}, "source has no function grade"),
        ({"grader": {**OWN, "source": "def grade(sample, item) return 1"}}, "source is not valid Python: line 1"),
        ({}, "a grader must be an object"),
    ],
)
def test_what_reinforcement_here_has_not_is_refused_by_name(
    opened: Opened, asked: str, reinforcement: dict[str, Any], said: str
) -> None:
    answer = planned(opened, asked, method={"type": "reinforcement", "reinforcement": reinforcement})
    assert answer.status_code in (400, 404)
    assert said in answer.json()["error"]["message"]


def test_a_grader_and_rewards_are_not_both_taken(opened: Opened, asked: str) -> None:
    extension = {"method": "lora", "settings": {**GRPO, "rewards": [{"metric": "exact"}]}}
    method = {"type": "reinforcement", "reinforcement": {"grader": CHECK}}
    answer = planned(opened, asked, method=method, veneer=extension)
    assert "not both" in answer.json()["error"]["message"]


def test_a_teacher_and_its_adapter_are_named_as_models_are(opened: Opened, tmp_path: Path) -> None:
    file = uploaded(opened, rows(6))
    settings = {
        **CPU,
        "train.steps": 1,
        "distillation.teacher": "model",
        "distillation.teacher_adapter": "made/teacher",
    }
    extension = {"method": "lora", "objective": "distillation", "settings": settings}
    plan = planned(opened, file, veneer=extension).json()
    assert plan["fits"]
    assert plan["settings"]["distillation.teacher_adapter"].endswith("made/teacher")
    assert "distillation.teacher_adapter=made/teacher" in plan["command"]
    refused = planned(opened, file, veneer={**extension, "settings": {**settings, "distillation.teacher": "other"}})
    assert refused.status_code == 404


@pytest.mark.slow
def test_a_job_of_reinforcement_in_openais_shape_runs_to_an_adapter_that_answers(opened: Opened, asked: str) -> None:
    client = opened.client
    method: Any = {"type": "reinforcement", "reinforcement": {
        "grader": MULTI, "hyperparameters": {"compute_multiplier": 0.25, "batch_size": 2}}}  # fmt: skip
    job = client.fine_tuning.jobs.create(
        model="model", training_file=asked, method=method,
        extra_body={"veneer": {"method": "lora", "settings": GRPO}},
    )  # fmt: skip
    assert job.method is not None
    assert job.method.type == "reinforcement"
    assert job.method.reinforcement is not None
    told = opened.http.get(f"/v1/fine_tuning/jobs/{job.id}")  # the client's types know one grader of a multi alone
    assert told.json()["method"]["reinforcement"]["grader"] == MULTI
    assert str(opened.studio.root) not in told.text
    wait_for(lambda: client.fine_tuning.jobs.retrieve(job.id).finished_at is not None, 90)
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.status == "succeeded", done.error
    metrics = opened.http.get(f"/studio/curves?name={job.id}").json()["metrics"]
    assert {"rewards/right/mean", "rewards/liked/mean", "rewards/own/mean", "reward"} <= metrics.keys()
    lock = json.loads((opened.studio.root / job.id / "run.lock").read_text("utf-8"))
    assert any("rewards.2.python" in key for key in json.dumps(lock).split('"'))
    assert done.fine_tuned_model is not None
    asking: Any = [{"role": "user", "content": "0: parcel?"}]
    assert client.chat.completions.create(model=done.fine_tuned_model, messages=asking, max_tokens=2).choices


@pytest.mark.slow
def test_a_job_of_distillation_follows_the_teacher_that_a_run_has_made(opened: Opened) -> None:
    file = uploaded(opened, rows(6))
    settings = {**CPU, "train.steps": 2, "distillation.teacher_adapter": "made-teacher"}
    extension = {"method": "lora", "objective": "distillation", "settings": settings}
    job = opened.client.fine_tuning.jobs.create(model="model", training_file=file, extra_body={"veneer": extension})
    assert job.model_extra["veneer"]["settings"]["distillation"]["teacher_adapter"] == "made-teacher"  # type: ignore[index]
    wait_for(lambda: opened.client.fine_tuning.jobs.retrieve(job.id).finished_at is not None, 90)
    done = opened.client.fine_tuning.jobs.retrieve(job.id)
    assert done.status == "succeeded", done.error
    assert "divergence" in opened.http.get(f"/studio/curves?name={job.id}").json()["metrics"]
