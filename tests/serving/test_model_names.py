"""The names of requests: the base, the adapters, and never the base for a name that nobody has."""

from __future__ import annotations

import pytest

from helpers.servers.served import FixedAdapters
from veneer.http_server.errors import ApiError
from veneer.serving.model_names import ModelNames
from veneer.serving.served_adapters.catalogue import AdapterVersion


def test_a_name_means_the_base_or_one_adapter() -> None:
    names = ModelNames("base", FixedAdapters({"red": None, "blue": None}))  # type: ignore[dict-item]
    assert names.all() == ("base", "blue", "red")
    assert names.adapter_of("base") is None
    assert names.adapter_of("red") == "red"
    assert ModelNames("base").all() == ("base",)


def test_a_request_for_one_adapter_does_not_go_through_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = FixedAdapters({f"adapter-{number}": None for number in range(1000)})  # type: ignore[misc]
    monkeypatch.setattr(catalogue, "versions", lambda: pytest.fail("all adapters were listed"))
    names = ModelNames("base", catalogue)
    assert names.adapter_of("adapter-7") == "adapter-7"
    assert names.adapter("adapter-7") == AdapterVersion("adapter-7", 1)


@pytest.mark.parametrize("name", ["rde", "", "Base", "red ", "x" * 10**5])
def test_an_unknown_name_is_404_and_never_the_base(name: str) -> None:
    with pytest.raises(ApiError) as refused:
        ModelNames("base", FixedAdapters({"red": None})).adapter_of(name)  # type: ignore[dict-item]
    assert (refused.value.status, refused.value.code) == (404, "model_not_found")
    assert len(refused.value.message) < 300


def test_no_name_is_400() -> None:
    with pytest.raises(ApiError) as refused:
        ModelNames("base").adapter_of(None)
    assert refused.value.status == 400
