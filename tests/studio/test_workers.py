"""The devices of a studio's workers: there, each one's own, and those that its jobs may name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.servers.studios import CPU, studio
from veneer.errors import ConfigError
from veneer.jobs.worker import worker_lock
from veneer.runtime.posix import lock_patiently
from veneer.studio.workers import worker_devices


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("cards")
@pytest.mark.parametrize(
    ("names", "devices"),
    [
        ((), ()),
        (("cuda",), ("cuda:0",)),
        (("cuda:1", "cuda", "cpu"), ("cuda:1", "cuda:0", "cpu")),
        (("auto", "cuda:1"), ("auto", "cuda:1")),
    ],
)
def test_workers_have_the_devices_by_their_numbers(names: tuple[str, ...], devices: tuple[str, ...]) -> None:
    assert worker_devices(names) == devices


@pytest.mark.usefixtures("cards")
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("cpu", "gpu"), "--worker 'gpu' is unknown; use auto, cpu, cuda or cuda:N"),
        (("cuda:7",), "--worker 'cuda:7': torch sees 2 CUDA devices on this machine"),
        (("cpu", "cpu"), "--worker: cpu is given twice; a device has one worker: leave one of them out"),
        (("cuda", "cpu", "cuda:0"), "--worker: cuda and cuda:0 are the same device, cuda:0"),
        (("auto", "cuda"), "--worker: auto and cuda are the same device, cuda:0"),
    ],
)
def test_a_worker_of_no_device_or_of_anothers_is_refused(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        worker_devices(names)
    assert said in str(caught.value)


def test_a_job_of_a_device_without_a_worker_is_refused_before_it_is_made(
    tmp_path: Path, tiny_model: Path, tiny_data: Path
) -> None:
    with studio(tmp_path / "runs", tiny_model, devices=("cpu",)) as opened:
        file = opened.client.files.create(file=tiny_data, purpose="fine-tune").id

        def asked(device: str, route: str = "") -> tuple[int, str]:
            settings = {**CPU, "train.steps": 1, "compute.device": device}
            body = {"model": "model", "training_file": file, "veneer": {"method": "lora", "settings": settings}}
            answer = opened.http.post(f"/v1/fine_tuning/jobs{route}", json=body)
            return answer.status_code, answer.text

        for route in ("", "/estimate"):
            status, said = asked("cuda:1", route)
            assert status == 400
            assert "compute.device 'cuda:1': this studio has no worker for it; its devices are cpu" in said
            assert "--worker cuda:1" in said
        assert opened.studio.queue.jobs() == []
        for device in ("cpu", "auto"):
            assert asked(device)[0] == 200
        # One that somebody has started beside the studio will take it.
        with worker_lock(opened.studio.root, "cuda:1").open("w") as file_of_lock:
            lock_patiently(file_of_lock)
            assert asked("cuda:1")[0] == 200
