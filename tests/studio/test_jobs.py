"""OpenAI's client hands in a file, makes a job, follows it, and talks to what comes of it, all in one process."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIStatusError, BadRequestError, ConflictError, NotFoundError, PermissionDeniedError
from openai.types.fine_tuning import FineTuningJob

from helpers.models.tiny import write_rows
from helpers.processes.job_workers import wait_for
from helpers.rows.preference_rows import pair_rows, pairs
from helpers.servers.studios import CPU, Opened, studio
from veneer.data.encoded.encoding import encode_all
from veneer.data.records import read_records
from veneer.enums import Overlong
from veneer.io.tokenizer import from_directory
from veneer.studio.job_request import ADAPTERS, MODELS, PATHS, job_request


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Opened]:
    with studio(tmp_path_factory.mktemp("studio") / "runs", tiny_model) as found:
        yield found


@pytest.fixture(scope="module")
def file(opened: Opened, tiny_data: Path) -> str:
    with tiny_data.open("rb") as rows:
        made = opened.client.files.create(file=rows, purpose="fine-tune")
    done = opened.client.files.wait_for_processing(made.id, poll_interval=0.1)
    assert done.status == "processed", done.status_details
    return made.id


def create(opened: Opened, file: str, *, steps: int = 6, **more: Any) -> FineTuningJob:
    settings = {**CPU, "train.steps": steps, "train.save_every": 2, **more.pop("settings", {})}
    return opened.client.fine_tuning.jobs.create(
        model="model", training_file=file, extra_body={"veneer": {"method": "lora", "settings": settings}}, **more
    )


def until(opened: Opened, job: str, holds: Callable[[FineTuningJob], bool], seconds: float = 60.0) -> FineTuningJob:
    wait_for(lambda: holds(opened.client.fine_tuning.jobs.retrieve(job)), seconds)
    return opened.client.fine_tuning.jobs.retrieve(job)


@dataclass
class Ended:
    """A job that has ended."""

    job: FineTuningJob
    """The job as it ended."""
    made: FineTuningJob
    """The job as it was answered when it was made."""
    statuses: list[str]
    """What its status was, in order."""

    @property
    def model(self) -> str:
        """The name of the trained model."""
        assert self.job.fine_tuned_model is not None
        return self.job.fine_tuned_model


def ended(opened: Opened, made: FineTuningJob) -> Ended:
    """A job that succeeds, followed to its end."""
    statuses: list[str] = []

    def ends(found: FineTuningJob) -> bool:
        if found.status not in statuses:
            statuses.append(found.status)
        return found.finished_at is not None

    job = until(opened, made.id, ends)
    assert job.status == "succeeded", job.error
    return Ended(job, made, statuses)


def lock_of(opened: Opened, job: FineTuningJob) -> dict[str, Any]:
    """What the run of a job has recorded of itself."""
    found: dict[str, Any] = json.loads((opened.studio.root / job.id / "run.lock").read_text("utf-8"))
    return found


def ask(opened: Opened, model: str, tokens: int = 1) -> httpx.Response:
    messages = [{"role": "user", "content": "0: parcel?"}]
    body = {"model": model, "messages": messages, "max_tokens": tokens}
    return opened.http.post("/v1/chat/completions", json=body)


@pytest.fixture(scope="module")
def trained(opened: Opened, file: str) -> Ended:
    """A job of six steps, made while the studio holds the base to answer."""
    assert ask(opened, "model").status_code == 200
    return ended(opened, create(
        opened, file, seed=7, suffix="claims", metadata={"team": "a"}, validation_file=file,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "auto", "batch_size": 4}}},
    ))  # fmt: skip


def test_a_job_is_answered_with_what_was_asked_for(trained: Ended) -> None:
    made = trained.made
    assert (made.status, made.seed, made.metadata) == ("validating_files", 7, {"team": "a"})
    assert made.hyperparameters.batch_size == 4


def test_a_job_is_followed_to_its_success(trained: Ended) -> None:
    assert trained.statuses[-1] == "succeeded"
    assert set(trained.statuses) <= {"validating_files", "queued", "running", "succeeded"}
    assert trained.job.trained_tokens


def test_what_was_asked_for_is_what_is_trained(opened: Opened, trained: Ended) -> None:
    lock = lock_of(opened, trained.job)
    assert (lock["seed"], lock["config"]["train"]["examples_per_step"]) == (7, 4)


def test_the_studios_plan_is_no_less_than_the_runs_own(opened: Opened, trained: Ended) -> None:
    """The run knows its process, and the studio does not."""
    run, peak = opened.studio.watcher.run(trained.job.id), trained.job.model_extra["veneer"]["peak"]  # type: ignore[index]
    assert run is not None
    assert run.record.planned_memory_mb is not None
    assert 0 <= peak / 1e6 - run.record.planned_memory_mb < 40


def test_a_trained_model_is_listed_by_its_suffix_and_answers(opened: Opened, trained: Ended) -> None:
    assert trained.model.startswith("claims-")
    assert trained.model in {one.id for one in opened.client.models.list()}
    assert ask(opened, trained.model, 4).json()["model"] == trained.model


def test_events_have_the_loss_of_each_step_and_the_end(opened: Opened, trained: Ended) -> None:
    events = opened.client.fine_tuning.jobs.list_events(trained.job.id, limit=100).data
    losses = [one.data for one in events if one.type == "metrics" and "train_loss" in (one.data or {})]  # type: ignore[operator]
    assert [one["step"] for one in losses] == [6, 5, 4, 3, 2, 1]  # type: ignore[index]
    assert any("finished" in one.message for one in events)


def test_events_are_the_same_page_by_page(opened: Opened, trained: Ended) -> None:
    """The client asks for page after page."""
    few, many = (opened.client.fine_tuning.jobs.list_events(trained.job.id, limit=limit) for limit in (3, 100))
    assert len(few.data) == 3
    assert [one.id for one in few] == [one.id for one in many]


def test_checkpoints_are_listed_the_last_first(opened: Opened, trained: Ended) -> None:
    kept = opened.client.fine_tuning.jobs.checkpoints.list(trained.job.id).data
    # Every evaluation is the best so far, so every step is kept until two later ones are.
    assert [one.step_number for one in kept] == [6, 5]
    assert kept[0].metrics.train_loss is not None


def test_a_checkpoint_that_is_there_answers(opened: Opened, trained: Ended) -> None:
    kept = opened.client.fine_tuning.jobs.checkpoints.list(trained.job.id).data
    assert ask(opened, kept[-1].fine_tuned_model_checkpoint).status_code == 200
    assert ask(opened, f"{trained.model}-step-77").status_code == 404


@pytest.mark.slow
def test_a_running_job_pauses_resumes_and_is_cancelled(opened: Opened, file: str) -> None:
    client = opened.client
    job = create(opened, file, steps=3_000)
    until(opened, job.id, lambda found: found.model_extra["veneer"]["step"] > 3)  # type: ignore[index]
    client.fine_tuning.jobs.pause(job.id)
    paused = until(opened, job.id, lambda found: found.model_extra["veneer"]["status"] == "paused")  # type: ignore[index]
    assert paused.status == "queued"  # OpenAI has no word for it
    step = paused.model_extra["veneer"]["step"]  # type: ignore[index]
    client.fine_tuning.jobs.resume(job.id)
    until(opened, job.id, lambda found: found.model_extra["veneer"]["step"] > step)  # type: ignore[index]
    client.fine_tuning.jobs.cancel(job.id)
    done = until(opened, job.id, lambda found: found.status == "cancelled")
    assert done.fine_tuned_model is None
    with pytest.raises(ConflictError, match="cancel"):
        client.fine_tuning.jobs.cancel(job.id)


def test_a_model_and_a_file_that_the_studio_does_not_have_are_refused(opened: Opened, file: str) -> None:
    create_job = opened.client.fine_tuning.jobs.create
    with pytest.raises(NotFoundError, match="no base model"):
        create_job(model="/etc/passwd", training_file=file)
    with pytest.raises(NotFoundError, match="no such file"):
        create_job(model="model", training_file="../../etc/passwd")


def test_methods_and_fields_that_no_job_has_are_refused(opened: Opened, file: str) -> None:
    create_job = opened.client.fine_tuning.jobs.create
    with pytest.raises(BadRequestError, match="is not supported"):
        create_job(model="model", training_file=file, method={"type": "rlhf"})  # type: ignore[typeddict-item]
    with pytest.raises(BadRequestError, match="a grader must be an object"):
        create_job(model="model", training_file=file, method={"type": "reinforcement"})
    with pytest.raises(BadRequestError, match="the fields of a job are"):
        create_job(model="model", training_file=file, extra_body={"grader": {}})
    with pytest.raises(BadRequestError, match=r"lora\.rang"):
        create(opened, file, settings={"lora.rang": 4})
    with pytest.raises(BadRequestError, match="learning_rate_multiplier"):
        create(opened, file, hyperparameters={"learning_rate_multiplier": -1})


@pytest.mark.parametrize("key", sorted(PATHS))
def test_a_setting_that_names_a_file_of_the_machine_is_refused(opened: Opened, file: str, key: str) -> None:
    reason = "revision is not a setting of a job" if key == "revision" else "names a file of this machine"
    with pytest.raises(BadRequestError, match=reason):
        create(opened, file, settings={key: "/etc/passwd"})
    with pytest.raises(BadRequestError, match="names a file of this machine"):
        create(opened, file, settings={key: {"inner": "/etc/passwd"}})


@pytest.mark.parametrize("key", sorted((*ADAPTERS, *MODELS)))
def test_a_path_is_no_adapter_and_no_model(opened: Opened, file: str, key: str) -> None:
    for path in ("/etc/passwd", "../..", str(opened.studio.root)):
        with pytest.raises(NotFoundError, match=r"no finished adapter|no base model"):
            create(opened, file, settings={key: path})


@pytest.mark.parametrize(
    ("reward", "error", "said"),
    [
        ({"python": "/tmp/x.py:f"}, BadRequestError, "a reward of a job has exactly one of"),
        ({"metric": "exact", "command": "touch /tmp/x"}, BadRequestError, "a reward of a job has exactly one of"),
        ({"python": "x.py:f", "metric": "exact"}, BadRequestError, "a reward of a job has exactly one of"),
        ({}, BadRequestError, "a reward of a job has exactly one of"),
        ({"command": "touch /tmp/x"}, PermissionDeniedError, "--job-code run"),
        ({"source": "def grade(sample, item): return 1"}, PermissionDeniedError, "--job-code run"),
        ({"adapter": "/tmp/judge"}, NotFoundError, "no finished reward model"),
    ],
)
def test_rewards_that_would_run_code_or_read_a_path_are_refused(
    opened: Opened, file: str, reward: dict[str, str], error: type[APIStatusError], said: str
) -> None:
    with pytest.raises(error, match=said):
        create(opened, file, settings={"objective": "grpo", "rewards": [reward]})


@pytest.mark.parametrize("suffix", ["../x", ".hidden", "-x", "x\n"])
def test_a_suffix_that_is_no_name_of_a_folder_is_refused(opened: Opened, file: str, suffix: str) -> None:
    with pytest.raises(BadRequestError, match="must begin with a letter or a digit"):
        create(opened, file, suffix=suffix)


def test_every_setting_that_the_form_offers_can_be_given_with_its_default(opened: Opened) -> None:
    offered = opened.http.get("/studio/options").json()["settings"]
    keys = {one["key"] for one in offered}
    assert "train.epochs" in keys
    assert not keys & PATHS
    body = {"model": "model", "training_file": "file-1"}
    for one in offered:
        job_request({**body, "veneer": {"settings": {one["key"]: one["default"]}}})
    # Null names nothing.
    for key in PATHS:
        assert job_request({**body, "veneer": {"settings": {key: None}}}).values == {}


@pytest.mark.parametrize("nested", [False, True])
def test_a_mapping_that_is_a_settings_value_keeps_the_dots_in_its_keys(
    opened: Opened, file: str, *, nested: bool
) -> None:
    ranks = {"layers.0.self_attn.q_proj": 8, "down_proj": 2}
    given = {"lora": {"rank_pattern": ranks}} if nested else {"lora.rank_pattern": ranks}
    body = {"model": "model", "training_file": file, "veneer": {"method": "lora", "settings": {**CPU, **given}}}
    asked = job_request(body)
    assert asked.values["lora"] == {"rank": 4, "rank_pattern": ranks}
    answer = opened.http.post("/v1/fine_tuning/jobs/estimate", json=body)
    assert answer.status_code == 200, answer.text
    assert shlex.quote(f"lora.rank_pattern={json.dumps(ranks)}") in answer.json()["command"]


def test_a_job_that_never_fits_fails_with_the_plans_reason(opened: Opened, file: str) -> None:
    job = create(opened, file, settings={"compute.memory_limit_mb": 1})
    done = until(opened, job.id, lambda found: found.status == "failed")
    assert done.error is not None
    assert "MB" in done.error.message


def test_the_estimate_is_the_plan_and_the_preview_is_what_trains(
    opened: Opened, file: str, tiny_model: Path, tiny_data: Path
) -> None:
    body = {
        "model": "model",
        "training_file": file,
        "veneer": {"method": "lora", "settings": {**CPU, "train.steps": 5}},
    }
    plan = opened.http.post("/v1/fine_tuning/jobs/estimate", json=body).json()
    assert plan["fits"]
    assert plan["plan"]["steps"] == 5
    assert "--method lora" in plan["command"]
    assert "--data rows.jsonl" in plan["command"]
    rows = opened.http.post("/v1/fine_tuning/jobs/preview", json={**body, "first": 0, "count": 20}).json()["rows"]
    encoded = encode_all(
        read_records(tiny_data), from_directory(tiny_model), max_length=None, overlong=Overlong.DROP
    ).examples
    assert len(rows) == 20
    for shown, example in zip(rows, encoded, strict=True):
        trained = example.loss_mask.tolist()
        assert [one["id"] for one in shown["tokens"]] == example.tokens.tolist()
        assert [label != -100 for label in shown["labels"]] == [bool(one) for one in trained]


def test_an_expression_without_an_end_is_refused_and_holds_nobody_up(opened: Opened, file: str) -> None:
    settings = {"lora.target_modules": "(([a-z_.0-9])+)+[A-Z]+$"}
    body = {"model": "model", "training_file": file, "veneer": {"method": "lora", "settings": {**CPU, **settings}}}
    answer = opened.http.post("/v1/fine_tuning/jobs/estimate", json=body)
    assert answer.status_code == 400
    assert "takes more than 2 seconds to match" in answer.json()["error"]["message"]


def test_numbers_of_any_size_are_refused_and_not_failed_on(opened: Opened, file: str) -> None:
    for path in ("/v1/files?limit=", "/v1/fine_tuning/jobs?limit="):
        for number in ("9" * 5_000, "9" * 18, "0", "²", ""):
            assert opened.http.get(f"{path}{number}").status_code == 400, (path, number[:20])
        assert opened.http.get(f"{path}10").status_code == 200
    for path, most in (("/v1/files", 10_000), ("/v1/fine_tuning/jobs", 1_000)):
        assert opened.http.get(f"{path}?limit={most}").status_code == 200
        answer = opened.http.get(f"{path}?limit={most + 1}")
        assert (answer.status_code, answer.json()["error"]["message"]) == (
            400, f"limit must be a whole number from 1 to {most:,}",
        )  # fmt: skip
    body = {"model": "model", "training_file": file}
    for name in ("first", "count"):
        answer = opened.http.post("/v1/fine_tuning/jobs/preview", json={**body, name: 10**30})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    hyper = {"type": "supervised", "supervised": {"hyperparameters": {"batch_size": 10**9}}}
    answer = opened.http.post("/v1/fine_tuning/jobs", json={**body, "method": hyper})
    assert "at most 1,000,000" in answer.json()["error"]["message"]


def test_a_move_says_one_thing_of_jobs_that_wait(opened: Opened, file: str) -> None:
    body = {"model": "model", "training_file": file, "veneer": {"method": "lora", "settings": {"train.steps": 1}}}
    job = opened.http.post("/v1/fine_tuning/jobs", json=body).json()["id"]
    for change, status, param in (
        ({"priority": 5, "before": None}, 400, "priority"),
        ({"before": "ftjob-of-nobody"}, 409, "before"),
    ):
        answer = opened.http.post(f"/v1/fine_tuning/jobs/{job}/move", json=change)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    opened.http.post(f"/v1/fine_tuning/jobs/{job}/cancel")


def test_preferences_are_counted_whatever_ends_lines_in_their_texts(opened: Opened) -> None:
    body = {"prompt": [{"role": "user", "content": "a\u2028b\u0085c\nd"}], "chosen": "1", "rejected": "2"}
    kept = [opened.http.post("/studio/preferences", json=body).json()["kept"] for _ in range(2)]
    assert kept[1] == kept[0] + 1
    assert len(opened.http.get("/studio/preferences").content.split(b"\n")) == kept[1] + 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rejected": "1"}, "the same"),
        ({"prompt": [{"role": "zz", "content": "a"}]}, "zz"),
        ({"chosen": "", "rejected": ""}, "cannot be trained on"),
    ],
)
def test_a_preference_that_cannot_be_trained_on_is_not_kept(opened: Opened, change: dict[str, Any], said: str) -> None:
    before = opened.http.get("/studio/preferences").text
    body = {"prompt": [{"role": "user", "content": "a"}], "chosen": "1", "rejected": "2", **change}
    answer = opened.http.post("/studio/preferences", json=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert opened.http.get("/studio/preferences").text == before


def test_lists_go_on_after_what_they_have_alone_and_in_known_orders_alone(opened: Opened, file: str) -> None:
    job = create(opened, file)
    opened.client.fine_tuning.jobs.cancel(job.id)
    jobs = "/v1/fine_tuning/jobs"
    for path in ("/v1/files", jobs, f"{jobs}/{job.id}/events", f"{jobs}/{job.id}/checkpoints"):
        answer = opened.http.get(path, params={"after": "nope"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "after")
    assert opened.http.get("/v1/files", params={"after": file}).status_code == 200
    answer = opened.http.get("/v1/files", params={"order": "x"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "order")
    newest, oldest = ([one.id for one in opened.client.files.list(order=order)] for order in ("desc", "asc"))
    assert newest == oldest[::-1]


def test_files_are_listed_read_and_deleted(opened: Opened, tiny_data: Path) -> None:
    client = opened.client
    made = client.files.create(file=("rows <b>.jsonl", tiny_data.read_bytes()), purpose="fine-tune")
    assert made.filename == "rows <b>.jsonl"
    assert made.bytes == tiny_data.stat().st_size
    assert made.id in {one.id for one in client.files.list()}
    assert client.files.content(made.id).content == tiny_data.read_bytes()
    wait_for(lambda: client.files.retrieve(made.id).status == "processed")
    assert client.files.delete(made.id).deleted
    with pytest.raises(NotFoundError, match="no such file"):
        client.files.retrieve(made.id)


def test_no_job_is_made_of_a_file_that_cannot_be_read(opened: Opened) -> None:
    broken = opened.client.files.create(file=("bad.jsonl", b"no json\n"), purpose="fine-tune")
    wait_for(lambda: opened.client.files.retrieve(broken.id).status == "error")
    with pytest.raises(BadRequestError, match="training_file: 1 row: 1 with errors"):
        opened.client.fine_tuning.jobs.create(model="model", training_file=broken.id)


def test_a_file_of_another_kind_is_refused(opened: Opened) -> None:
    with pytest.raises(BadRequestError, match="ends with one of"):
        opened.client.files.create(file=("rows.exe", b"x"), purpose="fine-tune")


def preferences() -> list[dict[str, Any]]:
    """Pairs in the form of OpenAI's files for preferences."""
    return [
        {
            "input": {"messages": [{"role": "user", "content": pair["prompt"]}]},
            "preferred_output": [{"role": "assistant", "content": pair["chosen"]}],
            "non_preferred_output": [{"role": "assistant", "content": pair["rejected"]}],
        }
        for pair in pairs(12)
    ]


def labelled() -> list[dict[str, Any]]:
    found = []
    for pair in pairs(8):
        found += [{"prompt": pair["prompt"], "completion": pair[key], "label": key == "chosen"}
                  for key in ("chosen", "rejected")]  # fmt: skip
    return found


def uploaded(opened: Opened, name: str, rows: list[dict[str, Any]]) -> str:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    made = opened.client.files.create(file=(name, content), purpose="fine-tune")
    done = opened.client.files.wait_for_processing(made.id, poll_interval=0.05)
    assert done.status == "processed", done.status_details
    return made.id


DPO: dict[str, Any] = {"beta": 0.3, "batch_size": 4, "n_epochs": "auto"}
"""Hyperparameters of OpenAI's method for preferences."""


@pytest.fixture(scope="module")
def preference_file(opened: Opened) -> str:
    return uploaded(opened, "preferences.jsonl", preferences())


@pytest.fixture(scope="module")
def preferred(opened: Opened, preference_file: str) -> Ended:
    """A job of three steps by OpenAI's method for preferences, with twice the rate, tracked by Weights & Biases."""
    return ended(opened, create(
        opened, preference_file, steps=3, suffix="polite",
        integrations=[{"type": "wandb", "wandb": {"project": "parcels"}}],
        method={"type": "dpo", "dpo": {"hyperparameters": {**DPO, "learning_rate_multiplier": 2}}},
    ))  # fmt: skip


def test_a_job_by_openais_method_dpo_is_answered_with_its_settings(preferred: Ended) -> None:
    method, integrations = preferred.made.method, preferred.made.integrations
    assert method is not None
    assert method.type == "dpo"
    assert method.dpo is not None
    assert method.dpo.hyperparameters is not None
    assert method.dpo.hyperparameters.beta == 0.3
    assert integrations is not None
    assert integrations[0].wandb.project == "parcels"


def test_openais_method_dpo_trains_by_the_objective_dpo(opened: Opened, preferred: Ended) -> None:
    config = lock_of(opened, preferred.job)["config"]
    assert (config["objective"], config["dpo"]["beta"], config["train"]["examples_per_step"]) == ("dpo", 0.3, 4)


def test_a_job_with_the_integration_wandb_is_tracked_in_its_project(opened: Opened, preferred: Ended) -> None:
    assert lock_of(opened, preferred.job)["config"]["tracking"]["project"] == "parcels"
    assert list((opened.studio.root / preferred.job.id / "wandb").glob("offline-run-*"))


def test_a_learning_rate_multiplier_multiplies_the_rate_that_would_be_chosen(
    opened: Opened, preference_file: str, preferred: Ended
) -> None:
    plans = [
        opened.http.post("/v1/fine_tuning/jobs/estimate", json={
            "model": "model", "training_file": preference_file,
            "veneer": {"method": "lora", "settings": {**CPU, "train.steps": 3}},
            "method": {"type": "dpo", "dpo": {"hyperparameters": {**DPO, "learning_rate_multiplier": factor}}},
        }).json()
        for factor in ("auto", 2)
    ]  # fmt: skip
    chosen, doubled = (plan["settings"]["train.learning_rate"] for plan in plans)
    assert doubled == pytest.approx(2 * chosen)
    assert lock_of(opened, preferred.job)["config"]["train"]["learning_rate"] == doubled
    assert "objective=dpo" in plans[1]["command"]
    assert f"train.learning_rate={doubled}" in plans[1]["command"]


def test_an_adapter_of_preferences_answers(opened: Opened, preferred: Ended) -> None:
    assert ask(opened, preferred.model, 3).json()["choices"]


def test_the_first_loss_of_dpo_is_that_of_a_policy_which_is_its_own_reference(opened: Opened, preferred: Ended) -> None:
    events = opened.client.fine_tuning.jobs.list_events(preferred.job.id, limit=100)
    losses = [one.data["train_loss"] for one in events if one.type == "metrics"]  # type: ignore[index]
    assert losses[-1] == pytest.approx(math.log(2), rel=1e-5)  # the newest event is the first


@pytest.mark.parametrize(
    ("objective", "settings", "rows"),
    [
        ("kto", {"kto.beta": 0.2}, labelled()),
        ("orpo", {"orpo.beta": 0.2}, preferences()),
        ("cpo", {"cpo.beta": 0.2}, preferences()),
        ("simpo", {"simpo.gamma": 0.5}, preferences()),
        ("pretraining", {}, [{"text": f"The parcel {number} is late. " * 3} for number in range(12)]),
    ],
)
@pytest.mark.slow
def test_objectives_that_openai_has_no_word_for_stand_under_the_extension(
    opened: Opened, objective: str, settings: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    file = uploaded(opened, f"{objective}.jsonl", rows)
    given = {**CPU, "train.steps": 2, "train.learning_rate": 0.01, **settings}
    extension = {"method": "lora", "objective": objective, "settings": given}
    job = opened.client.fine_tuning.jobs.create(
        model="model", training_file=file, hyperparameters={"batch_size": 4}, extra_body={"veneer": extension}
    )
    assert job.method is None
    assert job.model_extra["veneer"]["objective"] == objective  # type: ignore[index]
    done = until(opened, job.id, lambda found: found.finished_at is not None)
    assert done.status == "succeeded", done.error
    lock = json.loads((opened.studio.root / job.id / "run.lock").read_text("utf-8"))["config"]
    assert lock["objective"] == objective
    assert lock["train"]["examples_per_step"] == 4
    for key, value in settings.items():
        section, _, name = key.partition(".")
        assert lock[section][name] == value


def test_rows_of_another_kind_than_the_objectives_are_said_before_and_fail_the_job(opened: Opened, file: str) -> None:
    job = create(opened, file, method={"type": "dpo"})
    done = until(opened, job.id, lambda found: found.finished_at is not None)
    assert done.status == "failed"
    assert done.error is not None
    assert "no pair of answers" in str(done.error.message)
    assert str(opened.studio.root) not in str(done.error.message)
    assert "rows.jsonl" in str(done.error.message)
    body = {"model": "model", "training_file": file, "method": {"type": "dpo"}, "veneer": {"settings": CPU}}
    shown = opened.http.post("/v1/fine_tuning/jobs/preview", json=body).json()["rows"]
    assert all("no pair of answers is known for the keys" in row["problem"] for row in shown)


def test_a_row_of_the_preview_is_called_by_its_number_and_by_its_line_where_that_differs(opened: Opened) -> None:
    table = b'prompt,completion\na,"1\n2"\nb,"3\n4"\n'
    for name, content, said in (
        ("rows.csv", table, "row 2 (line 4)"),
        ("rows.jsonl", b'{"prompt": "a", "completion": "1"}\n' * 2, "row 2"),
    ):
        made = opened.client.files.create(file=(name, content), purpose="fine-tune")
        opened.client.files.wait_for_processing(made.id, poll_interval=0.1)
        body = {"model": "model", "training_file": made.id, "first": 1, "count": 1}
        shown = opened.http.post("/v1/fine_tuning/jobs/preview", json=body).json()["rows"]
        assert [row["where"] for row in shown] == [said]


def test_the_preview_of_a_pair_has_both_answers_as_they_train(opened: Opened, tiny_model: Path, tmp_path: Path) -> None:
    rows = preferences()
    file = uploaded(opened, "pairs.jsonl", rows)
    body = {"model": "model", "training_file": file, "count": len(rows), "method": {"type": "dpo"},
            "veneer": {"settings": CPU}}  # fmt: skip
    shown = opened.http.post("/v1/fine_tuning/jobs/preview", json=body).json()["rows"]
    assert [row["answer"] for row in shown] == ["chosen", "rejected"] * len(rows)
    trained = pair_rows(tiny_model, write_rows(tmp_path / "pairs.jsonl", rows)).train
    for row, example in zip(shown, trained, strict=True):
        assert [one["id"] for one in row["tokens"]] == example.tokens.tolist()
        assert [one["trained"] for one in row["tokens"]] == [bool(one) for one in example.loss_mask]
    file = uploaded(opened, "labels.jsonl", labelled())
    body = {**body, "training_file": file, "count": 2, "method": None,
            "veneer": {"objective": "kto", "settings": CPU}}  # fmt: skip
    shown = opened.http.post("/v1/fine_tuning/jobs/preview", json=body).json()["rows"]
    assert [row["answer"] for row in shown] == ["desirable", "undesirable"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"method": {"type": "dpo"}, "veneer": {"objective": "orpo"}}, "a job has one objective"),
        ({"method": {"type": "supervised"}, "veneer": {"settings": {"objective": "dpo"}}}, "a job has one objective"),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"gamma": 1}}}}, "hyperparameters of objective dpo"),
        ({"hyperparameters": {"beta": 0.1}}, "hyperparameters of objective sft"),
        ({"hyperparameters": {"batch_size": 2.5}}, "a whole number"),
        ({"method": {"type": "dpo", "supervised": {"hyperparameters": {"n_epochs": 1}}}}, "under the name of its type"),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1}}}, "hyperparameters": {"n_epochs": 2}},
         "under the name of its type"),
        ({"method": {"type": "dpo", "grader": {}}}, "the fields of method are type"),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 1}}},
          "veneer": {"settings": {"dpo.beta": 2}}}, "different values"),
        ({"seed": 1, "veneer": {"settings": {"train.seed": 2}}}, "train.seed"),
        ({"veneer": {"settings": {"train.steps": 3, "train": {"steps": 4}}}}, "train.steps: veneer.settings has two"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p", "entity": "e"}}]}, "integrations has one entry"),
        ({"integrations": "wandb"}, "integrations has one entry"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}],
          "veneer": {"settings": {"track": ["mlflow"]}}}, "track"),
        ({"veneer": {"objective": "dpoo"}}, "did you mean 'dpo'"),
        ({"veneer": {"method": "qlor"}}, "qlora"),
        ({"veneer": {"settings": {"dpo.beta": 1}}}, "set objective: dpo"),
    ],
)  # fmt: skip
def test_contradictions_are_refused_before_anything_is_made(
    opened: Opened, file: str, body: dict[str, Any], said: str
) -> None:
    answer = opened.http.post("/v1/fine_tuning/jobs", json={"model": "model", "training_file": file, **body})
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
