"""Adapters from a folder: by name, in memory by use, exchanged under load, and never one in another's place."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI
from safetensors.torch import load_file, save_file

from helpers.servers.served import BASE
from veneer.adapters.adapter import remove
from veneer.adapters.beside import load_beside
from veneer.adapters.files.store import CONFIG_FILE, WEIGHTS_FILE, save_adapter
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.assistant.assistant import Assistant
from veneer.errors import AdapterError, ConfigError
from veneer.events import ignore
from veneer.generation.batch import generate
from veneer.generation.runner import LoadedAdapter
from veneer.generation.sampling import Sampling
from veneer.http_server.guard import Access
from veneer.model.decoder import CausalLM
from veneer.serving.build import build_service, open_server, server_of
from veneer.serving.request import ServeRequest
from veneer.serving.served_adapters.catalogue import GenerationConflict, UnknownAdapter
from veneer.serving.served_adapters.folder import AdapterFolder, adapter_names
from veneer.serving.served_adapters.loading import adapter_loader

NAMES = ("red", "green", "blue")
WAIT = 60.0


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory, assistant: Assistant) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    model = assistant.model
    assert isinstance(model, CausalLM)
    for seed, name in enumerate(NAMES):
        adapter = inject(model, LoraSpec(rank=2 + seed, alpha=6.0))
        for parameter in adapter.parameters():
            parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(seed))
        (folder / name).mkdir()
        save_adapter(folder / name, adapter, base="owner/base", revision="main")
        remove(model, adapter)
    model.requires_grad_(False).eval()
    return folder


@pytest.fixture
def folder(originals: Path, tmp_path: Path) -> Path:
    return shutil.copytree(originals, tmp_path / "adapters")


@pytest.fixture
def catalogue(assistant: Assistant, folder: Path) -> Iterator[AdapterFolder]:
    found = AdapterFolder(folder, adapter_loader(assistant.model), 10**9)
    yield found
    found.close()


def largest(assistant: Assistant, folder: Path) -> int:
    """Bytes of the largest of the adapters in memory."""
    one = load_beside(assistant.model, folder / "blue")[1]
    return sum(tensor.nbytes for tensor in one.tensors().values())


def taken(catalogue: AdapterFolder, name: str) -> bytes:
    """The key of an adapter, once it is in memory."""
    ready = threading.Event()
    lease = catalogue.lease(name, ready.set)
    assert lease.adapter is not None or ready.wait(WAIT)
    try:
        if lease.error is not None:
            raise lease.error
        assert lease.adapter is not None
        return lease.adapter.key
    finally:
        lease.release()
        lease.release()


def test_what_is_wrong_with_an_adapter_is_told_by_its_name_in_the_same_words(
    assistant: Assistant, catalogue: AdapterFolder, folder: Path
) -> None:
    """Clients are told it, who need not know where the server has its files."""
    file = folder / "red" / WEIGHTS_FILE
    save_file({name: 1e25 * tensor for name, tensor in load_file(file).items()}, file)
    (folder / "blue" / CONFIG_FILE).write_text("{")
    messages = []
    for name in ("red", "red", "blue"):
        with pytest.raises(AdapterError) as caught:
            catalogue.load(name, None)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"red/{WEIGHTS_FILE} cannot be used")
    assert f"blue/{CONFIG_FILE}" in messages[2]
    assert not any(str(folder) in message for message in messages)


def test_many_requests_at_once_get_their_own_adapters_answers(assistant: Assistant, folder: Path) -> None:
    prompts = ["The parcel", "The parcel is", "user: late"]
    expected = {}
    for name in (BASE, *NAMES):
        model = assistant.model if name == BASE else load_beside(assistant.model, folder / name)[0]
        for prompt in prompts:
            tokens = assistant.tokenizer.encode(prompt)
            (answer,) = generate(model, [tokens], sampling=Sampling(max_new_tokens=8), stop_ids=assistant.stop_ids)
            expected[name, prompt] = assistant.tokenizer.decode(answer)
    assert len(set(expected.values())) > 8
    catalogue = AdapterFolder(folder, adapter_loader(assistant.model), largest(assistant, folder))
    service = build_service(assistant, BASE, catalogue, cache_bytes=10**8)
    with server_of(service, Access()) as server, OpenAI(base_url=f"{server.url}/v1", api_key="-") as client:

        def ask(case: tuple[str, str]) -> str:
            answer = client.completions.create(model=case[0], prompt=case[1], max_tokens=8, temperature=0)
            return answer.choices[0].text

        cases = list(expected) * 8
        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(ask, cases))
        assert found == [expected[case] for case in cases]
        assert [one.id for one in client.models.list()] == [BASE, "blue", "green", "red"]


def test_the_fingerprint_says_which_base_and_which_version_of_an_adapter_answered(
    assistant: Assistant, folder: Path
) -> None:
    catalogue = AdapterFolder(folder, adapter_loader(assistant.model), 10**9)
    service = build_service(assistant, BASE, catalogue, cache_bytes=10**8)
    with server_of(service, Access()) as server, OpenAI(base_url=f"{server.url}/v1", api_key="-") as client:

        def prints(model: str) -> set[str | None]:
            """Those of a whole answer, and of a stream's chunks; one where all is well."""
            settings = {"model": model, "prompt": "The", "max_tokens": 2}
            whole = client.completions.create(**settings, n=2)  # type: ignore[call-overload]
            messages = [{"role": "user", "content": "late"}]
            chat = client.chat.completions.create(model=model, messages=messages, stream=True, max_tokens=2)  # type: ignore[call-overload]
            return {whole.system_fingerprint, *(chunk.system_fingerprint for chunk in chat)}

        base, red, green = prints(BASE), prints("red"), prints("green")
        assert [len(found) for found in (base, red, green)] == [1, 1, 1]
        [own] = base
        assert own is not None
        assert all(str(found).startswith(f"{own}-") for found in red | green)
        assert red != green
        shutil.copytree(folder / "green", folder / "red", dirs_exist_ok=True)
        catalogue.load("red", 1)
        assert prints("red") == green


def test_memory_holds_what_was_used_last(assistant: Assistant, folder: Path) -> None:
    budget = largest(assistant, folder)
    catalogue = AdapterFolder(folder, adapter_loader(assistant.model), budget)
    for name in (*NAMES, *NAMES):
        taken(catalogue, name)
    assert catalogue.evictions > 0
    catalogue.close()


def test_who_finds_no_room_beside_those_in_use_waits_until_there_is(assistant: Assistant, folder: Path) -> None:
    budget = largest(assistant, folder)
    catalogue = AdapterFolder(folder, adapter_loader(assistant.model), budget)
    first, second, third = threading.Event(), threading.Event(), threading.Event()
    held = catalogue.lease("blue", first.set)
    assert first.wait(WAIT)
    gone, waiting = catalogue.lease("green", second.set), catalogue.lease("red", third.set)
    gone.release()
    assert not third.wait(0.2)
    held.release()
    assert third.wait(WAIT)
    assert waiting.adapter is not None
    assert not second.is_set(), "nobody waits for it any more"
    waiting.release()
    catalogue.close()


def test_who_asks_for_one_in_memory_waits_behind_whoever_has_waited_long_for_room(
    assistant: Assistant, folder: Path
) -> None:
    """Else users who never rest keep the first adapter in memory, and nobody ever gets the second one."""
    loader, budget = adapter_loader(assistant.model), largest(assistant, folder)
    catalogue = AdapterFolder(folder, loader, budget, patience=0.0)
    ready = {name: threading.Event() for name in ("first", "waits", "later", "gone")}
    first = catalogue.lease("blue", ready["first"].set)
    assert ready["first"].wait(WAIT)
    beside = catalogue.lease("blue", lambda: pytest.fail("it is in memory, and nobody waits"))
    waits = catalogue.lease("green", ready["waits"].set)
    later, gone = catalogue.lease("blue", ready["later"].set), catalogue.lease("blue", ready["gone"].set)
    assert first.adapter is beside.adapter is not None, "whoever has a lease keeps it"
    assert waits.adapter is later.adapter is gone.adapter is None
    gone.release()
    first.release()
    beside.release()
    assert ready["waits"].wait(WAIT)
    assert waits.adapter is not None
    assert later.adapter is None
    waits.release()
    assert ready["later"].wait(WAIT)
    assert later.adapter is not None
    assert not ready["gone"].is_set()
    later.release()
    assert catalogue.evictions == 2
    catalogue.close()


def test_who_asks_for_one_in_memory_gets_it_where_nobody_has_waited_long_or_it_is_pinned(
    assistant: Assistant, folder: Path
) -> None:
    loader, budget = adapter_loader(assistant.model), largest(assistant, folder)
    for pinned, patience in (([], 600.0), (["blue"], 0.0)):
        catalogue = AdapterFolder(folder, loader, budget * (1 + len(pinned)), pinned, patience=patience)
        catalogue.load_pinned()
        ready, waited = threading.Event(), threading.Event()
        held = catalogue.lease("red" if pinned else "blue", ready.set)
        assert ready.wait(WAIT)
        waits = catalogue.lease("green", waited.set)
        own = catalogue.lease("blue", lambda: pytest.fail("it is in memory"))
        assert own.adapter is not None
        own.release()
        held.release()
        assert waited.wait(WAIT)
        waits.release()
        catalogue.close()


def test_requests_of_few_adapters_that_never_rest_leave_nobody_out(assistant: Assistant, folder: Path) -> None:
    """Whoever is done asks again at once, by two for each adapter, of which memory holds one."""
    catalogue = AdapterFolder(folder, adapter_loader(assistant.model), largest(assistant, folder), patience=0.0)
    served = {name: threading.Event() for name in NAMES}

    def use(name: str) -> None:
        while not all(event.is_set() for event in served.values()):
            ready = threading.Event()
            lease = catalogue.lease(name, ready.set)
            assert lease.adapter is not None or ready.wait(WAIT)
            assert lease.adapter is not None
            served[name].set()
            lease.release()

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(use, name) for name in (*NAMES, *NAMES)]:
            done.result()
    catalogue.close()


def test_an_adapter_larger_than_all_that_there_is_is_refused(assistant: Assistant, folder: Path) -> None:
    catalogue = AdapterFolder(folder, adapter_loader(assistant.model), 100)
    with pytest.raises(AdapterError, match=r"red: needs .* bytes, but all adapters together have 100; give more"):
        taken(catalogue, "red")
    with pytest.raises(AdapterError, match="together have 100"):
        catalogue.load("red", None)
    catalogue.close()


def test_pinned_adapters_are_there_from_the_start_and_stay(assistant: Assistant, folder: Path) -> None:
    loader, budget = adapter_loader(assistant.model), largest(assistant, folder)
    catalogue = AdapterFolder(folder, loader, 2 * budget, ["green"])
    catalogue.load_pinned()
    for name in ("red", "blue", "red"):
        taken(catalogue, name)
        lease = catalogue.lease("green", lambda: pytest.fail("it is in memory"))
        assert lease.adapter is not None
        lease.release()
    shutil.copytree(folder / "blue", folder / "green", dirs_exist_ok=True)
    catalogue.load("green", 1)
    lease = catalogue.lease("green", lambda: pytest.fail("it is in memory"))
    assert lease.adapter is not None
    assert lease.adapter.key == taken(catalogue, "blue")
    lease.release()
    catalogue.close()
    with pytest.raises(ConfigError, match=r"'gren'.*green"):
        AdapterFolder(folder, loader, budget, ["gren"])
    catalogue = AdapterFolder(folder, loader, budget, NAMES)
    with pytest.raises(AdapterError, match="of which pinned ones take"):
        catalogue.load_pinned()


@pytest.mark.scenario(41)
def test_pins_without_a_folder_of_adapters_are_refused() -> None:
    with pytest.raises(ConfigError, match="--pin red: there are no adapters"):
        open_server(ServeRequest(model="a model that is not looked for", pinned=("red",)), ignore)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"pinned": ("rod", "gren")}, r"'gren'.*green.*\n.*'rod'.*red"), ({"name": "red"}, "called 'red'")],
)
def test_names_that_do_not_fit_the_folder_are_refused_before_the_base_is_loaded(
    folder: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        open_server(ServeRequest(model="a model that is not looked for", adapters=folder, **given), ignore)


def test_a_reload_has_the_new_bytes_and_an_old_generation_is_a_conflict(catalogue: AdapterFolder, folder: Path) -> None:
    before = taken(catalogue, "red")
    held = catalogue.lease("red", lambda: None)
    shutil.copytree(folder / "green", folder / "red", dirs_exist_ok=True)
    assert catalogue.load("red", 1).generation == 2
    assert taken(catalogue, "red") == taken(catalogue, "green") != before
    assert held.adapter is not None
    assert held.adapter.key == before
    held.release()
    with pytest.raises(GenerationConflict, match="generation 2 is loaded, but 1"):
        catalogue.load("red", 1)


@pytest.mark.scenario(41)
def test_a_failed_reload_leaves_the_old_version(catalogue: AdapterFolder, folder: Path) -> None:
    before = taken(catalogue, "red")
    (folder / "red" / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(AdapterError, match=r"red.*adapter_model\.safetensors"):
        catalogue.load("red", None)
    assert taken(catalogue, "red") == before
    assert {one.name: one.generation for one in catalogue.versions()}["red"] == 1


@pytest.mark.scenario(41)
def test_an_exchanged_file_is_not_taken_for_the_version_that_was_loaded(assistant: Assistant, folder: Path) -> None:
    catalogue = AdapterFolder(folder, adapter_loader(assistant.model), largest(assistant, folder))
    taken(catalogue, "red")
    taken(catalogue, "blue")
    shutil.copytree(folder / "green", folder / "red", dirs_exist_ok=True)
    with pytest.raises(AdapterError, match="changed since it was loaded"):
        taken(catalogue, "red")
    catalogue.close()


@pytest.mark.scenario(41)
def test_a_file_that_is_being_written_is_said_to_change_and_not_to_be_damaged(
    assistant: Assistant, folder: Path
) -> None:
    """Its half is read, and it is whole before the reader has said so."""
    file, loader = folder / "red" / "adapter_model.safetensors", adapter_loader(assistant.model)
    whole = file.read_bytes()

    def load(version: Path) -> LoadedAdapter:
        try:
            return loader(version)
        finally:
            file.write_bytes(whole)

    file.write_bytes(whole[: len(whole) // 2])
    catalogue = AdapterFolder(folder, load, 10**9)
    with pytest.raises(AdapterError, match="changed while they were read; load it again"):
        taken(catalogue, "red")
    catalogue.load("red", None)
    taken(catalogue, "red")
    catalogue.close()


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "--adapter-memory"),
        (MemoryError(), "--adapter-memory"),
        (KeyError("lora_A"), "red: reading it has failed; the log says where"),
    ],
)
def test_who_waits_is_told_of_any_failure_and_the_next_adapter_is_read(
    assistant: Assistant, folder: Path, problem: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(
        "veneer.serving.served_adapters.folder.log.error", lambda message, *values: logged.append(message % values)
    )
    loader, problems = adapter_loader(assistant.model), [problem]

    def load(own: Path) -> LoadedAdapter:
        if problems:
            raise problems.pop()
        return loader(own)

    catalogue = AdapterFolder(folder, load, 10**9)
    told = threading.Event()
    first = catalogue.lease("red", told.set)
    assert told.wait(WAIT)
    assert first.adapter is None
    assert first.error is not None
    assert said in str(first.error)
    first.release()
    assert taken(catalogue, "green") != taken(catalogue, "red")
    catalogue.close()
    assert [one.split()[0] for one in logged] == (["KeyError"] if isinstance(problem, KeyError) else [])


def test_all_adapters_are_read_on_one_thread(assistant: Assistant, folder: Path) -> None:
    # The allocator keeps what a thread has freed for that thread.
    readers: set[int] = set()
    load = adapter_loader(assistant.model)

    def watched(own: Path) -> LoadedAdapter:
        readers.add(threading.get_ident())
        return load(own)

    found = AdapterFolder(folder, watched, 10**9, pinned=["red"])
    found.load_pinned()
    ready = threading.Event()
    lease = found.lease("green", ready.set)
    with ThreadPoolExecutor(4) as callers:
        versions = list(callers.map(lambda name: found.load(name, None), [*NAMES, *NAMES]))
    assert ready.wait(WAIT)
    lease.release()
    assert sorted(version.generation for version in versions) == [2, 2, 2, 3, 3, 3]
    assert len(readers) == 1
    assert threading.get_ident() not in readers
    found.close()
    with pytest.raises(AdapterError, match="green: the server is shutting down"):
        found.load("green", None)


def test_an_unloaded_adapter_is_gone_and_comes_back_by_its_name_alone(catalogue: AdapterFolder) -> None:
    catalogue.unload("red")
    with pytest.raises(UnknownAdapter, match="no adapter of that name"):
        catalogue.lease("red", lambda: None)
    assert catalogue.load("red", 0).generation == 2, "generation 1 was another version"
    with pytest.raises(GenerationConflict, match="generation 2 is loaded, but 1"):
        catalogue.load("red", 1)
    for name in ("../red", "red/..", "", ".", "/etc", "nobody"):
        with pytest.raises(UnknownAdapter, match="no adapter of that name"):
            catalogue.load(name, None)


def test_folders_that_are_none_are_refused(tmp_path: Path, folder: Path) -> None:
    for path, message in (
        (tmp_path / "no", "no such folder"),
        (tmp_path, "no folder in it"),
        (folder / "red", "itself"),
    ):
        with pytest.raises(ConfigError, match=message):
            adapter_names(path)


@pytest.mark.parametrize("name", ["_x", "-x", ".cache", "ü", "a" * 129, "my adapter"])
def test_the_whole_rule_of_names_is_said_where_a_folder_breaks_it(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "adapter_config.json").write_text("{}")
    with pytest.raises(
        ConfigError, match=r"begins with a letter \(A to Z, a to z\).*at most 128 characters; rename"
    ) as caught:
        adapter_names(tmp_path)
    assert repr(name) in str(caught.value)


def test_points_of_a_sweep_are_served_by_their_names(tmp_path: Path) -> None:
    name = "01-rank=4,learning_rate=1e+30"
    (tmp_path / name).mkdir()
    (tmp_path / name / "adapter_config.json").write_text("{}")
    assert adapter_names(tmp_path) == [name]


def test_adapters_that_come_later_are_taken_up(tmp_path: Path, assistant: Assistant, folder: Path) -> None:
    found = AdapterFolder(tmp_path, adapter_loader(assistant.model), 10**9)
    assert found.versions() == []
    (tmp_path / "late").symlink_to(folder / "red")
    found.take_up("late")
    assert [one.name for one in found.versions()] == ["late"]
    for name in ("../late", "nobody", ""):
        with pytest.raises(UnknownAdapter, match="no adapter of that name"):
            found.take_up(name)
    found.close()


def test_an_adapter_that_is_taken_up_again_is_another_version_only_where_its_files_are(
    catalogue: AdapterFolder, folder: Path
) -> None:
    before = taken(catalogue, "red")
    catalogue.take_up("red")
    assert {one.name: one.generation for one in catalogue.versions()}["red"] == 1
    held = catalogue.lease("red", lambda: None)
    shutil.copytree(folder / "green", folder / "red", dirs_exist_ok=True)
    catalogue.take_up("red")
    assert {one.name: one.generation for one in catalogue.versions()}["red"] == 2
    assert taken(catalogue, "red") == taken(catalogue, "green") != before
    assert held.adapter is not None
    assert held.adapter.key == before
    held.release()
