"""The form of a new job."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import rows as taught
from helpers.models.tiny import run_config, write_rows
from helpers.processes.job_workers import wait_for
from helpers.servers.browsing import IN_A_BROWSER, Intercepted, Watched
from helpers.servers.studios import CPU, Opened
from veneer.enums import JobCode
from veneer.tracked_run import train_tracked

pytestmark = IN_A_BROWSER


def test_a_studio_that_does_not_answer_is_said_and_asked_again(watched: Watched) -> None:
    page, said = watched.page, "The studio does not answer"
    broken = Intercepted(page, "**/studio/options", lambda route: route.abort())
    watched.go("new")
    watched.sees(said)
    broken.let_through()
    page.get_by_text(said).wait_for(state="hidden", timeout=20_000)
    wait_for(lambda: page.locator("select").first.input_value() == "model")
    # What a setting is as long as nothing is typed, and no file is chosen that a plan could be made of.
    page.select_option("select >> nth=3", "")
    wait_for(lambda: page.locator("input[name='lora.rank']").get_attribute("placeholder") == "16")
    watched.errors[:] = [error for error in watched.errors if "ERR_FAILED" not in error]


def test_marked_answers_become_a_file_to_train_on(watched: Watched, opened: Opened) -> None:
    page = watched.page
    body = {"prompt": [{"role": "user", "content": "0: parcel?"}], "chosen": "1", "rejected": "2"}
    opened.http.post("/studio/preferences", json=body)
    watched.go("chat")
    page.get_by_role("button", name="Train on preferences").click()
    page.wait_for_url(re.compile("objective=dpo"))
    watched.sees("row 1, chosen")
    wait_for(lambda: "objective=dpo" in page.locator("#command").inner_text())


def test_rewards_and_teachers_are_chosen_in_the_form(watched: Watched, opened: Opened, tiny_model: Path) -> None:
    page, root = watched.page, opened.studio.root
    rows = [{"messages": [{"role": "user", "content": f"{number}: parcel?"}], "solution": "1"} for number in range(6)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    asked = opened.client.files.create(file=("asked.jsonl", content), purpose="fine-tune")
    opened.client.files.wait_for_processing(asked.id, poll_interval=0.1)
    watched.go(f"data/{asked.id}")
    watched.sees("These rows have no answers")
    page.get_by_role("link", name="Train on it").click()
    page.wait_for_url(re.compile("objective=grpo"))
    watched.sees("row 1, prompt")
    page.get_by_label("metric", exact=True).select_option("contains")
    page.get_by_role("textbox", name="column").fill("solution")
    page.get_by_role("button", name="Add a reward").click()
    page.get_by_role("spinbutton", name="weight").nth(1).fill("0.5")
    command = page.locator("#command")
    wait_for(lambda: '{"metric": "contains", "column": "solution"}' in command.inner_text())
    wait_for(lambda: '{"metric": "exact", "weight": 0.5}' in command.inner_text())
    page.get_by_role("spinbutton", name="weight").nth(1).fill("")
    wait_for(lambda: '{"metric": "exact"}' in command.inner_text())
    for number in (2, 1):
        page.get_by_role("button", name=f"Remove reward {number}").click()
    watched.sees("Add a reward: then the plan of the run")
    assert page.get_by_role("button", name="Create job").is_disabled()
    # A teacher's adapter is one that a run of the folder has made.
    train_tracked(
        run_config(tiny_model, write_rows(root.parent / "taught.jsonl", taught(6)), root / "teacher", "train.steps=1")
    )
    opened.studio.watcher.look()
    watched.go("runs")
    watched.go(f"new?file={asked.id}&objective=distillation")
    watched.sees("Choose a teacher")
    file = {
        "name": "taught.jsonl",
        "mimeType": "application/jsonl",
        "buffer": (root.parent / "taught.jsonl").read_bytes(),
    }
    page.locator("input[type=file]").set_input_files(file)
    page.locator("select[name='distillation.teacher_adapter']").select_option("teacher")
    wait_for(lambda: "distillation.teacher_adapter=teacher" in command.inner_text(), 60)


def test_a_job_like_another_one_has_its_method_and_all_of_its_rewards(watched: Watched, opened: Opened) -> None:
    row = {"messages": [{"role": "user", "content": "parcel?"}], "solution": "1"}
    content = (json.dumps(row) + "\n").encode() * 4
    asked = opened.client.files.create(file=("asked.jsonl", content), purpose="fine-tune")
    opened.client.files.wait_for_processing(asked.id, poll_interval=0.1)
    reward = {"metric": "contains", "column": "solution", "weight": 0.5, "name": "right", "time_limit": 5,
              "on_error": "skip_row"}  # fmt: skip
    # No method is named: the job takes the default one.
    others = {"tracking.project": "2026", "lora.rank_pattern": {"layers.0.self_attn.q_proj": 8}}
    own = {"objective": "grpo", "settings": {**CPU, **others, "rewards": [reward]}}
    job = opened.client.fine_tuning.jobs.create(model="model", training_file=asked.id, extra_body={"veneer": own})
    opened.client.fine_tuning.jobs.cancel(job.id)

    def is_alike(answer: Any) -> bool:
        return answer.url.endswith("/estimate") and answer.request.post_data_json["veneer"]["objective"] == "grpo"

    with watched.page.expect_response(is_alike) as answered:
        watched.go(f"new?like={job.id}")
    sent = answered.value.request.post_data_json["veneer"]
    assert sent["method"] == "qlora"
    assert sent["settings"]["rewards"] == [reward]
    assert {key: sent["settings"][key] for key in others} == others


def test_a_job_like_another_one_leaves_out_no_python_that_is_not_told(
    watched: Watched, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened.studio, "job_code", JobCode.RUN)
    page, content = watched.page, b'{"messages": [{"role": "user", "content": "parcel?"}], "answer": "1"}\n' * 4
    asked = opened.client.files.create(file=("asks.jsonl", content), purpose="fine-tune")
    opened.client.files.wait_for_processing(asked.id, poll_interval=0.1)
    source = "def grade(sample, item):\n    return 1.0\n"

    def alike(body: dict[str, Any], write: str = "") -> Any:
        """The rewards that the form of a job like that one plans with, after its empty Python was written."""

        def is_asked(request: Any) -> bool:
            return request.url.endswith("/estimate") and "rewards" in request.post_data_json["veneer"]["settings"]

        body = {"model": "model", "training_file": asked.id, **body}
        job = opened.http.post("/v1/fine_tuning/jobs", json=body).raise_for_status().json()
        opened.client.fine_tuning.jobs.cancel(job["id"])
        with page.expect_request(is_asked) as sent:
            watched.go(f"new?like={job['id']}")
            if write:
                watched.sees("The Python code of the reward mine is missing")
                watched.sees("Fill in every reward")
                assert page.get_by_role("button", name="Create job").is_disabled()
                page.get_by_label("Python with grade").fill(write)
        return sent.value.post_data_json["veneer"]["settings"]["rewards"]

    rewards = [{"metric": "exact", "weight": 0.7}, {"source": source, "name": "mine", "weight": 0.3}]
    rewards.append({"command": "judge --strict"})
    own = {"objective": "grpo", "settings": {**CPU, "rewards": rewards}}
    assert alike({"veneer": own}, source) == rewards
    # A grader of OpenAI's is told as it was given.
    check = {"type": "string_check", "name": "c", "operation": "eq", "input": "{{sample.output_text}}",
             "reference": "{{item.answer}}"}  # fmt: skip
    python = {"type": "python", "name": "p", "source": source}
    both = {"type": "multi", "graders": {"right": check, "mine": python}, "calculate_output": "right + 0.5 * mine"}
    method = {"type": "reinforcement", "reinforcement": {"grader": both}}
    found = alike({"method": method, "veneer": {"settings": CPU}})
    assert found[1] == {"source": source, "weight": 0.5, "name": "mine"}
