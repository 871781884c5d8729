"""Decoded weights are kept by all processes or by none, and are given back where there is no memory for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from veneer.events import Event, Level, Note
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM
from veneer.processes.group import Alone
from veneer.quant.four_bit import QuantLinear
from veneer.quant.packed import PackedLinear
from veneer.training.memory_use.kept_weights import give_back_decoded, keeping_decoded

ROOM = 10**9


def quantised(folder: Path) -> CausalLM:
    return load_model(open_checkpoint(folder), Loading(form=WeightForm.QUANTIZED, dtype=torch.float32))


def keeping(model: CausalLM) -> set[bool]:
    return {layer.keeps_decoded for layer in model.modules() if isinstance(layer, PackedLinear)}


def warnings(said: list[Event]) -> list[str]:
    return [event.message for event in said if isinstance(event, Note) and event.level is Level.WARNING]


def test_they_are_kept_within_the_block_and_given_back_once(tiny_model: Path) -> None:
    model, said = quantised(tiny_model), list[Event]()
    with keeping_decoded(model, ROOM, Alone(), said.append):
        assert keeping(model) == {True}
    assert keeping(model) == {False}
    with keeping_decoded(model, ROOM, Alone(), said.append):
        assert said == []
        assert give_back_decoded(model, said.append)
        assert keeping(model) == {False}
        assert warnings(said) == ["the memory is full: quantised weights are decoded at each use from here on"]
        assert not give_back_decoded(model, said.append)
        assert len(said) == 1
    with keeping_decoded(model, 0, Alone(), said.append):
        assert keeping(model) == {False}
    assert len(said) == 1


def test_without_memory_to_decode_them_none_is_kept(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, said, decoded = quantised(tiny_model), list[Event](), list[Tensor]()
    whole = QuantLinear.decode

    def decode(layer: QuantLinear, dtype: torch.dtype, out: Tensor | None) -> Tensor:
        if len(decoded) == 3:
            torch.empty(1 << 58)
        decoded.append(whole(layer, dtype, out))
        return decoded[-1]

    monkeypatch.setattr(QuantLinear, "decode", decode)
    with keeping_decoded(model, ROOM, Alone(), said.append):
        assert len(decoded) == 3
        assert keeping(model) == {False}
        assert len(warnings(said)) == 1


def test_another_error_is_no_want_of_memory(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> Tensor:
        raise RuntimeError("a kernel failed")

    model = quantised(tiny_model)
    monkeypatch.setattr(QuantLinear, "decode", broken)
    with pytest.raises(RuntimeError, match="a kernel failed"), keeping_decoded(model, ROOM, Alone(), pytest.fail):
        pytest.fail("the block began")


class BesideOneWithout(Alone):
    """A group whose other process keeps none."""

    def gather(self, values: Tensor) -> Tensor:
        return torch.stack([values, torch.zeros_like(values)])


def test_none_is_kept_where_another_process_has_no_memory_for_them(tiny_model: Path) -> None:
    model, said = quantised(tiny_model), list[Event]()
    with keeping_decoded(model, ROOM, BesideOneWithout(), said.append):
        assert keeping(model) == {False}
        assert len(warnings(said)) == 1


def test_an_error_of_the_block_comes_through(tiny_model: Path) -> None:
    model = quantised(tiny_model)
    with pytest.raises(MemoryError), keeping_decoded(model, ROOM, Alone(), pytest.fail):
        raise MemoryError
    assert keeping(model) == {False}
