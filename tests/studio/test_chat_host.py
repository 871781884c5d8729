"""One base in memory, and beside it each run's own adapter as its files are now."""

from __future__ import annotations

import shutil
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import NotFoundError

from helpers.models.tiny import rows, run_config, write_model, write_rows
from helpers.servers.studios import Opened, studio
from veneer.adapters.files.store import WEIGHTS_FILE
from veneer.assistant.assistant import Assistant
from veneer.assistant.load import load_assistant
from veneer.assistant.request import AssistantRequest
from veneer.config import ComputeSection
from veneer.enums import Method
from veneer.events import Subscriber, ignore
from veneer.model.language import LanguageModel
from veneer.serving.build import open_server
from veneer.serving.request import ServeRequest
from veneer.tracked_run import train_tracked

QUESTION = {"messages": [{"role": "user", "content": "0: parcel?"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> list[Path]:
    """The folders of three runs on one base, with different adapters."""
    root = tmp_path_factory.mktemp("trained")
    file = write_rows(root / "rows.jsonl", rows(4))
    folders = [root / f"seed-{seed}" for seed in range(3)]
    for seed, folder in enumerate(folders):
        train_tracked(run_config(tiny_model, file, folder, "train.steps=1", "lora.rank=2", f"train.seed={seed}"))
    assert len({(folder / WEIGHTS_FILE).read_bytes() for folder in folders}) == 3
    return folders


@pytest.fixture
def opened(tmp_path: Path, tiny_model: Path, trained: list[Path]) -> Iterator[Opened]:
    runs = tmp_path / "runs"
    shutil.copytree(trained[0], runs / "team" / "a")
    shutil.copytree(trained[1], runs / "team-a")
    with studio(runs, tiny_model) as found:
        yield found


@pytest.fixture(scope="module")
def prints(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, trained: list[Path]) -> list[str]:
    """What says of an answer that the adapter of each of those runs gave it."""
    runs = tmp_path_factory.mktemp("prints") / "runs"
    for folder in trained:
        shutil.copytree(folder, runs / folder.name)
    with studio(runs, tiny_model) as found:
        return [answering(found, folder.name) for folder in trained]


def answering(opened: Opened, model: str, **more: object) -> str:
    answer = opened.http.post("/v1/chat/completions", json={"model": model, **QUESTION, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return str(found["system_fingerprint"])


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with runs of which one has quantised the base."""
    root = tmp_path_factory.mktemp("forms")
    file = write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows(4))
    for method in ("lora", "qlora"):
        train_tracked(run_config(tiny_model, file, root / method, "train.steps=1", f"method={method}"))
    return root


def served_alone(folder: Path, model: Path, adapter: str | None, method: Method) -> str:
    """What `veneer serve` says of an answer of a base, or of the only adapter beside it."""
    adapters = folder / adapter if adapter else None
    compute = ComputeSection(device="cpu", dtype="float32")
    request = ServeRequest(model=str(model), adapters=adapters, method=method, compute=compute, port=0)
    server, names = open_server(request, ignore)
    with server, httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
        answer = http.post("/v1/chat/completions", json={"model": names[-1], **QUESTION})
        return str(answer.json()["system_fingerprint"])


def test_an_adapter_answers_over_the_base_as_its_run_held_it_and_so_does_the_base_beside_it(
    tmp_path: Path, tiny_model: Path, forms: Path
) -> None:
    for method in ("lora", "qlora"):
        shutil.copytree(forms / method, tmp_path / method / method)
    with studio(forms, tiny_model) as found:
        for method in ("lora", "qlora", "lora"):
            assert answering(found, method) == served_alone(tmp_path, tiny_model, method, Method(method))
        plain, quantised = (served_alone(tmp_path, tiny_model, None, one) for one in (Method.LORA, Method.QLORA))
        assert plain != quantised
        assert answering(found, "model") == plain
        assert answering(found, "model", veneer={"held_as": "qlora"}) == quantised
        assert answering(found, "model", veneer={"held_as": "lora"}) == plain
        answering(found, "qlora-step-1")


def test_a_model_is_told_by_its_name_and_a_wrong_name_from_those_of_adapters_too(tiny_model: Path, forms: Path) -> None:
    with studio(forms, tiny_model) as found:
        for one in found.client.models.list():
            assert found.client.models.retrieve(one.id) == one
        for ask in (
            lambda: found.client.models.retrieve("qlor"),
            lambda: found.client.chat.completions.create(model="qlor", messages=[{"role": "user", "content": "a"}]),
        ):
            with pytest.raises(NotFoundError, match=r"no model 'qlor' \(did you mean 'qlora'\?\).* the 3 "):
                ask()


def test_the_form_of_the_base_is_no_reason_to_load_it_anew_where_it_is_the_same(
    tmp_path: Path, tiny_model: Path, forms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path | None] = []

    def watched(request: AssistantRequest, emit: Subscriber) -> Assistant:
        loaded.append(request.held_as)
        return load_assistant(request, emit)

    monkeypatch.setattr("veneer.studio.chat_host.load_assistant", watched)
    with studio(forms, tiny_model) as found:
        answering(found, "model")
        answering(found, "lora")
        answering(found, "qlora")
        answering(found, "model", veneer={"held_as": "qlora"})
    assert loaded == [None, forms / "qlora"]


@pytest.mark.parametrize(
    ("model", "extension", "said"),
    [
        ("lora", {"held_as": "qlora"}, "must be a base"),
        ("model", {"held_as": "nothing"}, "must be an adapter"),
        ("model", {"held_as": 3}, "must be the name of an adapter"),
        ("model", {"method": "qlora"}, "only the field held_as"),
        ("model", "qlora", "only the field held_as"),
    ],
)
def test_a_form_that_cannot_be_had_is_refused(
    forms: Path, tiny_model: Path, model: str, extension: object, said: str
) -> None:
    with studio(forms, tiny_model) as found:
        answer = found.http.post("/v1/chat/completions", json={"model": model, **QUESTION, "veneer": extension})
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def test_runs_whose_names_are_alike_answer_each_with_its_own_adapter(opened: Opened, prints: list[str]) -> None:
    names = [one.id for one in opened.client.models.list() if one.id != "model"]
    assert len(names) == 2
    (nested,) = set(names) - {"team-a"}
    told = {run: opened.http.get(f"/studio/run?name={run}").json()["adapter"] for run in ("team/a", "team-a")}
    assert told == {"team/a": nested, "team-a": "team-a"}
    assert [answering(opened, nested), answering(opened, "team-a")] == prints[:2]
    made = opened.http.post("/studio/exports", json={"run": "team-a", "to": "peft"}).json()
    assert made["veneer"]["of"] == "team-a"
    made = opened.http.post("/studio/exports", json={"run": nested, "to": "peft"}).json()
    assert made["veneer"]["of"] == "team/a"


def test_a_run_that_is_trained_anew_in_its_place_changes_what_answers(
    opened: Opened, prints: list[str], trained: list[Path]
) -> None:
    assert answering(opened, "team-a") == prints[1]
    shutil.rmtree(opened.studio.root / "team-a")
    shutil.copytree(trained[2], opened.studio.root / "team-a")
    opened.studio.watcher.look()
    assert answering(opened, "team-a") == prints[2]


def test_a_folder_of_runs_that_was_moved_or_copied_answers_with_its_own_adapters(
    opened: Opened, prints: list[str], trained: list[Path], tmp_path: Path, tiny_model: Path
) -> None:
    answering(opened, "team-a")
    copied = shutil.copytree(opened.studio.root, tmp_path / "copied", symlinks=True)
    shutil.rmtree(copied / "team-a")
    shutil.copytree(trained[2], copied / "team-a")
    with studio(copied, tiny_model) as found:
        assert answering(found, "team-a") == prints[2]
    moved = shutil.move(copied, tmp_path / "moved")
    with studio(moved, tiny_model) as found:
        assert answering(found, "team-a") == prints[2]
    assert answering(opened, "team-a") == prints[1]


def test_the_base_in_memory_is_gone_before_another_one_is_loaded(
    tmp_path: Path, tiny_model: Path, trained: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_model(tmp_path / "other", seed=1)
    shutil.copytree(trained[0], tmp_path / "runs" / "one")
    models: list[weakref.ref[LanguageModel]] = []
    left: list[int] = []

    def watched(request: AssistantRequest, emit: Subscriber) -> Assistant:
        left.append(sum(model() is not None for model in models))
        found = load_assistant(request, emit)
        models.append(weakref.ref(found.model))
        return found

    monkeypatch.setattr("veneer.studio.chat_host.load_assistant", watched)
    with studio(tmp_path / "runs", tiny_model, other) as found:
        for name in ("model", "one", "other", "one"):
            answering(found, name)
    assert len(models) == 3
    assert left == [0, 0, 0]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("veneer-adapters")]


def test_two_bases_that_are_asked_for_at_once_answer_every_request(tmp_path: Path, tiny_model: Path) -> None:
    """The one in memory is exchanged when its requests are answered, streams too, and nobody is refused."""
    other = write_model(tmp_path / "other", seed=1)

    def asked(opened: Opened, number: int) -> str:
        body = {"model": ("model", "other")[number % 2], **QUESTION, "stream": number % 3 == 0}
        answer = opened.http.post("/v1/chat/completions", json=body)
        return f"{answer.status_code} {answer.text}"

    with studio(tmp_path / "runs", tiny_model, other) as found, ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda number: asked(found, number), range(12)))
    assert [one for one in answers if not one.startswith("200") or "error" in one] == []
