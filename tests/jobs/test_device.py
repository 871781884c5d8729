"""Which devices' workers carry out which jobs."""

from __future__ import annotations

import pytest

from veneer.jobs.device import serves


@pytest.mark.parametrize(
    ("device", "wanted"),
    [
        *((device, "auto") for device in ("auto", "cpu", "cuda", "cuda:0", "cuda:1")),
        *(("auto", wanted) for wanted in ("cpu", "cuda", "cuda:1")),
        ("cpu", "cpu"),
        *((device, "cuda") for device in ("cuda", "cuda:0", "cuda:1")),
        ("cuda", "cuda:0"),
        ("cuda:0", "cuda:0"),
    ],
)
def test_a_worker_carries_out_what_its_device_is_a_name_for(device: str, wanted: str) -> None:
    assert serves(device, wanted)


@pytest.mark.parametrize(
    ("device", "wanted"),
    [("cpu", "cuda"), ("cpu", "cuda:0"), ("cuda", "cpu"), ("cuda:0", "cpu"), ("cuda", "cuda:1"), ("cuda:1", "cuda:0"),
     ("cuda:1", "cuda:11")],
)  # fmt: skip
def test_a_worker_carries_out_nothing_of_another_device(device: str, wanted: str) -> None:
    assert not serves(device, wanted)
